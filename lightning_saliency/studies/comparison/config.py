"""The configuration of a comparison of explainers, as in a YAML file or a call."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from torch import nn

from lightning_saliency.checks import check_minimum, did_you_mean
from lightning_saliency.explainers import ExplainerSpec, parse_explainers
from lightning_saliency.studies.comparison.measuring import MetricConfig
from lightning_saliency.studies.comparison.table_rows import runs_of, swept
from lightning_saliency.studies.engine.config import EngineConfig


@dataclass
class ComparisonConfig(EngineConfig):
    """The options of a comparison, beside those of `EngineConfig`.

    Args:
        models: Name in the table -> network: a mapping of `ImageClassifier`'s arguments, such as
            ``{"model": "resnet50", "num_classes": 1000, "checkpoint": "resnet50.pth"}``; ``{"class_path": ...,
            "init_args": {...}}`` of a module; or, in Python, the network itself. A single network, too.
        data: The images and what is to be seen on them: ``{"class_path": ..., "init_args": {...}}`` of
            `lightning_saliency.data.AnnotatedImages` or of a data module, whose test images are taken. In Python also
            images ``[N, C, H, W]`` (with ``targets``), or a data set of ``(image, class)``, of ``(image, {"labels":
            ..., "boxes": ...})`` or of dictionaries, see `OwnImages`.
        explainers: Name in the table -> explainer, or a list of names, see
            `lightning_saliency.explainers.parse_explainers`.
        sweeps: Explainer -> option -> values, such as ``{group_cam: {groups: [8, 16, 32]}}``: a row a value in place of
            the explainer, named as ``"group_cam, groups=8"``, and a plot of every metric over the values.
        repeats: Explainer -> number of runs with seeds of their own, such as ``{rise: 3}``; its scores are the means of
            each map's runs, and its costs those of one.
        without: Explainers to skip, and the pairs they are in: for example slow ones.
        metrics: What is measured: a `MetricConfig` or a mapping of its options; in Python also a list of names, or
            ``None``: everything that can be measured.
        pairs: Explainers of which the difference is given too, paired by image, such as ``[[group_cam, grad_cam]]``.
        targets: ``[N]``, the class of each of the images ``[N, C, H, W]``, or of each item of data that carries none;
            ``None``: the predicted ones.
        limit: Number of images, chosen by ``seed``; ``None``: all.
        chunk: Images in one cell.
        seed: Seed of the choice of the images and of the bootstrap.
        resamples: Draws of the bootstrap.
        confidence: Confidence of its intervals, in (0, 1).
        device: ``auto``, ``cpu``, ``cuda``, …
        output: Folder of the results; a comparison that was killed goes on from what it finds there. ``None``: nothing
            is kept.

    Raises:
        TypeError: If an explainer has no such option.
        ValueError: If a name is unknown or a number out of range.
    """

    models: Any = field(default_factory=dict)
    data: Any = None
    explainers: Any = field(default_factory=lambda: ["smoe", "grad_cam", "random"])
    sweeps: dict[str, dict[str, list[Any]]] = field(default_factory=dict)
    repeats: dict[str, int] = field(default_factory=dict)
    without: list[str] = field(default_factory=list)
    metrics: MetricConfig = field(default_factory=MetricConfig)
    pairs: list[tuple[str, str]] = field(default_factory=list)
    targets: Any = None
    limit: int | None = None
    chunk: int = 8
    seed: int = 0
    resamples: int = 2000
    confidence: float = 0.95
    device: str = "auto"
    output: str | None = None

    def __post_init__(self) -> None:
        if isinstance(self.models, nn.Module):
            self.models = {type(self.models).__name__: self.models}
        metrics: Any = self.metrics
        if isinstance(metrics, Mapping):
            self.metrics = MetricConfig(**metrics)
        elif not isinstance(metrics, MetricConfig):
            self.metrics = MetricConfig(None if metrics is None else list(metrics))
        rows, self.swept = swept(parse_explainers(self.explainers), self.sweeps)
        self.runs = runs_of(rows, self.repeats, self.swept)
        values = {sweep.explainer: [row for row, _ in sweep.rows] for sweep in self.swept}
        self.without = [row for name in self.without for row in values.get(name, [name])]
        unknown = sorted(set(self.without) - set(rows))
        if unknown:
            raise ValueError(
                f"Got without={self.without}. Allowed are the explainers of the comparison, {', '.join(rows)}; leave "
                f"out {', '.join(unknown)}.{''.join(did_you_mean(name, rows) for name in unknown)}"
            )
        self.pairs = [(pair[0], pair[1]) if len(pair) == 2 else tuple(pair) for pair in self.pairs]
        unpaired = {name for pair in self.pairs for name in pair} - set(rows)
        if unpaired or any(len(pair) != 2 for pair in self.pairs):
            raise ValueError(
                f"Got pairs={[list(pair) for pair in self.pairs]}. Allowed are pairs of {', '.join(rows)}; name two "
                "each."
            )
        self.explainers: dict[str, ExplainerSpec] = {
            name: spec for name, spec in rows.items() if name not in self.without
        }
        self.pairs = [pair for pair in self.pairs if not set(pair) & set(self.without)]
        self.runs = {name: self.runs[name] for name in self.explainers}
        self.swept = [sweep for sweep in self.swept if any(row in self.explainers for row, _ in sweep.rows)]
        if not self.models:
            raise ValueError(
                "Got no network to compare explainers on. Give a configuration (--config FILE), or models "
                "(--models.NAME.model small_cnn and its other arguments), and data."
            )
        if not self.explainers or self.chunk < 1:
            raise ValueError(
                f"Got {len(self.explainers)} explainers, chunk={self.chunk}. Each must be 1 or more; leave some "
                "explainers in, and use 8 for the chunk if in doubt."
            )
        if not 0 < self.confidence < 1:
            raise ValueError(
                f"Got confidence={self.confidence}. Allowed is a share in (0, 1), such as 0.95; divide per cent by 100."
            )
        check_minimum("resamples", self.resamples, 1)
        if self.data is None:
            raise ValueError("Got no data. Give images [N, C, H, W], a data set, or a class_path with init_args.")
