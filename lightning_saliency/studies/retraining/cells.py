"""The work of one cell of a ROAR and KAR study: train, store maps, retrain on masked images."""

from __future__ import annotations

import base64
import io
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytorch_lightning as pl
import torch
from PIL import Image
from torch import Tensor, nn

from lightning_saliency.batches import find_images
from lightning_saliency.callbacks.saliency_writer import write_maps
from lightning_saliency.data.masked.module import RoarKarDataModule
from lightning_saliency.data.masked.store import SaliencyStore, rank_levels
from lightning_saliency.data.masked.whole_images import whole_image_loaders
from lightning_saliency.explainers import Explainer, ExplainerSpec
from lightning_saliency.files import OwnFiles
from lightning_saliency.networks import load_weights, weights_fingerprint
from lightning_saliency.pictures.tensors import displayable, find_normalization, to_uint8
from lightning_saliency.studies.isolation import quiet, seeded
from lightning_saliency.studies.retraining.training import fit_and_test, network_of, trainer_options
from lightning_saliency.studies.specs import build_data, build_module


@dataclass(frozen=True)
class Training:
    """How a network is trained, as plain data, see `TrainingConfig`."""

    data: Mapping[str, Any]
    model: Mapping[str, Any]
    epochs: int
    network: str | None
    metric: str
    trainer: Mapping[str, Any]


@dataclass(frozen=True)
class MapSource:
    """Which maps mask the images, as plain data.

    Args:
        explainer: The explainer.
        weights: File of the weights of the network that is explained.
        hash: Fingerprint of the weights.
        folder: Folder of the stores of these maps; ``None``: they are computed for each batch.
    """

    explainer: ExplainerSpec
    weights: str
    hash: str
    folder: str | None = None


def train_unmasked(training: Training, seed: int, weights: str) -> dict[str, Any]:
    """Train a network on whole images, keep its weights and measure its accuracy.

    Args:
        training: How the network is trained.
        seed: Seed of the initial weights and of the order of the data.
        weights: File to which the weights are written.

    Returns:
        ``accuracy`` in [0, 1], ``weights`` (their fingerprint) and ``parameters`` (their number).

    Raises:
        ValueError: If the file is somebody else's; nothing is trained then.
    """
    path = Path(weights)
    OwnFiles(path.parent).check(path.name)
    with quiet(), seeded(seed):
        module = build_module(training.model)
        network = network_of(module, training.network)
        accuracy = fit_and_test(
            module,
            build_data(training.data),
            training.epochs,
            seed,
            training.trainer,
            metric=training.metric,
            fitted=lambda: save_weights(network, path),
        )
    return {
        "accuracy": accuracy,
        "weights": weights_fingerprint(network),
        "parameters": sum(parameter.numel() for parameter in network.parameters()),
    }


def store_maps(
    training: Training, source: MapSource, seed: int, stage: str, size: int | None, batch_size: int | None
) -> dict[str, Any]:
    """Make the maps of all images of a stage once, and keep them in a `SaliencyStore`; go on with one that was begun.

    Args:
        training: The data and the kind of network.
        source: The explainer; the store is written to ``source.folder`` as ``{stage}.npy``.
        seed: Seed of the explainer's random numbers.
        stage: ``"train"`` or ``"test"``.
        size: Side of the maps in pixels; ``None``: the images' own size.
        batch_size: Images explained at a time; ``None``: the data's.

    Returns:
        ``images`` (their number), ``size`` (h, w) and ``bytes``.
    """
    data = build_data(training.data)
    with quiet(), seeded(seed):
        explainer = build_explainer_of(training, source)
        loader = whole_image_loaders(data, image_size(data), stages=(stage,), batch_size=batch_size)[stage]
        path = store_path(source, stage)
        own = {key: value for key, value in training.trainer.items() if key in ("accelerator", "precision")}
        runner = pl.Trainer(**trainer_options(own))
        write_maps(path, explainer, loader, runner, size=size)
        store = SaliencyStore.open(path)
    return {"images": len(store), "size": list(store.size), "bytes": len(store) * store.size[0] * store.size[1]}


def train_masked(
    training: Training, source: MapSource, seed: int, mode: str, fraction: float, fill: Any
) -> dict[str, Any]:
    """Train a new network on masked images and measure its accuracy on masked test images.

    Args:
        training: How the network is trained, from the same initial weights as in every other cell of the seed.
        source: The maps.
        seed: As in `train_unmasked`.
        mode: ``"roar"`` or ``"kar"``.
        fraction: Share of the pixels that is removed or kept.
        fill: What stands in place of removed pixels.

    Returns:
        ``accuracy`` in [0, 1].
    """
    with quiet(), seeded(seed):
        module = build_module(training.model)
        saliency = build_explainer_of(training, source) if source.folder is None else source.folder
        data = build_data(training.data)
        masked = RoarKarDataModule(data, saliency, mode, fraction, fill, seed=seed)  # type: ignore[arg-type]
        accuracy = fit_and_test(module, masked, training.epochs, seed, training.trainer, metric=training.metric)
    return {"accuracy": accuracy}


def example_images(training: Training, count: int) -> dict[str, Any]:
    """The first test images, to show how they are masked.

    Args:
        training: The data.
        count: Number of images.

    Returns:
        ``images``: each as a PNG in base64.
    """
    data = build_data(training.data)
    with quiet(), seeded(0):
        images = first_images(data, count)
        shown, _ = displayable(images, find_normalization(data, channels={images.shape[1]}))
    return {"images": [png(to_uint8(image)) for image in shown]}


def example_maps(training: Training, source: MapSource, count: int) -> dict[str, Any]:
    """An explainer's maps of the first test images.

    Args:
        training: The data and the kind of network.
        source: The maps.
        count: Number of images.

    Returns:
        ``maps``: each map's ranks as a grey PNG in base64.
    """
    with quiet(), seeded(0):
        ranks = rank_levels(build_explainer_of(training, source)(first_images(build_data(training.data), count)))
    return {"maps": [png(one.numpy()) for one in ranks]}


def build_explainer_of(training: Training, source: MapSource) -> Explainer:
    """The explainer of a source, round the network that its weights belong to.

    Raises:
        ValueError: If the file holds other weights than those the study was begun with.
    """
    network = network_of(build_module(training.model), training.network)
    load_weights(network, source.weights)
    if weights_fingerprint(network) != source.hash:
        raise ValueError(
            f"Got other weights in {source.weights} than those of this study's maps. Restore the file, or choose "
            "another output folder."
        )
    network.eval().requires_grad_(False)
    return source.explainer(network)


def store_path(source: MapSource, stage: str) -> Path:
    """The file of the stored maps of a stage."""
    return Path(source.folder or "") / f"{stage}.npy"


def save_weights(network: nn.Module, path: Path) -> None:
    """Write a network's state atomically."""
    with OwnFiles(path.parent).replacing(path.name) as temporary:
        torch.save({name: tensor.cpu() for name, tensor in network.state_dict().items()}, temporary)


def image_size(data: Any) -> tuple[int, int]:
    """(H, W) of a network's test images."""
    images = first_images(data, 1)
    return images.shape[2], images.shape[3]


def png(pixels: Any) -> str:
    """A uint8 picture ``[H, W]`` or ``[H, W, 3]`` as a PNG in base64."""
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, format="png")
    return base64.b64encode(file.getvalue()).decode()


def pixels_of(text: str) -> Tensor:
    """A PNG in base64 as ``[C, H, W]`` float32 in [0, 255]; one channel where it is grey."""
    pixels = torch.from_numpy(np.array(Image.open(io.BytesIO(base64.b64decode(text))))).float()
    return pixels[None] if pixels.ndim == 2 else pixels.permute(2, 0, 1)


def first_images(data: Any, count: int) -> Tensor:
    """The first test images of a data module, ``[count, C, H, W]``."""
    data.prepare_data()
    data.setup("test")
    parts, found = [], 0
    for batch in data.test_dataloader():
        parts.append(find_images(batch))
        found += len(parts[-1])
        if found >= count:
            break
    return torch.cat(parts)[:count]
