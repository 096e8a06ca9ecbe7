"""The cells of a ROAR and KAR study: which there are, what each depends on, and what of them is on the disk."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from lightning_saliency.data.roar_kar import Mode
from lightning_saliency.data.saliency_store import SaliencyStore, SaliencyStoreError
from lightning_saliency.networks import load_weights, weights_fingerprint
from lightning_saliency.studies._controls import build_method
from lightning_saliency.studies._grid_cells import Cell, plain, read_record
from lightning_saliency.studies._results import file_name
from lightning_saliency.studies._roar_cells import (
    MapSource,
    Training,
    example_maps,
    store_maps,
    store_path,
    train_masked,
    train_unmasked,
)
from lightning_saliency.studies._roar_config import RANDOM, RoarKarConfig, TrainingConfig
from lightning_saliency.studies._training import build_module, network_of, quiet, seeded

#: Stages whose images a cell sees; validation is skipped.
STAGES = ("train", "test")
EXAMPLES = "examples"


@dataclass(frozen=True)
class MaskedKey:
    """Which cell of the grid.

    Args:
        explainer: Its name in the table.
        mode: ``"roar"`` or ``"kar"``.
        fraction: Share of the pixels.
        seed: Of the training.
    """

    explainer: str
    mode: Mode
    fraction: float
    seed: int

    @property
    def name(self) -> str:
        """The cell's."""
        return f"{self.mode}-{100 * self.fraction:g}-{file_name(self.explainer)}-s{self.seed}"


@dataclass(frozen=True)
class Weights:
    """The network whose maps are used: its file, and what its weights are."""

    path: Path
    hash: str


class RoarKarGrid:
    """All cells of a study.

    Args:
        config: The study.
    """

    def __init__(self, config: RoarKarConfig) -> None:
        self.config = config
        self.output = Path(config.output).resolve()
        self.folder = self.output / "cells"
        self.training = training_of(config)
        self.keys = [
            MaskedKey(explainer, mode, fraction, seed)
            for seed in config.seeds
            for mode in config.modes
            for fraction in config.fractions
            for explainer in config.explainers
        ]

    def check(self) -> None:
        """Build the network and each explainer once, so that a wrong option is found before anything is trained.

        Raises:
            ImportError: If an explainer needs a package that is not installed.
            TypeError: If the module or an explainer has no such option.
            ValueError: If a class cannot be imported or an option is out of range.
        """
        with quiet(), seeded(0):
            network = network_of(build_module(self.training.model), self.training.network)
            for name in self.config.explainers:
                which, options = self.config.explainer_of(name)
                build_method(which, network, dict(options))

    def unmasked(self) -> list[Cell]:
        """One training on whole images for each seed."""
        return unmasked_cells(self.training, self.config.seeds, self.output)

    def weights(self, unmasked: Mapping[str, Mapping[str, Any]]) -> dict[int, Weights]:
        """For each seed the network whose maps are used, of those seeds where it is known by now.

        Args:
            unmasked: The results of the unmasked cells, or of some.
        """
        if self.config.checkpoint is not None:
            given = given_weights(self.config.checkpoint, self.training)
            return dict.fromkeys(self.config.seeds, given)
        return {
            seed: Weights(network_file(self.output, seed), unmasked[f"unmasked-s{seed}"]["weights"])
            for seed in self.config.seeds
            if f"unmasked-s{seed}" in unmasked
        }

    def stores(self, weights: Mapping[int, Weights]) -> list[Cell]:
        """The maps that are made once, a cell for each explainer, stage and network."""
        cells: dict[str, Cell] = {}
        for seed in self.config.seeds:
            for name in filter(self.config.stored, self.config.explainers):
                source = self.source(name, seed, weights)
                for stage in STAGES:
                    cell = self._store_cell(source, seed, stage)
                    cells[cell.name] = cell
        return list(cells.values())

    def masked(self, weights: Mapping[int, Weights]) -> list[Cell]:
        """The trainings on masked images, in the order of ``keys``."""
        return [self._masked_cell(key, weights) for key in self.keys]

    def examples(self, weights: Mapping[int, Weights]) -> list[Cell]:
        """What the report's examples are made of, if there shall be some: one cell."""
        if not self.config.examples:
            return []
        seed = self.config.seeds[0]
        sources = {name: self.source(name, seed, weights, online=True) for name in self.config.explainers}
        fingerprint = {
            "training": plain(asdict(self.training)),
            "maps": {name: _source_fingerprint(source) for name, source in sources.items()},
            "count": self.config.examples,
        }
        arguments = {"training": self.training, "sources": sources, "count": self.config.examples}
        return [Cell(EXAMPLES, example_maps, arguments, fingerprint)]

    def source(self, name: str, seed: int, weights: Mapping[int, Weights], online: bool = False) -> MapSource:
        """Where the maps of an explainer come from in the cells of a seed."""
        which, options = self.config.explainer_of(name)
        if which == RANDOM:
            options = {"seed": seed, **options}
        network = weights.get(seed, Weights(network_file(self.output, seed), ""))
        folder = None
        if self.config.stored(name) and not online:
            # One network for all seeds has one set of maps, unless these are drawn anew for each seed.
            own = self.config.checkpoint is None or which == RANDOM
            folder = self.output / "maps" / (f"{file_name(name)}-s{seed}" if own else file_name(name))
        return MapSource(which, options, str(network.path), network.hash, None if folder is None else str(folder))

    def _store_cell(self, source: MapSource, seed: int, stage: str) -> Cell:
        config = self.config
        arguments = {
            "training": self.training,
            "source": source,
            "seed": seed,
            "stage": stage,
            "size": config.map_size,
            "batch_size": config.map_batch_size,
        }
        fingerprint = {
            "data": dict(self.training.data),
            "maps": _source_fingerprint(source),
            "size": config.map_size,
        }
        return Cell(f"maps-{Path(str(source.folder)).name}-{stage}", store_maps, arguments, fingerprint)

    def _masked_cell(self, key: MaskedKey, weights: Mapping[int, Weights]) -> Cell:
        source = self.source(key.explainer, key.seed, weights)
        mask = {"mode": key.mode, "fraction": key.fraction, "fill": self.config.fill}
        fingerprint = {
            "training": plain(asdict(self.training)),
            "seed": key.seed,
            "maps": {
                **_source_fingerprint(source),
                "stored": None if source.folder is None else {"size": self.config.map_size},
            },
            "mask": mask,
        }
        arguments = {"training": self.training, "source": source, "seed": key.seed, **mask}
        return Cell(key.name, train_masked, arguments, fingerprint)


def training_of(config: TrainingConfig) -> Training:
    """The part of a configuration that every cell needs."""
    return Training(config.data, config.model, config.epochs, config.network, config.metric, config.trainer)


def unmasked_cells(training: Training, seeds: Sequence[int], output: Path) -> list[Cell]:
    """One training on whole images for each seed, which keeps its network's weights."""
    return [
        Cell(
            f"unmasked-s{seed}",
            train_unmasked,
            {"training": training, "seed": seed, "weights": str(network_file(output, seed))},
            {"training": plain(asdict(training)), "seed": seed},
        )
        for seed in seeds
    ]


def network_file(output: Path, seed: int) -> Path:
    """The file of the weights of the network that was trained on whole images."""
    return output / "networks" / f"unmasked-s{seed}.pt"


def forget_lost(cells: Sequence[Cell], folder: Path) -> None:
    """Take the results of those cells away whose other files are gone: they are computed again."""
    for cell in cells:
        if read_record(cell, folder) is None:
            continue
        if cell.function is train_unmasked:
            lost = not Path(cell.arguments["weights"]).exists()
        else:
            lost = not _store_is_there(store_path(cell.arguments["source"], cell.arguments["stage"]))
        if lost:
            cell.path(folder).unlink()


def _store_is_there(path: Path) -> bool:
    try:
        SaliencyStore.open(path)
    except SaliencyStoreError:
        return False
    return True


def _source_fingerprint(source: MapSource) -> dict[str, Any]:
    return {"explainer": source.explainer, "options": plain(source.options), "weights": source.hash}


def given_weights(checkpoint: str, training: Training) -> Weights:
    """The weights in a file, as the network's own."""
    network = network_of(build_module(training.model), training.network)
    load_weights(network, checkpoint)
    return Weights(Path(checkpoint).resolve(), weights_fingerprint(network))
