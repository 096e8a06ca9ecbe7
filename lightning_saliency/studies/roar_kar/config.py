"""The configuration of a retraining study, as in a YAML file."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, get_args

from lightning_saliency.data.masked.module import MODES, Mode
from lightning_saliency.explainers import ExplainerSpec, parse_explainers
from lightning_saliency.reports.masked_pixels import check_fractions
from lightning_saliency.studies.engine.config import EngineConfig
from lightning_saliency.studies.retraining.config import TrainingConfig

Source = Literal["auto", "online", "stored"]
RANDOM = "random"


@dataclass(frozen=True)
class PlanRates:
    """What a plan is made of instead of timing anything here, such as the rates of a machine that is not here.

    Args:
        train: Images a second on which one cell trains.
        test: Images a second that one cell passes forward.
        train_images: Images of an epoch.
        test_images: Images of the test.
        pixels: H · W of an image.
        channels: Its channels.

    Raises:
        TypeError: If an argument is missing or unknown.
        ValueError: If a number is not above 0.
    """

    train: float
    test: float
    train_images: int
    test_images: int
    pixels: int = 224 * 224
    channels: int = 3

    def __post_init__(self) -> None:
        for name, number in vars(self).items():
            if not isinstance(number, (int, float)) or not number > 0:
                raise ValueError(
                    f"Got rates with {name}={number!r}. Allowed are numbers above 0, rates in images a second; give "
                    "those of the machines that the study is to run on."
                )


@dataclass
class RoarKarConfig(EngineConfig, TrainingConfig):
    """The options of a ROAR and KAR study, beside those of `TrainingConfig` and `EngineConfig`.

    Args:
        explainers: Name in the table -> explainer, or a list of names, see
            `lightning_saliency.explainers.parse_explainers`. The random map is added if it is missing.
        modes: ``"roar"``, ``"kar"`` or both.
        fractions: Shares of the pixels that are removed or kept, in (0, 1).
        seeds: Each cell is trained once from each seed.
        checkpoint: File of the weights of the network whose maps are used (see
            `lightning_saliency.networks.load_weights`). ``None``: for each seed its own unmasked network.
        fill: What stands in place of removed pixels, see `lightning_saliency.data.masked.module.RoarKarDataModule`.
        source: ``"online"``: maps are computed for each batch; ``"stored"``: once, and kept on the disk; ``"auto"``:
            stored for explainers that need many passes per map. Or a mapping from rows to one of these, with ``"auto"``
            for the others.
        map_size: Side in pixels at which maps are stored; ``None``: the images' size.
        map_batch_size: Images explained at a time when maps are stored; ``None``: the data's batch size.
        confidence: Confidence of the intervals over seeds, in (0, 1).
        examples: Number of images whose masks the page shows.
        rates: For ``--plan`` alone: the rates of other machines and the number of images, as a mapping of `PlanRates`'s
            arguments. The data need not be here then, and nothing is timed.
    """

    explainers: Any = field(default_factory=dict)
    modes: tuple[Mode, ...] = MODES
    fractions: tuple[float, ...] = (0.1, 0.3, 0.5, 0.7, 0.9)
    seeds: tuple[int, ...] = (0, 1, 2)
    checkpoint: str | None = None
    fill: Any = "data_mean"
    source: Any = "auto"
    map_size: int | None = None
    map_batch_size: int | None = None
    confidence: float = 0.95
    examples: int = 3
    rates: Any = None

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.rates is not None and not isinstance(self.rates, PlanRates):
            self.rates = PlanRates(**self.rates)
        self.explainers: dict[str, ExplainerSpec] = checked_explainers(self.explainers)
        self.modes, self.fractions, self.seeds = tuple(self.modes), tuple(self.fractions), tuple(self.seeds)
        if not self.modes or not self.fractions or not self.seeds or not set(self.modes) <= set(MODES):
            raise ValueError(
                f"Got modes={self.modes}, fractions={self.fractions}, seeds={self.seeds}. Allowed are the modes "
                f"{', '.join(MODES)}, and at least one of each."
            )
        check_fractions(self.fractions)
        for given in (self.modes, self.fractions, self.seeds):
            if len(set(given)) != len(given):
                raise ValueError(f"Got {given}, of which some are equal. Name each once.")
        sources = self.source if isinstance(self.source, Mapping) else {"": self.source}
        unknown = [name for name in sources if name and name not in self.explainers]
        if unknown or not set(sources.values()) <= set(get_args(Source)):
            raise ValueError(
                f"Got source={self.source!r}. Allowed are {', '.join(get_args(Source))}, or a mapping from rows "
                f"({', '.join(self.explainers)}) to one of them."
            )
        for name, number in (("map_size", self.map_size), ("map_batch_size", self.map_batch_size)):
            if number is not None and number < 1:
                raise ValueError(f"Got {name}={number}. Allowed are None and whole numbers from 1; give one of them.")
        if not 0 < self.confidence < 1 or self.examples < 0:
            raise ValueError(
                f"Got confidence={self.confidence} and examples={self.examples}. Allowed are a share in (0, 1), and "
                "numbers from 0."
            )

    def stored(self, name: str) -> bool:
        """Whether an explainer's maps are kept on the disk."""
        source: str = self.source.get(name, "auto") if isinstance(self.source, Mapping) else self.source
        return source == "stored" or (source == "auto" and self.explainers[name].expensive)


def checked_explainers(explainers: Any) -> dict[str, ExplainerSpec]:
    """The explainers by row, the random map among them.

    Raises:
        TypeError: If an explainer has no such option.
        ValueError: If an explainer is unknown.

    Example:
        >>> list(checked_explainers(["smoe"]))
        ['random', 'smoe']
    """
    found = parse_explainers(explainers) if explainers else {}
    if RANDOM not in found:
        return {RANDOM: ExplainerSpec.parse(RANDOM), **found}
    if found[RANDOM].name != RANDOM:
        raise ValueError(f"Got another explainer under the name {RANDOM!r}, which is the control's; rename it.")
    return found
