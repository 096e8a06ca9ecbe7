"""What training, testing and maps cost, told by a few batches."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import pytorch_lightning as pl
import torch

from lightning_saliency.batches import find_images
from lightning_saliency.explainers import build_explainer
from lightning_saliency.studies.engine.config import EngineConfig
from lightning_saliency.studies.isolation import quiet, seeded
from lightning_saliency.studies.passes import counted_passes
from lightning_saliency.studies.retraining.cells import Training
from lightning_saliency.studies.retraining.training import network_of, trainer_options
from lightning_saliency.studies.specs import build_data, build_module

# Batches that are timed, after one that is not.
_TIMED = 3
# An explainer is timed on so many images first, and on a whole batch only if these took less than so many seconds.
_FEW, _QUICK = 2, 0.5


@dataclass(frozen=True)
class Costs:
    """What training and testing cost, and how much there is of it.

    Args:
        train_images: Of an epoch.
        test_images: Of the test.
        pixels: H · W of an image.
        batch_size: Of training.
        parameters: Of the network.
        training: Seconds of training on one image.
        testing: Seconds of testing one image.
    """

    train_images: int
    test_images: int
    pixels: int
    batch_size: int
    parameters: int
    training: float
    testing: float

    def cell_passes(self, epochs: int, passes_per_map: float = 0.0) -> float:
        """Images passed forward in a cell."""
        return (epochs * self.train_images + self.test_images) * (1 + passes_per_map)

    def cell_seconds(self, epochs: int, seconds_per_map: float = 0.0) -> float:
        """Seconds of a cell."""
        images = epochs * self.train_images + self.test_images
        return epochs * self.train_images * self.training + self.test_images * self.testing + images * seconds_per_map


def measure_costs(training: Training) -> Costs:
    """Time a few batches of training and testing, with a network that is thrown away."""
    data = build_data(training.data)
    watch = _Stopwatch()
    with quiet(), seeded(0):
        module = build_module(training.model)
        options = {**trainer_options(training.trainer), "devices": 1, "strategy": "auto", "callbacks": [watch]}
        options |= {"max_epochs": 1, "limit_train_batches": 1 + _TIMED, "limit_test_batches": 1 + _TIMED}
        runner = pl.Trainer(**options)
        runner.fit(module, datamodule=data)
        runner.test(module, datamodule=data, verbose=False)
        train, test = data.train_dataloader(), data.test_dataloader()
    return Costs(
        train_images=len(train.dataset),
        test_images=len(test.dataset),
        pixels=watch.pixels,
        batch_size=watch.batch_size,
        parameters=sum(parameter.numel() for parameter in network_of(module, training.network).parameters()),
        training=watch.seconds("train"),
        testing=watch.seconds("test"),
    )


def map_cost(training: Training, explainer: str, options: Mapping[str, Any], batch_size: int) -> tuple[float, float]:
    """Forward passes and seconds of one map, timed with a network of random weights.

    Args:
        training: Names the data and the network.
        explainer: Name of the explainer.
        options: Of the explainer.
        batch_size: Images explained at a time.
    """
    data = build_data(training.data)
    with quiet(), seeded(0):
        network = network_of(build_module(training.model), training.network).eval().requires_grad_(False)
        wanted = training.trainer.get("accelerator", "auto") in ("auto", "gpu", "cuda")
        device = torch.device("cuda" if wanted and torch.cuda.is_available() else "cpu")
        images = find_images(next(iter(data.test_dataloader())))[:batch_size].to(device)
        method = build_explainer(explainer, network.to(device), **dict(options))
        # The first time, layers are looked for.
        method(images[:1])
        passes, seconds = _timed(method, images[:_FEW])
        if seconds < _QUICK:
            passes, seconds = _timed(method, images)
            return passes / len(images), seconds / len(images)
        return passes / len(images[:_FEW]), seconds / len(images[:_FEW])


def _timed(method: Any, images: torch.Tensor) -> tuple[int, float]:
    with counted_passes((images.shape[2], images.shape[3])) as count:
        begin = time.perf_counter()
        method(images).sum().item()
        return count[0], time.perf_counter() - begin


class _Stopwatch(pl.Callback):
    """The time between the ends of batches: computing and loading."""

    def __init__(self) -> None:
        self.pixels = 0
        self.batch_size = 0
        self._ends: dict[str, list[float]] = {"train": [], "test": []}
        self._images: dict[str, list[int]] = {"train": [], "test": []}
        self._begin = 0.0

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self._begin = time.perf_counter()

    def on_test_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self._begin = time.perf_counter()

    def on_train_batch_end(self, trainer: Any, pl_module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
        self._note("train", batch)

    def on_test_batch_end(
        self, trainer: Any, pl_module: Any, outputs: Any, batch: Any, batch_idx: int, dataloader_idx: int = 0
    ) -> None:
        self._note("test", batch)

    def seconds(self, stage: str) -> float:
        """Of an image; the first batch does not count where there is another."""
        ends, images = self._ends[stage], self._images[stage]
        if len(ends) == 1:
            return (ends[0] - self._begin) / images[0]
        return (ends[-1] - ends[0]) / sum(images[1:])

    def _note(self, stage: str, batch: Any) -> None:
        images = find_images(batch)
        if images.device.type == "cuda":
            torch.cuda.synchronize(images.device)
        self._ends[stage].append(time.perf_counter())
        self._images[stage].append(len(images))
        self.pixels = images.shape[2] * images.shape[3]
        self.batch_size = max(self.batch_size, len(images))


def plan_workers(config: EngineConfig) -> int:
    """How many cells are computed at a time; 0: it is not known."""
    return 0 if config.engine == "ray" else config.workers
