"""Networks × explainers × metrics over images: the comparison that the papers' tables are made of."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import torch
from rich.console import Console
from torch import Tensor, nn

from lightning_saliency.data.annotations import AnnotationFormat
from lightning_saliency.data.boxes import BoxedImages, read_annotations, read_class_indices
from lightning_saliency.networks import build_network, load_weights
from lightning_saliency.pictures.tensors import IMAGENET_NORMALIZATION
from lightning_saliency.studies.comparison.measuring import MetricConfig, MetricName
from lightning_saliency.studies.comparison.results import Comparison
from lightning_saliency.studies.comparison.samples import as_samples
from lightning_saliency.studies.comparison.study import Study

__all__ = [
    "Comparison",
    "ComparisonConfig",
    "DataConfig",
    "MetricConfig",
    "NetworkConfig",
    "compute_explainers",
    "run_comparison",
]

Options = Mapping[str, Any]


@dataclass
class NetworkConfig:
    """A network by name, with weights from a file.

    Args:
        model: Its name, see `lightning_saliency.networks.build_network`.
        checkpoint: File of its weights, see `lightning_saliency.networks.load_weights`. ``None``: random ones.
        num_classes: Number of logits.
        library: Where the name is looked up.
    """

    model: str
    checkpoint: str | None = None
    num_classes: int = 1000
    library: Literal["torchvision", "timm"] = "torchvision"


@dataclass
class DataConfig:
    """Annotated images in files.

    Args:
        annotations: File or folder, or several, see `lightning_saliency.data.boxes.read_annotations`.
        format: ``csv``, ``coco`` or ``voc``.
        images: Folder that the images' names are relative to; ``None``: the annotations' own.
        classes: File that maps class names to the network's class indices, see
            `lightning_saliency.data.boxes.read_class_indices`; ``None``: the annotations have the network's.
        resize: Shorter side in pixels.
        crop: Side of the centre crop in pixels.
        mean: Of the channels, of RGB in [0, 1].
        std: Of the channels, likewise.
        limit: So many images; ``None``: all.
    """

    annotations: str | list[str]
    format: AnnotationFormat = "csv"
    images: str | None = None
    classes: str | None = None
    resize: int = 256
    crop: int = 224
    mean: tuple[float, ...] = IMAGENET_NORMALIZATION[0]
    std: tuple[float, ...] = IMAGENET_NORMALIZATION[1]
    limit: int | None = 100


@dataclass
class ComparisonConfig:
    """All of a comparison, as a YAML file says it; paths are relative to where the command is run.

    Args:
        networks: Name in the table -> network.
        data: The images.
        explainers: Name in the table -> options, see `compute_explainers`.
        without: Explainers that are left out, and the pairs they are in: such as the dear ones for a first look.
        metrics: What is measured.
        pairs: Explainers of which the difference is given too, paired by image, such as ``[[group_cam, grad_cam]]``.
        output: Folder of the results; a run that was killed goes on from what it finds there.
        chunk: Images between two writes to the disk.
        seed: Of the choice of the images and of the bootstrap.
        resamples: Draws of the bootstrap.
        confidence: Of its intervals.
        device: ``auto``, ``cpu``, ``cuda``, …
    """

    networks: dict[str, NetworkConfig]
    data: DataConfig
    explainers: dict[str, dict[str, Any] | None]
    without: list[str] = field(default_factory=list)
    metrics: MetricConfig = field(default_factory=MetricConfig)
    pairs: list[tuple[str, str]] = field(default_factory=list)
    output: str = "runs/comparison"
    chunk: int = 2
    seed: int = 0
    resamples: int = 2000
    confidence: float = 0.95
    device: str = "auto"


def run_comparison(config: ComparisonConfig, console: Console | None = None) -> Comparison:
    """Run a comparison from a configuration, and write its results.

    Args:
        config: The comparison.
        console: Where progress is shown; ``None``: nowhere.

    Returns:
        The results, which are also in ``config.output``.

    Raises:
        FileNotFoundError: If a file does not exist.
        StaleResultsError: If the folder holds results of something else.
        ValueError: If the configuration cannot be carried out.
    """
    unknown = sorted(set(config.without) - set(config.explainers))
    if unknown:
        raise ValueError(
            f"Got without={config.without}. Allowed are the explainers of the configuration, "
            f"{', '.join(config.explainers)}; leave out {', '.join(unknown)}."
        )
    data = config.data
    files = [data.annotations] if isinstance(data.annotations, str) else data.annotations
    samples = BoxedImages(
        [image for file in files for image in read_annotations(file, data.format, data.images)],
        None if data.classes is None else read_class_indices(data.classes),
        data.resize,
        data.crop,
        data.mean,
        data.std,
        data.limit,
        config.seed,
    )
    networks: dict[str, nn.Module] = {}
    for name, network in config.networks.items():
        networks[name] = build_network(network.model, network.num_classes, library=network.library)
        if network.checkpoint is not None:
            load_weights(networks[name], network.checkpoint)
    device = config.device
    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "cpu"
    comparison = compute_explainers(
        networks,
        samples,
        {name: options for name, options in config.explainers.items() if name not in config.without},
        config.metrics,
        pairs=[pair for pair in config.pairs if not set(pair) & set(config.without)],
        output=config.output,
        chunk=config.chunk,
        seed=config.seed,
        resamples=config.resamples,
        confidence=config.confidence,
        device=device,
        progress=console or False,
    )
    comparison.save(config.output)
    return comparison


def compute_explainers(
    model: nn.Module | Mapping[str, nn.Module],
    data: Any,
    explainers: Sequence[str] | Mapping[str, Options | None] = ("smoe", "grad_cam", "random"),
    metrics: MetricConfig | Sequence[MetricName] | None = None,
    *,
    targets: Tensor | None = None,
    pairs: Sequence[tuple[str, str]] = (),
    limit: int | None = None,
    output: str | Path | None = None,
    chunk: int = 2,
    seed: int = 0,
    resamples: int = 2000,
    confidence: float = 0.95,
    device: str | torch.device | None = None,
    progress: bool | Console = True,
) -> Comparison:
    """Explain images by several explainers and measure their maps, for a network and images of one's own.

    Every class of every image is explained by every explainer. The work goes through all explainers chunk by chunk, so
    that after the first chunk it is known how long all will take.

    Args:
        model: The network, or several by name. Each is run in eval mode and left as it was, on ``device``.
        data: Images ``[N, C, H, W]`` (with ``targets``), a data set of ``(image, class)`` or
            ``(image, {"labels": ..., "boxes": ...})``, or `lightning_saliency.data.boxes.BoxedImages`; images as the
            network takes them, of one size.
        explainers: Names in ``lightning_saliency.explainers.EXPLAINERS``, ``"random"`` or ``"center_gaussian"``; or a
            mapping from a name to its options. ``{"sise_fast": {"explainer": "sise", "mu": 0.5}}`` names the explainer
            apart from the row; a class of one's own may stand there as well.
        metrics: What to measure; names, or a `MetricConfig` with all options. ``None``: everything that can be.
        targets: ``[N]`` int64, the class of each of the images ``[N, C, H, W]``; ``None``: the predicted ones.
        pairs: Rows of the table of which the difference is given too, with an interval paired by image.
        limit: Take so many images only, chosen by ``seed``.
        output: Folder for the results as they come; a second call goes on from there. ``None``: keep no files.
        chunk: Images between two writes to the disk.
        seed: Of the choice of the images and of the bootstrap.
        resamples: Draws of the bootstrap.
        confidence: Of its intervals, in (0, 1).
        device: Where to run; ``None``: where the network is.
        progress: Whether a bar tells the time left, on the error stream or on a console of one's own.

    Returns:
        The results: ``print(comparison)`` shows the table, ``comparison.save(folder)`` writes tables and plots.

    Raises:
        StaleResultsError: If ``output`` holds results of other weights, options, data or metrics.
        TypeError: If an explainer has no such option, or the data are of another type.
        ValueError: If a name is unknown or an option out of range.

    Example:
        >>> network = nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten())
        >>> images, targets = torch.rand(4, 3, 16, 16), torch.tensor([0, 1, 2, 3])
        >>> comparison = compute_explainers(network, images, ["grad_cam", "random"], ["drop"], targets=targets)
        >>> comparison.estimates["Sequential"]["grad_cam"]["drop"].count
        4
    """
    networks = {type(model).__name__: model} if isinstance(model, nn.Module) else dict(model)
    methods = {name: dict((explainers[name] or {}) if isinstance(explainers, Mapping) else {}) for name in explainers}
    config = metrics if isinstance(metrics, MetricConfig) else MetricConfig(None if metrics is None else list(metrics))
    if not networks or not methods or chunk < 1:
        raise ValueError(
            f"Got {len(networks)} networks, {len(methods)} explainers, chunk={chunk}. Each must be 1 or more."
        )
    unpaired = {name for pair in pairs for name in pair} - set(methods)
    if unpaired or any(len(pair) != 2 for pair in pairs):
        raise ValueError(
            f"Got pairs={[list(pair) for pair in pairs]}. Allowed are pairs of {', '.join(methods)}; name two each."
        )
    samples = as_samples(data, targets, limit, seed)
    columns = config.columns(boxes=samples.has_boxes)
    if not columns:
        raise ValueError("Got only metrics that need boxes and images without any. Give boxes, or other metrics.")
    study = Study(networks, methods, samples, config, chunk, None if output is None else Path(output), device)
    console = progress if isinstance(progress, Console) else Console(stderr=True) if progress else None
    study.run(console)
    intervals = f"Intervals: {confidence:.0%} bootstrap over images ({resamples} draws, seed {seed})."
    return Comparison(
        study.rows(), columns, f"{study.caption()} {intervals}", samples, resamples, confidence, seed, pairs
    )
