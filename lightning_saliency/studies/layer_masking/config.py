"""All options of a layer-masking study."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from lightning_saliency.functional.statistics import get_statistic
from lightning_saliency.studies.engine.config import EngineConfig
from lightning_saliency.studies.layer_masking.mask import RANDOM
from lightning_saliency.studies.retraining.config import TrainingConfig

#: The nine statistics of the SMOE paper's Table 1, in its order.
PAPER_STATISTICS = (
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


@dataclass
class LayerMaskingConfig(EngineConfig, TrainingConfig):
    """The options of a layer-masking study, beside those of `TrainingConfig` and `EngineConfig`.

    ``epochs`` and the module's own arguments are those of the networks that the masks are put into.

    Args:
        statistics: Names in ``STATISTICS`` of `lightning_saliency.functional.statistics`; the random map is added.
        layers: ``None``: every scale that ``find_scales`` finds; or names of modules, shallow to deep.
        fine_tuning_epochs: Epochs in which the layers after a mask are fine-tuned, for each cell. The paper takes 25.
        fine_tuning: Arguments of the module that differ in fine-tuning, such as ``{"learning_rate": 0.001}``.
        kar_fraction: Share of the positions that KAR lets through, the most salient ones.
        roar_fraction: Share of the positions that ROAR lets through, the least salient ones.
        seeds: Seeds; every cell is trained once for each.
        checkpoint: File of the weights of the network that masks are put into (see
            `lightning_saliency.networks.load_weights`). ``None``: for each seed one is trained.
        confidence: Level of the confidence intervals over seeds.

    Raises:
        ValueError: If an option is out of range or a name unknown.
    """

    statistics: tuple[str, ...] = PAPER_STATISTICS
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
