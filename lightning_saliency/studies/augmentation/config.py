"""What a comparison of augmentations consists of: models, data, training, arms."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from lightning_saliency.studies.augmentation.arms import Arm, parse_arms
from lightning_saliency.studies.engine.config import EngineConfig
from lightning_saliency.studies.specs import as_spec

Budget = Literal["steps", "time"]
BUDGETS: tuple[Budget, ...] = ("steps", "time")


@dataclass
class FineTunedModel:
    """A network by name, with the weights that fine-tuning begins with; the first fields are `ImageClassifier`'s.

    Args:
        model: Name of the network, see `lightning_saliency.networks.build_network`; also ``path/file.py:function``.
        checkpoint: File of its weights, see `lightning_saliency.networks.load_weights`. ``None``: random ones.
        reset_head: Begin with the file's weights in all but the last layer.
        library: Where the name is looked up.
        model_options: Further arguments of the network's builder.
        optimizer: ``adamw`` or ``sgd``, in place of the training's.
        learning_rate: The largest learning rate, in place of the training's.
        without: Dotted names of modules that are replaced by the identity: for example an activation behind the last
            layer, as SqueezeNet has it, under which those classes of a new head are dead that begin below zero.
        freeze_batch_norm: Leave BatchNorm in evaluation mode: for networks whose statistics must not be touched, for
            example those folded into the convolutions.
    """

    model: str
    checkpoint: str | None = None
    reset_head: bool = True
    library: Literal["torchvision", "timm"] = "torchvision"
    model_options: dict[str, Any] | None = None
    optimizer: Literal["adamw", "sgd"] | None = None
    learning_rate: float | None = None
    without: list[str] = field(default_factory=list)
    freeze_batch_norm: bool = False


@dataclass
class FineTuningConfig:
    """How each arm is trained.

    Args:
        steps: Steps of the optimiser; within equal time so many for an arm whose step costs as much as plain
            training's.
        start_epoch: First epoch, from 0, in which the arms differ; plain training before.
        validations: Number of times the validation set is run in the course of training, its end included.
        optimizer: ``adamw`` or ``sgd``.
        learning_rate: The largest learning rate.
        weight_decay: Weight decay of the optimiser.
        momentum: Momentum of SGD.
        nesterov: Whether SGD's momentum is Nesterov's.
        scheduler: ``cosine``, ``one_cycle`` or none, see `lightning_saliency.classifier.ImageClassifier`; it ends
            with the arm's own last step.
        precision: Lightning's, such as ``32-true`` or ``bf16-mixed``.
        accelerator: Lightning's, such as ``auto``, ``cpu``, ``gpu``.

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
                "steps and validations from 1 and start_epoch from 0."
            )


@dataclass
class CostConfig:
    """How the cost of a step of each arm is measured.

    What is timed is a step in which an arm does most, and a plain one. An arm pays for as much of the difference as it
    does in each planned step: in some epochs only (``start_epoch``), with the probability that its schedule has in each
    epoch, every so many steps (``every_n_steps``). Maps that it uses again (``reuse_epochs``) are counted as if they
    were made anew, since a few steps do not tell how many images come back unchanged.

    Args:
        steps: Timed steps of each arm in each round; two more before them are not counted.
        rounds: Number of rounds, in each of which every arm has its turn; the ratio to plain training is the median of
            the rounds'.
        tolerance: Arms whose steps cost up to ``1 + tolerance`` times what the reference's do count as equal to it:
            they get as many steps within equal time, and their runs of equal steps serve for both.

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
                "rounds from 1 and a tolerance from 0."
            )


@dataclass
class AugmentationConfig(EngineConfig):
    """All of a comparison of augmentations; see `EngineConfig` for the fields that are not listed here.

    Args:
        models: Name in the table -> network, as `FineTunedModel` or a mapping of its fields.
        data: The data module: ``{"class_path": ..., "init_args": {...}}``, or one that saved its arguments with
            ``save_hyperparameters()``. It has ``num_classes``, and training, validation and test loaders whose batches
            hold images and integer labels.
        arms: Name in the table -> augmentation, see `lightning_saliency.studies.augmentation.arms.parse_arms`.
        seeded_data: Whether each seed of the study has data of its own: the data module's ``seed`` (0 where it is left
            out) is raised by the study's seed. The interval then holds the choice of the data too.
        training: How each arm is trained.
        cost: How the cost of a step is measured.
        seeds: Each arm is trained once from each.
        budgets: What the arms have equally much of: ``steps``, wall ``time``, or both. ``time`` takes arms that use no
            map again.
        reference: The arm that the others are compared with.
        controls: Arms that those guided by saliency maps are compared with as well: guided arm -> its own controls, of
            the same guide and options; or a list, the same for all of them. In the table a control that is called
            ``<arm>, <name>`` is its arm's ``its <name>``.
        confidence: Confidence of the intervals, in (0, 1).

    Raises:
        TypeError: If the data are something else.
        ValueError: If something is out of range, or an arm that is named does not exist.
    """

    models: Any = field(default_factory=dict)
    data: Any = None
    arms: Any = field(default_factory=dict)
    seeded_data: bool = False
    training: FineTuningConfig = field(default_factory=FineTuningConfig)
    cost: CostConfig = field(default_factory=CostConfig)
    seeds: list[int] = field(default_factory=lambda: [0, 1, 2])
    budgets: list[Budget] = field(default_factory=lambda: list(BUDGETS))
    reference: str = "plain"
    controls: dict[str, list[str]] | list[str] = field(default_factory=list)
    confidence: float = 0.95
    output: str | None = "runs/compare_augmentation"

    def __post_init__(self) -> None:
        given: Mapping[str, Any] = self.models
        self.models: dict[str, FineTunedModel] = {
            name: model if isinstance(model, FineTunedModel) else _from_mapping(FineTunedModel, model)
            for name, model in given.items()
        }
        self.training = _from_mapping(FineTuningConfig, self.training)
        self.cost = _from_mapping(CostConfig, self.cost)
        self.data = as_spec(self.data)
        self.arms: dict[str, Arm] = parse_arms(self.arms)
        if not self.models or not self.seeds or len(set(self.seeds)) < len(self.seeds) or min(self.seeds) < 0:
            raise ValueError(
                f"Got {len(self.models)} models and seeds={self.seeds}. Allowed are one model and more, and different "
                "seeds from 0."
            )
        if not self.budgets or set(self.budgets) - set(BUDGETS):
            raise ValueError(f"Got budgets={self.budgets}. Allowed are {', '.join(BUDGETS)}; name one or both.")
        named = [self.reference, *self.controls]
        if isinstance(self.controls, Mapping):
            named += [control for own in self.controls.values() for control in own]
        unknown = [name for name in named if name not in self.arms]
        if unknown:
            raise ValueError(
                f"Got {', '.join(unknown)} as reference or control, which is no arm. Allowed are "
                f"{', '.join(self.arms)}; add the arm or name another."
            )

    def guide_of(self, arm: str) -> str:
        """The guided arm that an arm is the own control of; otherwise the arm itself."""
        own = self.controls if isinstance(self.controls, Mapping) else {}
        guides = [guide for guide, controls in own.items() if arm in controls]
        return guides[0] if len(guides) == 1 else arm

    def controls_of(self, arm: str) -> list[str]:
        """The controls that an arm guided by saliency maps is compared with."""
        return list(self.controls.get(arm, []) if isinstance(self.controls, Mapping) else self.controls)


def _from_mapping(config: type[Any], given: Any) -> Any:
    """A dataclass of the configuration, from its fields where these are given."""
    if isinstance(given, config):
        return given
    try:
        return config(**given)
    except TypeError as error:
        allowed = ", ".join(config.__dataclass_fields__)
        raise ValueError(f"Got {given!r} ({error}). Allowed are a mapping of {allowed}; correct it.") from error
