"""The configuration of a comparison of augmentations, as in a YAML file."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Literal, TypeVar

from lightning_saliency.checks import check_choice
from lightning_saliency.studies.augmentation.arms.arm import Arm, parse_arms
from lightning_saliency.studies.augmentation.groups import NUMBERS, Number
from lightning_saliency.studies.engine.config import EngineConfig
from lightning_saliency.studies.specs import as_spec

Budget = Literal["steps", "time"]
BUDGETS: tuple[Budget, ...] = ("steps", "time")
#: Names of the rows that are no arms: the network before the arms part, and one trained on data without the shortcut.
BEFORE, HONEST = "before fine-tuning", "honest"

_Options = TypeVar("_Options")


@dataclass
class FineTuningConfig:
    """How each arm is trained.

    Args:
        steps: Number of steps of the optimiser. For equal wall time, the number that the reference arm takes.
        start_epoch: First epoch, from 0, in which the arms differ. Before it all of them train plainly.
        validations: Number of validations during training, including one at its end.
        optimizer: ``"adamw"`` or ``"sgd"``.
        learning_rate: Learning rate of the optimiser; with a schedule, the maximum.
        weight_decay: Weight decay of the optimiser.
        momentum: Momentum of SGD.
        nesterov: Whether SGD's momentum has Nesterov's correction.
        scheduler: ``"cosine"``, ``"one_cycle"`` or ``None``, see `lightning_saliency.classifier.ImageClassifier`. The
            schedule ends with the arm's own last step.
        precision: Lightning's ``precision``, for example ``"32-true"`` or ``"bf16-mixed"``.
        accelerator: Lightning's ``accelerator``, for example ``"auto"``, ``"cpu"`` or ``"gpu"``.

    Raises:
        ValueError: If a number is out of range.
    """

    steps: int = 200
    start_epoch: int = 0
    validations: int = 4
    optimizer: Literal["adamw", "sgd"] = "adamw"
    learning_rate: float = 1e-3
    weight_decay: float = 1e-2
    momentum: float = 0.9
    nesterov: bool = False
    scheduler: Literal["cosine", "one_cycle"] | None = "cosine"
    precision: str = "32-true"
    accelerator: str = "auto"

    def __post_init__(self) -> None:
        if self.steps < 1 or self.start_epoch < 0 or self.validations < 1:
            raise ValueError(
                f"Got steps={self.steps}, start_epoch={self.start_epoch}, validations={self.validations}. Allowed are "
                "steps and validations from 1 and start_epoch from 0; change the one outside."
            )

    def model_defaults(self) -> dict[str, Any]:
        """Default arguments of the models."""
        names = ("optimizer", "learning_rate", "weight_decay", "momentum", "nesterov", "scheduler")
        return {name: getattr(self, name) for name in names}


@dataclass
class CostConfig:
    """How the study measures what a step of each arm costs.

    Two kinds of steps are timed: a plain one, and one in which the arm does the most. They give the cost of each
    planned step: an arm may act in some epochs only (``start_epoch``), with a probability that changes with the epoch.

    Args:
        steps: Timed steps of each arm in each round, after two that are not timed.
        rounds: Number of rounds. In each of them the arm and the reference take turns; the ratio of their costs is the
            median over the rounds.
        tolerance: Arms whose training costs up to ``1 + tolerance`` times the reference's get as many steps as the
            reference for equal wall time, and their runs of equal steps serve for both.

    Raises:
        ValueError: If a number is out of range.
    """

    steps: int = 8
    rounds: int = 3
    tolerance: float = 0.05

    def __post_init__(self) -> None:
        if self.steps < 1 or self.rounds < 1 or not self.tolerance >= 0:
            raise ValueError(
                f"Got steps={self.steps}, rounds={self.rounds}, tolerance={self.tolerance}. Allowed are steps and "
                "rounds from 1 and a tolerance from 0; change the one outside."
            )


@dataclass
class PrimaryConfig:
    """What a study is to show, named before it is run.

    Args:
        arm: Name of the arm.
        number: ``"accuracy"`` on the test images, which carry no mark; with data in groups also ``"misled"`` and
            ``"worst_group"``, see `lightning_saliency.studies.augmentation.groups.number_of`.

    Raises:
        ValueError: If there is no such number.
    """

    arm: str
    number: Number = "accuracy"

    def __post_init__(self) -> None:
        check_choice("primary.number", self.number, tuple(NUMBERS))


@dataclass
class AugmentationConfig(EngineConfig):
    """The options of a comparison of augmentations, beside those of `EngineConfig`.

    Args:
        models: Name in the table -> the network to fine-tune: arguments of
            `lightning_saliency.studies.augmentation.training.FineTunedClassifier`, or ``class_path`` and ``init_args``
            of a subclass. ``num_classes`` is the data's; the optimiser's arguments are those of ``training`` unless
            they are given here.
        data: The data module, ``class_path`` and ``init_args``. It has ``num_classes``, and its batches hold images and
            integer labels.
        arms: Name in the table -> the augmentation: ``None`` where the name says it, else its name, or its
            ``class_path`` and ``init_args``, see `lightning_saliency.studies.augmentation.arms.arm.parse_arms`.
        training: How each arm is trained; a `FineTuningConfig` or a mapping of its fields.
        first: A first, plain training of each seed, from whose weights all of its arms go on: a mapping of fields of
            ``training`` that are other in it, ``steps`` first of all. It has a schedule and an optimiser of its own.
            ``None``: the arms begin with the models' weights.
        honest: Arguments of the data module that are other for an honest network, such as ``{share: 0.0}`` of
            `lightning_saliency.data.PlantedShortcut`. It is trained as the arm ``plain`` is, the first training
            included, on these data, and shows what an arm could reach. ``None``: there is none.
        primary: The arm and the number that were chosen before any result was seen: a `PrimaryConfig` or a mapping of
            its fields. All differences are those of this number. ``None``: no arm, and the accuracy.
        cost: How the cost of a step is measured; a `CostConfig` or a mapping of its fields.
        seeds: Seeds, whole numbers from 0; each arm is trained once from each.
        seeded_data: Whether each seed of the study has its own data: the study's seed is added to the data module's
            ``seed``, and to that of a data module among its arguments. The intervals then include the choice of the
            data.
        budgets: What is equal for all arms: ``"steps"``, wall ``"time"``, or both. With ``"time"``, arms that use a map
            for several epochs are not allowed.
        lengths: Arm -> how many times ``training.steps`` it is trained where steps are equal, for example
            ``{"plain, longer": 1.5}``. Where arms that use maps again cost up to 1.5 plain steps, this is plain
            training of no less time.
        reference: The arm that the others are compared with.
        controls: Further arms that the guided arms are compared with. A mapping gives each guided arm
            its own controls, with the same guide and options; a list is the same for all of them. A control named
            ``<arm>, <name>`` is called ``its <name>`` in the table.
        confidence: Share of the intervals, in (0, 1).
        output: Folder of all results; a study that was killed continues from it.

    Raises:
        TypeError: If an option does not exist.
        ValueError: If a number is out of range, or an arm does not exist.
    """

    models: Any = field(default_factory=dict)
    data: Any = None
    arms: Any = field(default_factory=dict)
    training: FineTuningConfig = field(default_factory=FineTuningConfig)
    first: Any = None
    honest: dict[str, Any] | None = None
    primary: PrimaryConfig | None = None
    cost: CostConfig = field(default_factory=CostConfig)
    seeds: list[int] = field(default_factory=lambda: [0, 1, 2])
    seeded_data: bool = False
    budgets: list[Budget] = field(default_factory=lambda: list(BUDGETS))
    lengths: dict[str, float] = field(default_factory=dict)
    reference: str = "plain"
    controls: dict[str, list[str]] | list[str] = field(default_factory=list)
    confidence: float = 0.95
    output: str | None = "runs/compare_augmentation"

    def __post_init__(self) -> None:
        self.training = _options(FineTuningConfig, self.training)
        self.cost = _options(CostConfig, self.cost)
        self.primary = _options(PrimaryConfig, self.primary)
        if isinstance(self.first, Mapping):
            self.first = replace(self.training, **{"start_epoch": 0, "validations": 1, **self.first})
        for name, given in (("models", self.models), ("arms", self.arms)):
            if not isinstance(given, Mapping) or not given:
                raise ValueError(f"Got {name}={given!r}. Allowed is a mapping from names in the table; give one entry.")
        self.models = {str(name): dict(given) for name, given in self.models.items()}
        if self.data is None:
            raise ValueError("Got no data. Give the class_path and the init_args of a data module.")
        if not self.seeds or len(set(self.seeds)) < len(self.seeds) or min(self.seeds) < 0:
            raise ValueError(f"Got seeds={self.seeds}. Allowed are different whole numbers from 0; give one at least.")
        if not self.budgets or set(self.budgets) - set(BUDGETS):
            raise ValueError(f"Got budgets={self.budgets}. Allowed are {', '.join(BUDGETS)}; name one or both.")
        if not 0 < self.confidence < 1:
            raise ValueError(f"Got confidence={self.confidence}. Allowed are shares in (0, 1), for example 0.95.")
        self._check_arms()

    def _check_arms(self) -> None:
        arms = parse_arms(self.arms)
        taken = [name for name in (BEFORE, HONEST) if name in arms]
        if taken:
            raise ValueError(f"Got arms named {', '.join(taken)}. These rows the study adds itself; take other names.")
        if self.primary is not None and self.primary.arm not in arms:
            raise ValueError(
                f"Got primary.arm={self.primary.arm!r}, which is no arm. Allowed are {', '.join(arms)}; name one."
            )
        named = [self.reference, *self.controls]
        if isinstance(self.controls, Mapping):
            named += [control for own in self.controls.values() for control in own]
        unknown = [name for name in named if name not in arms]
        if unknown:
            raise ValueError(
                f"Got {', '.join(unknown)} as reference or control, which is no arm. Allowed are {', '.join(arms)}; "
                "add the arm or name another."
            )
        guided = [name for name, arm in arms.items() if arm.guided]
        others = [name for name in self.controls if isinstance(self.controls, Mapping) and name not in guided]
        if others:
            raise ValueError(
                f"Got controls of {', '.join(others)}, which no saliency map of its own guides. Allowed are "
                f"{', '.join(guided)}; leave the others out."
            )
        self._check_lengths(arms)
        reusing = [name for name, arm in arms.items() if arm.reuses_maps]
        if "time" in self.budgets and reusing:
            raise ValueError(
                f"Got the budget 'time' with {', '.join(reusing)}, which uses maps again (reuse_epochs): a few timed "
                "steps do not tell how many images come back unchanged, and so not what its step costs. Allowed are "
                "budgets=[steps], or reuse_epochs=1; choose one."
            )

    def _check_lengths(self, arms: Mapping[str, Arm]) -> None:
        if not isinstance(self.lengths, Mapping) or set(self.lengths) - set(arms):
            raise ValueError(
                f"Got lengths={self.lengths!r}. Allowed is a mapping from arms to numbers, the arms being "
                f"{', '.join(arms)}; name these."
            )
        unfit = {name: length for name, length in self.lengths.items() if not 0 < length < math.inf}
        if unfit or min(map(self.steps_of, arms), default=1) < 1:
            raise ValueError(
                f"Got lengths={dict(self.lengths)} with steps={self.training.steps}. Allowed are numbers above 0 that "
                "leave one step at least; raise the smallest."
            )

    def steps_of(self, arm: str) -> int:
        """Number of steps of an arm where steps are equal: ``training.steps`` by its entry in ``lengths``."""
        return round(self.training.steps * self.lengths.get(arm, 1.0))

    def parsed_arms(self) -> dict[str, Arm]:
        """Name in the table -> arm."""
        return parse_arms(self.arms)

    def data_spec(self, seed: int) -> dict[str, Any]:
        """The data module for one of the study's seeds, as ``class_path`` and ``init_args``."""
        return _seeded(self.data, seed) if self.seeded_data else as_spec(self.data)

    def honest_data_spec(self, seed: int) -> dict[str, Any]:
        """The data module of the honest network for one of the study's seeds."""
        spec = self.data_spec(seed)
        return as_spec({**spec, "init_args": {**spec["init_args"], **(self.honest or {})}})

    def guide_of(self, arm: str) -> str:
        """The guided arm whose own control an arm is; otherwise the arm itself."""
        own = self.controls if isinstance(self.controls, Mapping) else {}
        guides = [guide for guide, controls in own.items() if arm in controls]
        return guides[0] if len(guides) == 1 else arm

    def controls_of(self, arm: str) -> list[str]:
        """The controls that an arm guided by saliency maps is compared with."""
        return list(self.controls.get(arm, []) if isinstance(self.controls, Mapping) else self.controls)


def _seeded(data: Any, seed: int, outermost: bool = True) -> dict[str, Any]:
    """A data module's specification, a seed added to its own and to those of what is in its arguments."""
    spec = as_spec(data)
    init_args: dict[str, Any] = {
        name: _seeded(value, seed, False) if isinstance(value, Mapping) and "class_path" in value else value
        for name, value in spec["init_args"].items()
    }
    if outermost or "seed" in init_args:
        init_args["seed"] = int(init_args.get("seed") or 0) + seed
    return as_spec({**spec, "init_args": init_args})


def _options(kind: type[_Options], given: Any) -> _Options:
    return kind(**given) if isinstance(given, Mapping) else given
