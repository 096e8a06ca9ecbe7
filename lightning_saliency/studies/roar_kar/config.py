"""What a retraining study consists of, as a YAML file says it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, get_args

from lightning_saliency.data.masked.module import Mode
from lightning_saliency.explainers import CONTROL_MAPS, find_explainer
from lightning_saliency.studies.engine.config import EngineConfig
from lightning_saliency.studies.retraining.config import TrainingConfig

Source = Literal["auto", "online", "stored"]
MODES: tuple[Mode, ...] = ("roar", "kar")
RANDOM = "random"

#: Explainers that cost many passes a map: made once for all cells and epochs where ``source`` is ``"auto"``.
DEAR = frozenset(
    {
        "group_cam",
        "score_cam",
        "rise",
        "sise",
        "occlusion",
        "integrated_gradients",
        "gradient_smoothgrad_sq",
        "guided_backprop_smoothgrad_sq",
        "integrated_gradients_smoothgrad_sq",
    }
)


@dataclass
class RoarKarConfig(EngineConfig, TrainingConfig):
    """All of a ROAR and KAR study, see `TrainingConfig` and `EngineConfig` for the fields that are not listed here.

    Args:
        explainers: Name in the table -> options: those of the explainer; ``explainer``, its name in ``EXPLAINERS``
            where the table's is another; ``source``, as below, for this one. The random map is added if it is missing.
        modes: ``"roar"``, ``"kar"`` or both.
        fractions: Shares of the pixels that are removed or kept, in (0, 1).
        seeds: One training of every cell for each.
        checkpoint: File of the weights of the network whose maps are used (see
            `lightning_saliency.networks.load_weights`). ``None``: for each seed its own unmasked network.
        fill: What stands in place of removed pixels, see `lightning_saliency.data.masked.module.RoarKarDataModule`.
        source: ``"online"``: maps are made of each batch anew; ``"stored"``: once, and kept on the disk; ``"auto"``:
            stored for those that cost many passes a map.
        map_size: Side in pixels at which maps are stored; ``None``: the images' size.
        map_batch_size: Images explained at a time when maps are stored; ``None``: the data's batch size.
        confidence: Of the intervals over seeds.
        examples: Images whose masks the report shows.
    """

    explainers: Any = field(default_factory=dict)
    modes: tuple[Mode, ...] = MODES
    fractions: tuple[float, ...] = (0.1, 0.3, 0.5, 0.7, 0.9)
    seeds: tuple[int, ...] = (0, 1, 2)
    checkpoint: str | None = None
    fill: Any = "data_mean"
    source: Source = "auto"
    map_size: int | None = None
    map_batch_size: int | None = None
    confidence: float = 0.95
    examples: int = 3

    def __post_init__(self) -> None:
        super().__post_init__()
        self.explainers = checked_explainers(self.explainers)
        self.modes, self.fractions, self.seeds = tuple(self.modes), tuple(self.fractions), tuple(self.seeds)
        if not self.modes or not self.fractions or not self.seeds or not set(self.modes) <= set(MODES):
            raise ValueError(
                f"Got modes={self.modes}, fractions={self.fractions}, seeds={self.seeds}. Allowed are the modes "
                f"{', '.join(MODES)}, and at least one of each."
            )
        for fraction in self.fractions:
            if not 0 < fraction < 1:
                raise ValueError(
                    f"Got the fraction {fraction}. Allowed are shares in (0, 1), at whose ends nothing is left to be "
                    "compared; divide per cent by 100."
                )
        for given in (self.modes, self.fractions, self.seeds):
            if len(set(given)) != len(given):
                raise ValueError(f"Got {given}, of which some are equal. Name each once.")
        if self.source not in get_args(Source):
            raise ValueError(f"Got source={self.source!r}. Allowed are {', '.join(get_args(Source))}; use one of them.")
        for name, number in (("map_size", self.map_size), ("map_batch_size", self.map_batch_size)):
            if number is not None and number < 1:
                raise ValueError(f"Got {name}={number}. Allowed are None and whole numbers from 1; give one of them.")
        if not 0 < self.confidence < 1 or self.examples < 0:
            raise ValueError(
                f"Got confidence={self.confidence} and examples={self.examples}. Allowed are a share in (0, 1), and "
                "numbers from 0."
            )

    def explainer_of(self, name: str) -> tuple[str, dict[str, Any]]:
        """An explainer's name in ``EXPLAINERS`` or ``CONTROL_MAPS`` and its options."""
        options = {key: value for key, value in self.explainers[name].items() if key != "source"}
        return options.pop("explainer", name), options

    def stored(self, name: str) -> bool:
        """Whether an explainer's maps are kept on the disk."""
        source = self.explainers[name].get("source", self.source)
        return source == "stored" or (source == "auto" and self.explainer_of(name)[0] in DEAR)


def checked_explainers(explainers: Mapping[str, Any] | Sequence[str]) -> dict[str, dict[str, Any]]:
    """Each explainer's options, with the random map.

    Raises:
        ValueError: If an explainer or a source is unknown.

    Example:
        >>> checked_explainers(["smoe"])
        {'random': {}, 'smoe': {}}
    """
    given = explainers if isinstance(explainers, Mapping) else dict.fromkeys(explainers)
    found: dict[str, dict[str, Any]] = {RANDOM: {}} if RANDOM not in given else {}
    for name, options in given.items():
        found[str(name)] = dict(options or {})
        which, source = found[str(name)].get("explainer", name), found[str(name)].get("source", "auto")
        if which not in CONTROL_MAPS:
            try:
                find_explainer(which, CONTROL_MAPS)
            except ValueError as error:
                raise ValueError(
                    f"{error} Where the table shall show another name, give the explainer's as its option `explainer`."
                ) from None
        if source not in get_args(Source):
            raise ValueError(
                f"Got source={source!r} for {name}. Allowed are {', '.join(get_args(Source))}; use one of them."
            )
    if found[RANDOM].get("explainer", RANDOM) != RANDOM:
        raise ValueError(f"Got another explainer under the name {RANDOM!r}, which is the control's; rename it.")
    return found
