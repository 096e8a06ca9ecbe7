"""What training, testing and maps cost, estimated from a few steps on a few images."""

from __future__ import annotations

import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader

from lightning_saliency.batches import find_images
from lightning_saliency.explainers import ExplainerSpec
from lightning_saliency.files import safe_name
from lightning_saliency.lightning_bases import Callback, trainer_class
from lightning_saliency.studies.costs import MapCost, map_cost, timing_cell
from lightning_saliency.studies.engine.run import run_cells
from lightning_saliency.studies.engine.shared import cached
from lightning_saliency.studies.isolation import quiet, seeded
from lightning_saliency.studies.recipes import key_of
from lightning_saliency.studies.retraining.cells import Training
from lightning_saliency.studies.retraining.training import first_items, network_of, trainer_options
from lightning_saliency.studies.specs import build_data, build_module

# Images of a timed step, tried in turn while a step takes less than so many seconds; and timed steps, after one that is
# not. Where that one takes so many seconds, it tells enough.
_IMAGES, _SHORT, _TIMED, _LONG = (2, 8, 64), 0.25, 2, 2.0


@dataclass(frozen=True)
class Costs:
    """What training and testing cost, and the amount of data.

    Args:
        train_images: Number of images of an epoch.
        test_images: Number of images of the test.
        pixels: H · W of an image.
        parameters: Number of the network's parameters.
        training: Seconds of training on one image.
        testing: Seconds of testing one image.
    """

    train_images: int
    test_images: int
    pixels: int
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


def training_costs(training: Training, fingerprint: Any, output: Path) -> Costs:
    """The cost of training from ``<output>/costs``, timed if it is not there."""
    cell = timing_cell("training", time_training, {"training": training}, {"training": fingerprint})
    return Costs(**run_cells([cell], output / "costs", progress=False)[cell.name])


def map_costs(
    training: Training, fingerprint: Any, explainers: dict[str, ExplainerSpec], output: Path
) -> dict[str, MapCost]:
    """Row -> cost of one map from ``<output>/costs``, timed if it is not there."""
    cells = {
        name: timing_cell(
            f"map-{safe_name(name)}",
            time_maps,
            {"training": training, "explainer": explainer},
            {"training": fingerprint, "explainer": explainer.plain()},
        )
        for name, explainer in explainers.items()
    }
    found = run_cells(list(cells.values()), output / "costs", progress=False)
    return {name: MapCost(**found[cell.name]) for name, cell in cells.items()}


def time_training(training: Training) -> dict[str, Any]:
    """Time a few steps of training and testing on a few images, with a network that is thrown away.

    Args:
        training: The data and the network.

    Returns:
        The fields of `Costs`.
    """
    data = build_data(training.data)
    with quiet(), seeded(0):
        data.prepare_data()
        data.setup("fit")
        data.setup("test")
        loaders = {"train": data.train_dataloader(), "test": data.test_dataloader()}
        module = build_module(training.model)
        parameters = sum(parameter.numel() for parameter in network_of(module, training.network).parameters())
        seconds = {}
        for stage, loader in loaders.items():
            seconds[stage], step, images = _timed(training, module, stage, loader, _IMAGES[0], steps=1)
            if step > _LONG:
                continue
            for count in _IMAGES:
                seconds[stage], step, images = _timed(training, module, stage, loader, count, steps=1 + _TIMED)
                # Short steps are mostly what a step costs whatever its size.
                if step > _SHORT or len(images) < count:
                    break
    return asdict(
        Costs(
            train_images=len(loaders["train"].dataset),
            test_images=len(loaders["test"].dataset),
            pixels=images.shape[2] * images.shape[3],
            parameters=parameters,
            training=seconds["train"],
            testing=seconds["test"],
        )
    )


def _timed(
    training: Training, module: Any, stage: str, loader: Any, count: int, steps: int
) -> tuple[float, float, Tensor]:
    """The seconds of an image, loading included, those of a step, and the images."""
    begin = time.perf_counter()
    batch = first_items(loader, count)
    images = find_images(batch)
    loading = (time.perf_counter() - begin) / len(images) / max(1, getattr(loader, "num_workers", 0))
    watch = _Stopwatch()
    options = {**trainer_options(training.trainer), "devices": 1, "strategy": "auto", "callbacks": [watch]}
    runner = trainer_class(module)(**{**options, "max_epochs": 1})
    batches: Any = DataLoader([batch] * steps, batch_size=None)  # type: ignore[arg-type]
    if stage == "train":
        runner.fit(module, batches)
    else:
        runner.test(module, batches, verbose=False)
    return loading + watch.seconds() / len(images), watch.seconds(), images


def time_maps(training: Training, explainer: ExplainerSpec) -> dict[str, Any]:
    """Time one map with a network of random weights, see `map_cost`.

    Args:
        training: The data and the network.
        explainer: The explainer.

    Returns:
        ``passes`` and ``seconds``.
    """
    with quiet(), seeded(0):
        network, images = cached(f"timed maps {key_of(asdict(training))}", lambda: _network_and_images(training))
        return asdict(map_cost(explainer(network), images, budget=0.25))


def _network_and_images(training: Training) -> tuple[nn.Module, Tensor]:
    """A network of random weights and some test images, on the device that the cells would use."""
    data = build_data(training.data)
    data.prepare_data()
    data.setup("test")
    network = network_of(build_module(training.model), training.network).eval().requires_grad_(False)
    wanted = training.trainer.get("accelerator", "auto") in ("auto", "gpu", "cuda")
    device = torch.device("cuda" if wanted and torch.cuda.is_available() else "cpu")
    return network.to(device), find_images(first_items(data.test_dataloader(), _IMAGES[-1])).to(device)


class _Stopwatch(Callback):
    """The time between the ends of batches, or of the only one from its start."""

    def __init__(self) -> None:
        self._times: list[float] = []

    def on_train_batch_start(self, trainer: Any, pl_module: Any, batch: Any, batch_idx: int) -> None:
        if batch_idx == 0:
            self._note(batch)

    def on_train_batch_end(self, trainer: Any, pl_module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
        self._note(batch)

    def on_test_batch_start(
        self, trainer: Any, pl_module: Any, batch: Any, batch_idx: int, dataloader_idx: int = 0
    ) -> None:
        if batch_idx == 0:
            self._note(batch)

    def on_test_batch_end(
        self, trainer: Any, pl_module: Any, outputs: Any, batch: Any, batch_idx: int, dataloader_idx: int = 0
    ) -> None:
        self._note(batch)

    def seconds(self) -> float:
        """Seconds of a batch; of several, the first one does not count."""
        times = self._times[1:] if len(self._times) > 2 else self._times
        return (times[-1] - times[0]) / (len(times) - 1)

    def _note(self, batch: Any) -> None:
        images = find_images(batch)
        if images.device.type == "cuda":
            torch.cuda.synchronize(images.device)
        self._times.append(time.perf_counter())
