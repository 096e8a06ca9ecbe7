"""What a retraining study costs, told before it is run."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pytorch_lightning as pl
import torch
from rich.box import SIMPLE_HEAD
from rich.table import Table

from lightning_saliency.batches import find_images
from lightning_saliency.studies._controls import build_method
from lightning_saliency.studies._grid_cells import Cell
from lightning_saliency.studies._measuring import counted_passes
from lightning_saliency.studies._progress import duration
from lightning_saliency.studies._roar_cells import Training
from lightning_saliency.studies._roar_config import RunConfig
from lightning_saliency.studies._roar_grid import STAGES, RoarKarGrid
from lightning_saliency.studies._training import build_data, build_module, network_of, quiet, seeded, trainer_options
from lightning_saliency.studies.engine import cell_seconds, read_cells

# Batches that are timed, after one that is not.
_TIMED = 3
# An explainer is timed on so many images first, and on a whole batch only if these took less than so many seconds.
_FEW, _QUICK = 2, 0.5


@dataclass(frozen=True)
class PlanRow:
    """A part of a study: cells of one kind.

    Args:
        part: What they do.
        cells: Their number.
        done: How many of them are done.
        epochs: Of training, all cells together.
        passes: Images that are passed forward through a network, all cells together; backward passes come on top.
        storage: Bytes that they leave on the disk.
        seconds: What the cells that are not done will take, one after the other.
        measured: Whether that is told from finished cells of the kind, and not from a few batches.
    """

    part: str
    cells: int
    done: int
    epochs: int
    passes: float
    storage: int
    seconds: float
    measured: bool


@dataclass(frozen=True)
class Plan:
    """What a study costs.

    Args:
        rows: Its parts.
        workers: Processes that share the work; 0: it is not known how many.
    """

    rows: Sequence[PlanRow]
    workers: int

    @property
    def cells(self) -> int:
        """Number of cells."""
        return sum(row.cells for row in self.rows)

    @property
    def done(self) -> int:
        """Number of cells that are done."""
        return sum(row.done for row in self.rows)

    @property
    def epochs(self) -> int:
        """Epochs of training, all cells together."""
        return sum(row.epochs for row in self.rows)

    @property
    def passes(self) -> float:
        """Images passed forward."""
        return sum(row.passes for row in self.rows)

    @property
    def storage(self) -> int:
        """Bytes on the disk."""
        return sum(row.storage for row in self.rows)

    @property
    def seconds(self) -> float:
        """Seconds that the rest will take with all workers."""
        return sum(row.seconds for row in self.rows) / max(1, self.workers)

    def lines(self) -> list[tuple[str, ...]]:
        """The parts and their sum as text."""
        shown = [
            (
                row.part,
                str(row.cells),
                str(row.done),
                str(row.epochs),
                _count(row.passes),
                _bytes(row.storage),
                duration(row.seconds / max(1, self.workers)),
                "" if row.done == row.cells else "cells" if row.measured else "batches",
            )
            for row in self.rows
        ]
        total = (_count(self.passes), _bytes(self.storage), duration(self.seconds))
        return [*shown, ("all", str(self.cells), str(self.done), str(self.epochs), *total, "")]

    def rich(self) -> Table:
        """For a terminal."""
        table = Table(
            title="Plan; nothing has been run", caption=self._caption(), title_justify="left", box=SIMPLE_HEAD
        )
        for number, heading in enumerate(HEADINGS):
            table.add_column(heading, justify="left" if number in (0, 7) else "right", no_wrap=number > 0)
        *parts, total = self.lines()
        for line in parts:
            table.add_row(*line)
        table.add_section()
        table.add_row(*total, style="bold")
        return table

    def __str__(self) -> str:
        lines = [HEADINGS, tuple("---" for _ in HEADINGS), *self.lines()]
        return "\n".join([*("| " + " | ".join(line) + " |" for line in lines), "", self._caption()])

    def _caption(self) -> str:
        how = f"with {self.workers} worker{'s' if self.workers > 1 else ''}"
        if self.workers == 0:
            how = "one cell after the other; a cluster divides it by the cells that it computes at a time"
        return (
            f"Passes: images passed forward through a network. Time left: {how}; told by finished cells of the kind, "
            "or by a few batches timed just now."
        )


HEADINGS = ("part", "cells", "done", "epochs", "passes", "storage", "time left", "told by")


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


def plan_grid(grid: RoarKarGrid) -> Plan:
    """The plan of a ROAR and KAR study, see `plan_roar_kar`."""
    config, training = grid.config, grid.training
    costs = measure_costs(training)
    unmasked = grid.unmasked()
    weights = grid.weights(read_cells(unmasked, grid.folder))
    rows = [
        plan_row(
            "networks on whole images",
            grid.folder,
            unmasked,
            training.epochs,
            costs.cell_passes(training.epochs),
            4 * costs.parameters,
            costs.cell_seconds(training.epochs),
        )
    ]
    maps = {name: map_cost(training, *config.explainer_of(name), costs.batch_size) for name in config.explainers}
    stores = grid.stores(weights)
    for name in filter(config.stored, config.explainers):
        passes, seconds = maps[name]
        folders = {grid.source(name, seed, weights).folder for seed in config.seeds}
        for stage, images in zip(STAGES, (costs.train_images, costs.test_images), strict=True):
            cells = [
                cell
                for cell in stores
                if cell.arguments["stage"] == stage and cell.arguments["source"].folder in folders
            ]
            pixels = costs.pixels if config.map_size is None else min(config.map_size**2, costs.pixels)
            part = f"maps of {name}, {stage} images"
            rows.append(plan_row(part, grid.folder, cells, 0, images * passes, images * pixels, images * seconds))
    masked = dict(zip(grid.keys, grid.masked(weights), strict=True))
    for name in config.explainers:
        own = [cell for key, cell in masked.items() if key.explainer == name]
        passes, seconds = (0.0, 0.0) if config.stored(name) else maps[name]
        rows.append(
            plan_row(
                f"networks masked by {name}" + (", stored maps" if config.stored(name) else ""),
                grid.folder,
                own,
                training.epochs,
                costs.cell_passes(training.epochs, passes),
                0,
                costs.cell_seconds(training.epochs, seconds),
            )
        )
    return Plan(rows, plan_workers(config))


def plan_workers(config: RunConfig) -> int:
    """How many cells are computed at a time; 0: it is not known."""
    return 0 if config.engine == "ray" else config.workers


def plan_row(
    part: str, folder: Any, cells: Sequence[Cell], epochs: int, passes: float, storage: int, seconds: float
) -> PlanRow:
    """A part of equal cells; passes, storage and seconds are those of one of them."""
    found = cell_seconds(cells, folder)
    each = sum(found.values()) / len(found) if found else seconds
    count = len(cells)
    left = each * (count - len(found))
    return PlanRow(part, count, len(found), count * epochs, count * passes, count * storage, left, bool(found))


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
        method = build_method(explainer, network.to(device), dict(options))
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


def _count(number: float) -> str:
    for size, letter in ((1e9, " G"), (1e6, " M"), (1e3, " k")):
        if number >= size:
            return f"{number / size:.3g}{letter}"
    return f"{number:.0f}"


def _bytes(number: int) -> str:
    for size, unit in ((2**30, "GiB"), (2**20, "MiB"), (2**10, "KiB")):
        if number >= size:
            return f"{number / size:.3g} {unit}"
    return f"{number} B"
