"""The grid of a layer-masking study: statistics × {KAR, ROAR} × scales × seeds."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from lightning_saliency.data.masked.module import MODES
from lightning_saliency.files import safe_name
from lightning_saliency.scales.find import find_scales, named_scales
from lightning_saliency.scales.scale import Scale
from lightning_saliency.studies.engine.cell import Cell, plain
from lightning_saliency.studies.isolation import quiet, seeded
from lightning_saliency.studies.layer_masking.cells import accuracy_unmasked, tune_masked
from lightning_saliency.studies.layer_masking.config import LayerMaskingConfig
from lightning_saliency.studies.layer_masking.mask import RANDOM
from lightning_saliency.studies.retraining.cells import first_images
from lightning_saliency.studies.retraining.content import training_fingerprint
from lightning_saliency.studies.retraining.grid import (
    Weights,
    checked_network,
    given_weights,
    network_file,
    per_cell,
    study_facts,
    training_of,
    unmasked_cells,
)
from lightning_saliency.studies.retraining.training import network_of
from lightning_saliency.studies.specs import build_data, build_module


@dataclass(frozen=True)
class LayerKey:
    """The key of a cell of the grid.

    Args:
        statistic: Name of the statistic, or ``"random"``.
        mode: ``"roar"`` or ``"kar"``.
        scale: Number of the scale, from 0.
        seed: Seed of the fine-tuning.
    """

    statistic: str
    mode: str
    scale: int
    seed: int

    @property
    def name(self) -> str:
        """Name of the cell."""
        return f"layer{self.scale + 1}-{self.mode}-{safe_name(self.statistic)}-s{self.seed}"


class LayerGrid:
    """All cells of a study.

    Args:
        config: The study.
        scales: The scales to mask.
    """

    def __init__(self, config: LayerMaskingConfig, scales: Sequence[Scale]) -> None:
        self.config = config
        self.scales = tuple(scales)
        self.output = config.folder
        self.folder = self.output / "cells"
        self.training = training_of(config)
        self.fingerprint = training_fingerprint(self.training)
        self.keys = [
            LayerKey(statistic, mode, scale, seed)
            for seed in config.seeds
            for scale in range(len(self.scales))
            for mode in MODES
            for statistic in (RANDOM, *config.statistics)
        ]

    def unmasked(self) -> list[Cell]:
        """The cells of the networks without masks: one training for each seed, or the accuracy of the given network."""
        if self.config.checkpoint is None:
            return unmasked_cells(self.training, self.fingerprint, self.config.seeds, self.output)
        given = given_weights(self.config.checkpoint, self.training)
        content = {"spec": self.fingerprint["data"], "content": self.fingerprint["content"]["data"]}
        metric = None if self.training.metric in ("", "test/accuracy") else self.training.metric
        # What is as by default is left out, as a part that is None counts as missing.
        tested = {
            "data": content,
            "weights": given.hash,
            "metric": metric,
            "trainer": self.fingerprint["trainer"] or None,
        }
        return [Cell("unmasked", accuracy_unmasked, {"training": self.training, "weights": str(given.path)}, tested)]

    def weights(self, unmasked: Mapping[str, Mapping[str, Any]]) -> dict[int, Weights]:
        """The network for each seed, as far as it is known already."""
        if self.config.checkpoint is not None:
            return dict.fromkeys(self.config.seeds, given_weights(self.config.checkpoint, self.training))
        return {
            seed: Weights(network_file(self.output, seed), unmasked[f"unmasked-s{seed}"]["weights"])
            for seed in self.config.seeds
            if f"unmasked-s{seed}" in unmasked
        }

    def masked(self, weights: Mapping[int, Weights]) -> list[Cell]:
        """The fine-tunings, in the order of ``keys``."""
        return [self._cell(key, weights) for key in self.keys]

    def facts(self) -> list[tuple[str, str]]:
        """The study in words, for its report."""
        config = self.config
        return [
            *study_facts(self.training),
            ("fine-tuning", per_cell(config.fine_tuning_epochs, config.seeds)),
            ("KAR lets through", f"{100 * config.kar_fraction:g} % of a scale's positions, the most salient"),
            ("ROAR lets through", f"{100 * config.roar_fraction:g} % of a scale's positions, the least salient"),
        ]

    def _cell(self, key: LayerKey, weights: Mapping[int, Weights]) -> Cell:
        network = weights.get(key.seed, Weights(network_file(self.output, key.seed), ""))
        mask = {
            "scale": self.scales[key.scale],
            "statistic": key.statistic,
            "mode": key.mode,
            "fraction": self.config.fraction(key.mode),
        }
        tuning = {"epochs": self.config.fine_tuning_epochs, "changes": dict(self.config.fine_tuning)}
        arguments = {
            "training": self.training,
            "weights": str(network.path),
            "hash": network.hash,
            "seed": key.seed,
            **mask,
            **tuning,
        }
        fingerprint = {
            # The weights show how long the masked network was trained.
            "training": {**self.fingerprint, "epochs": None},
            "weights": network.hash,
            "seed": key.seed,
            "mask": plain({**mask, "scale": vars(self.scales[key.scale])}),
            "fine_tuning": plain(tuning),
        }
        return Cell(key.name, tune_masked, arguments, fingerprint)


def scales_of(config: LayerMaskingConfig, check: bool = True) -> tuple[Scale, ...]:
    """The scales of a study's network, for images as its data module makes them.

    Args:
        config: The study.
        check: Whether a batch is tested first, see `checked_network`.

    Raises:
        TypeError: If the module has no such argument as ``fine_tuning`` names.
    """
    training = training_of(config)
    with quiet(), seeded(0):
        # The module of the fine-tuning: what it does not take is found before anything is trained.
        module = build_module(training.model, config.fine_tuning)
        network = checked_network(training) if check else network_of(module, training.network)
        image = first_images(build_data(training.data), 1)
        return find_scales(network, image) if config.layers is None else named_scales(network, config.layers, image)
