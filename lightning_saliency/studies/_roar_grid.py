"""The cells of a ROAR and KAR study: which there are, what each depends on, and what of them is on the disk."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import nn

from lightning_saliency.data.roar_kar import Mode, is_data_mean
from lightning_saliency.data.saliency_store import SaliencyStore, SaliencyStoreError
from lightning_saliency.functional.masking import fill_images
from lightning_saliency.networks import load_weights, weights_fingerprint
from lightning_saliency.studies._content import training_fingerprint
from lightning_saliency.studies._controls import build_method
from lightning_saliency.studies._files import file_name
from lightning_saliency.studies._grid_cells import Cell, plain, read_record
from lightning_saliency.studies._roar_cells import (
    MapSource,
    Training,
    example_images,
    example_maps,
    first_images,
    store_maps,
    store_path,
    train_masked,
    train_unmasked,
)
from lightning_saliency.studies._roar_config import RANDOM, RoarKarConfig, TrainingConfig
from lightning_saliency.studies._training import build_data, build_module, check_metric, network_of, quiet, seeded

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
        self.fingerprint = training_fingerprint(self.training)
        self.keys = [
            MaskedKey(explainer, mode, fraction, seed)
            for seed in config.seeds
            for mode in config.modes
            for fraction in config.fractions
            for explainer in config.explainers
        ]

    def check(self) -> None:
        """Build the network and each explainer and test a batch: what is wrong is found before anything is trained.

        Raises:
            ImportError: If an explainer needs a package that is not installed.
            TypeError: If the module or an explainer has no such option.
            ValueError: If a class cannot be imported or an option is out of range.
        """
        network = checked_network(self.training)
        with quiet(), seeded(0):
            for name in self.config.explainers:
                which, options = self.config.explainer_of(name)
                build_method(which, network, dict(options))
            if not is_data_mean(self.config.fill):
                fill_images(first_images(build_data(self.training.data), 1), self.config.fill)

    def unmasked(self) -> list[Cell]:
        """One training on whole images for each seed."""
        return unmasked_cells(self.training, self.fingerprint, self.config.seeds, self.output)

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
        """What the report's examples are made of, if there shall be some: the images, and each explainer's maps."""
        count, seed = self.config.examples, self.config.seeds[0]
        if not count:
            return []
        common = {"training": self.training, "count": count}
        content = {"training": self.fingerprint}
        cells = [Cell(f"{EXAMPLES}-{count}", example_images, common, content)]
        for name in self.config.explainers:
            source = self.source(name, seed, weights, online=True)
            own = {**content, "maps": _source_fingerprint(source)}
            cells.append(Cell(self._example_name(name), example_maps, {**common, "source": source}, own))
        return cells

    def gather_examples(self, results: Mapping[str, Mapping[str, Any]]) -> dict[str, Any] | None:
        """The images and the maps of each explainer, out of the results of all cells."""
        if not self.config.examples:
            return None
        return {
            "images": results[f"{EXAMPLES}-{self.config.examples}"]["images"],
            "maps": {name: results[self._example_name(name)]["maps"] for name in self.config.explainers},
        }

    def _example_name(self, explainer: str) -> str:
        return f"{EXAMPLES}-{self.config.examples}-{file_name(explainer)}-s{self.config.seeds[0]}"

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
            "data": {"spec": self.fingerprint["data"], "content": self.fingerprint["content"]["data"]},
            "maps": _source_fingerprint(source),
            "size": config.map_size,
            "precision": self.training.trainer.get("precision"),
        }
        return Cell(f"maps-{Path(str(source.folder)).name}-{stage}", store_maps, arguments, fingerprint)

    def _masked_cell(self, key: MaskedKey, weights: Mapping[int, Weights]) -> Cell:
        source = self.source(key.explainer, key.seed, weights)
        mask = {"mode": key.mode, "fraction": key.fraction, "fill": self.config.fill}
        fingerprint = {
            "training": self.fingerprint,
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


def checked_network(training: Training) -> nn.Module:
    """The network of a training, after a test of one batch: of the data, the module and its metric.

    Raises:
        TypeError: If the module or the data module has no such option.
        ValueError: If a class cannot be imported, or the module does not log the metric.
    """
    with quiet(), seeded(0):
        module = build_module(training.model)
        check_metric(module, build_data(training.data), training.trainer, training.metric)
        return network_of(module, training.network)


def unmasked_cells(
    training: Training, fingerprint: Mapping[str, Any], seeds: Sequence[int], output: Path
) -> list[Cell]:
    """One training on whole images for each seed, which keeps its network's weights."""
    return [
        Cell(
            f"unmasked-s{seed}",
            train_unmasked,
            {"training": training, "seed": seed, "weights": str(network_file(output, seed))},
            {"training": fingerprint, "seed": seed},
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
