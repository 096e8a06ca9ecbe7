"""The cells of a layer-masking study: a statistic masks one scale, and what comes after it is fine-tuned."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from lightning_saliency.functional.statistics import get_statistic
from lightning_saliency.networks import load_weights, weights_fingerprint
from lightning_saliency.scales.find import Scale, find_scales, named_scales
from lightning_saliency.studies.engine.cell import Cell, plain
from lightning_saliency.studies.engine.config import EngineConfig
from lightning_saliency.studies.engine.files import file_name
from lightning_saliency.studies.isolation import quiet, seeded
from lightning_saliency.studies.layer_masking.mask import RANDOM, LayerMask, modules_before
from lightning_saliency.studies.retraining.cells import Training, first_images
from lightning_saliency.studies.retraining.config import TrainingConfig
from lightning_saliency.studies.retraining.content import training_fingerprint
from lightning_saliency.studies.retraining.grid import (
    Weights,
    checked_network,
    given_weights,
    network_file,
    training_of,
    unmasked_cells,
)
from lightning_saliency.studies.retraining.training import fit_and_test, network_of, network_path
from lightning_saliency.studies.specs import build_data, build_module

#: The nine statistics of the SMOE paper's Table 1, in its order.
STATISTICS = (
    "smoe_scale",
    "std",
    "truncnormal_entropy",
    "shannon_entropy",
    "truncnormal_std",
    "truncnormal_mean",
    "mean",
    "lognormal_entropy",
    "lognormal_mean",
)
MODES = ("kar", "roar")


@dataclass
class LayerMaskingConfig(EngineConfig, TrainingConfig):
    """All of a layer-masking study, see `TrainingConfig` and `EngineConfig` for the fields that are not listed here.

    ``epochs`` and the module's own arguments are those of the networks that the masks are put into.

    Args:
        statistics: Names in ``STATISTICS`` of `lightning_saliency.functional.statistics`; the random map is added.
        layers: ``None``: every scale that ``find_scales`` finds; or names of modules, shallow to deep.
        fine_tuning_epochs: Of the layers after a mask, for each cell. The paper takes 25.
        fine_tuning: Arguments of the module that are others in fine-tuning, such as ``{"learning_rate": 0.001}``.
        kar_fraction: Share of the positions, the most salient, that KAR lets through.
        roar_fraction: Share of the positions, the least salient, that ROAR lets through.
        seeds: One training of every cell for each.
        checkpoint: File of the weights of the network that masks are put into (see
            `lightning_saliency.networks.load_weights`). ``None``: for each seed one is trained.
        confidence: Of the intervals over seeds.

    Raises:
        ValueError: If an option is out of range or a name unknown.
    """

    statistics: tuple[str, ...] = STATISTICS
    layers: tuple[str, ...] | None = None
    fine_tuning_epochs: int = 25
    fine_tuning: dict[str, Any] = field(default_factory=dict)
    kar_fraction: float = 0.025
    roar_fraction: float = 0.1
    seeds: tuple[int, ...] = (0, 1, 2)
    checkpoint: str | None = None
    confidence: float = 0.95

    def __post_init__(self) -> None:
        super().__post_init__()
        self.statistics = tuple(name for name in self.statistics if name != RANDOM)
        self.seeds = tuple(self.seeds)
        self.layers = None if self.layers is None else tuple(self.layers)
        for name in self.statistics:
            get_statistic(name)
        if not self.statistics or not self.seeds or self.fine_tuning_epochs < 1 or not 0 < self.confidence < 1:
            raise ValueError(
                f"Got {len(self.statistics)} statistics, {len(self.seeds)} seeds, fine_tuning_epochs="
                f"{self.fine_tuning_epochs} and confidence={self.confidence}. Allowed are 1 and more of each, and a "
                "share in (0, 1)."
            )
        if not 0 < self.kar_fraction < 1 or not 0 < self.roar_fraction < 1:
            raise ValueError(
                f"Got kar_fraction={self.kar_fraction} and roar_fraction={self.roar_fraction}. Allowed are shares of "
                "the positions in (0, 1); divide per cent by 100."
            )
        for given in (self.statistics, self.seeds, self.layers or ()):
            if len(set(given)) != len(given):
                raise ValueError(f"Got {given}, of which some are equal. Name each once.")

    def fraction(self, mode: str) -> float:
        """Share of the positions that a mode lets through."""
        return self.kar_fraction if mode == "kar" else self.roar_fraction


@dataclass(frozen=True)
class LayerKey:
    """Which cell of the grid.

    Args:
        statistic: Its name, or ``"random"``.
        mode: ``"roar"`` or ``"kar"``.
        scale: Number of the scale, from 0.
        seed: Of the fine-tuning.
    """

    statistic: str
    mode: str
    scale: int
    seed: int

    @property
    def name(self) -> str:
        """The cell's."""
        return f"layer{self.scale + 1}-{self.mode}-{file_name(self.statistic)}-s{self.seed}"


class LayerGrid:
    """All cells of a study.

    Args:
        config: The study.
        scales: What is masked.
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
        """The networks that masks are put into: one for each seed, or the accuracy of the one that is given."""
        if self.config.checkpoint is None:
            return unmasked_cells(self.training, self.fingerprint, self.config.seeds, self.output)
        given = given_weights(self.config.checkpoint, self.training)
        content = {"spec": self.fingerprint["data"], "content": self.fingerprint["content"]["data"]}
        tested = {"data": content, "weights": given.hash}
        return [Cell("unmasked", accuracy_unmasked, {"training": self.training, "weights": str(given.path)}, tested)]

    def weights(self, unmasked: Mapping[str, Mapping[str, Any]]) -> dict[int, Weights]:
        """For each seed the network that masks are put into, of those seeds where it is known by now."""
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
            # How long the masked network was trained is told by its weights.
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
    """
    training = training_of(config)
    with quiet(), seeded(0):
        network = checked_network(training) if check else network_of(build_module(training.model), training.network)
        image = first_images(build_data(training.data), 1)
        return find_scales(network, image) if config.layers is None else named_scales(network, config.layers, image)


def accuracy_unmasked(training: Training, weights: str) -> dict[str, Any]:
    """The accuracy of a network as it is.

    Args:
        training: Names the data and the kind of network.
        weights: File of its weights.

    Returns:
        ``accuracy`` in [0, 1] and ``weights`` (their fingerprint).
    """
    with quiet(), seeded(0):
        module = build_module(training.model)
        network = network_of(module, training.network)
        load_weights(network, weights)
        accuracy = fit_and_test(module, build_data(training.data), 0, 0, training.trainer, metric=training.metric)
    return {"accuracy": accuracy, "weights": weights_fingerprint(network)}


def tune_masked(
    training: Training,
    weights: str,
    hash: str,
    seed: int,
    scale: Scale,
    statistic: str,
    mode: str,
    fraction: float,
    epochs: int,
    changes: Mapping[str, Any],
) -> dict[str, Any]:
    """Mask one scale of a trained network, fine-tune what comes after it, and measure the accuracy with the mask.

    Args:
        training: Names the data and the network.
        weights: File of the network's weights.
        hash: Their fingerprint.
        seed: Of the order of the data and of random maps.
        scale: What is masked, see `LayerMask`.
        statistic: Likewise.
        mode: Likewise.
        fraction: Likewise.
        epochs: Of the fine-tuning.
        changes: Arguments of the module that are others in fine-tuning.

    Returns:
        ``accuracy`` in [0, 1].

    Raises:
        ValueError: If the file holds other weights than those the study was begun with.
    """
    with quiet(), seeded(seed):
        module = build_module(training.model, changes)
        network = network_of(module, training.network)
        load_weights(network, weights)
        if weights_fingerprint(network) != hash:
            raise ValueError(
                f"{weights} holds other weights than those that this study was begun with. Restore the file, or choose "
                "another output folder."
            )
        data = build_data(training.data)
        before = modules_before(network, scale, first_images(data, 1))
        path = network_path(module, training.network)
        mask = LayerMask(path, scale, before, statistic, mode, fraction, seed)
        accuracy = fit_and_test(module, data, epochs, seed, training.trainer, callbacks=(mask,), metric=training.metric)
    return {"accuracy": accuracy}
