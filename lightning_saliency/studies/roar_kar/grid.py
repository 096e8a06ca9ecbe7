"""The cells of a ROAR and KAR study: which cells there are, what each depends on, and which are done."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lightning_saliency.data.masked.module import Mode, is_data_mean
from lightning_saliency.files import safe_name
from lightning_saliency.functional.fills import fill_images
from lightning_saliency.studies.engine.cell import Cell
from lightning_saliency.studies.isolation import quiet, seeded
from lightning_saliency.studies.retraining.cells import (
    MapSource,
    example_images,
    example_maps,
    first_images,
    store_maps,
    train_masked,
)
from lightning_saliency.studies.retraining.content import training_fingerprint
from lightning_saliency.studies.retraining.grid import (
    Weights,
    checked_network,
    given_weights,
    network_file,
    training_of,
    unmasked_cells,
)
from lightning_saliency.studies.roar_kar.config import RANDOM, RoarKarConfig
from lightning_saliency.studies.specs import build_data

#: Stages whose images a cell sees; validation is skipped.
STAGES = ("train", "test")
EXAMPLES = "examples"


@dataclass(frozen=True)
class MaskedKey:
    """The key of a cell of the grid.

    Args:
        explainer: Its name in the table.
        mode: ``"roar"`` or ``"kar"``.
        fraction: Share of the pixels.
        seed: Seed of the training.
    """

    explainer: str
    mode: Mode
    fraction: float
    seed: int

    @property
    def name(self) -> str:
        """The cell's."""
        return f"{self.mode}-{100 * self.fraction:g}-{safe_name(self.explainer)}-s{self.seed}"


class RoarKarGrid:
    """All cells of a study.

    Args:
        config: The study.
    """

    def __init__(self, config: RoarKarConfig) -> None:
        self.config = config
        self.output = config.folder
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
        """Build the network and each explainer and test a batch, to find errors before anything is trained.

        Raises:
            ImportError: If an explainer needs a package that is not installed.
            TypeError: If the module or an explainer has no such option.
            ValueError: If a class cannot be imported or an option is out of range.
        """
        network = checked_network(self.training)
        with quiet(), seeded(0):
            for explainer in self.config.explainers.values():
                explainer(network)
            if not is_data_mean(self.config.fill):
                fill_images(first_images(build_data(self.training.data), 1), self.config.fill)

    def unmasked(self) -> list[Cell]:
        """One training on whole images for each seed."""
        return unmasked_cells(self.training, self.fingerprint, self.config.seeds, self.output)

    def weights(self, unmasked: Mapping[str, Mapping[str, Any]]) -> dict[int, Weights]:
        """The network whose maps are used, for each seed for which it is known already.

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
        """The cells that store maps, one for each explainer, stage and network."""
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
        """The cells of the report's examples, if there are any: the images, and each explainer's maps."""
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
        return f"{EXAMPLES}-{self.config.examples}-{safe_name(explainer)}-s{self.config.seeds[0]}"

    def source(self, name: str, seed: int, weights: Mapping[int, Weights], online: bool = False) -> MapSource:
        """Where the maps of an explainer come from in the cells of a seed."""
        explainer = self.config.explainers[name]
        if explainer.name == RANDOM:
            explainer = explainer.with_defaults(seed=seed)
        network = weights.get(seed, Weights(network_file(self.output, seed), ""))
        folder = None
        if self.config.stored(name) and not online:
            # One network for all seeds has one set of maps, unless these are drawn anew for each seed.
            own = self.config.checkpoint is None or explainer.name == RANDOM
            folder = self.output / "maps" / (f"{safe_name(name)}-s{seed}" if own else safe_name(name))
        return MapSource(explainer, str(network.path), network.hash, None if folder is None else str(folder))

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


def _source_fingerprint(source: MapSource) -> dict[str, Any]:
    return {"explainer": source.explainer.plain(), "weights": source.hash}
