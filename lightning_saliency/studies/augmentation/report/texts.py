"""The texts of a comparison of augmentations for its tables and page, and its numbers as CSV."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from lightning_saliency.explainers.registry import plain_value
from lightning_saliency.studies.augmentation.arms.arm import Arm
from lightning_saliency.studies.augmentation.biases import BIASES
from lightning_saliency.studies.augmentation.config import AugmentationConfig
from lightning_saliency.studies.augmentation.grid import AugmentationGrid
from lightning_saliency.studies.augmentation.groups import Number, number_of
from lightning_saliency.studies.engine.files import as_csv
from lightning_saliency.studies.specs import given_arguments


def caption(config: AugmentationConfig) -> str:
    """How the numbers of a comparison were obtained: seeds, intervals, budgets, costs."""
    training, seeds = config.training, len(config.seeds)
    images = (
        "each seed has its own images"
        if config.seeded_data
        else "the test images are the same for all seeds, so that the intervals say nothing of others"
    )
    means = "One seed: no intervals; differences are those of that seed"
    if seeds > 1:
        means = (
            f"Means over {seeds} seeds; differences are paired by seed, their {config.confidence:.0%} intervals "
            f"Student's t with {seeds - 1} degree{'s' if seeds > 2 else ''} of freedom, not corrected for the number "
            "of arms"
        )
    equal_time = (
        f"; for equal wall time as many as take as long as those of {config.reference}, up to "
        f"{config.cost.tolerance:.0%} more time counting as equal"
        + (", and a guide's own controls have as many as the guide" if isinstance(config.controls, Mapping) else "")
    )
    longer = "".join(f"; {name}: {config.steps_of(name)}" for name in config.lengths)
    return (
        f"{means}; {images}. {_started(config)}"
        f"{training.steps} steps{longer}{equal_time if 'time' in config.budgets else ''}. Cost of a step: relative to "
        f"{config.reference}, the mean of the planned steps from epoch {training.start_epoch} on; median, minimum and "
        f"maximum of {config.cost.rounds} round{'s' if config.cost.rounds > 1 else ''}."
    )


def _started(config: AugmentationConfig) -> str:
    """From where the arms go on, and what the numbers of the groups are."""
    found = ""
    if config.first is not None:
        found += f"All arms of a seed go on from the same network, trained plainly for {config.first.steps} steps. "
    if config.honest is not None:
        found += (
            "The honest network was trained as long on data without the shortcut; an arm closes the share (arm − "
            "before) / (honest − before) of the gap, seed by seed, those left out in which honest is not above before. "
            "Misled: test images with another class's mark. Worst group: the lowest accuracy of the groups class × own "
            "or other mark. "
        )
    return found


def facts(grid: AugmentationGrid) -> list[tuple[str, str]]:
    """What was trained on what, and how."""
    config, training = grid.config, grid.config.training
    models = [f"{name} ({_arguments(given.get('init_args') or given)})" for name, given in config.models.items()]
    data = config.data_spec(config.seeds[0])
    kind = data["class_path"].rpartition(".")[2]
    schedule = "" if training.scheduler is None else f", {training.scheduler} schedule"
    return [
        ("models", "; ".join(models)),
        ("data", f"{kind} ({_arguments(given_arguments(data))})"),
        (
            "training",
            f"{training.steps} steps of {training.optimizer}, learning rate {training.learning_rate:g}{schedule}"
            + "".join(f"; {name}: {config.steps_of(name)} steps" for name in config.lengths)
            + (f"; plain before epoch {training.start_epoch}" if training.start_epoch else ""),
        ),
        *([] if config.first is None else [("first training", f"{config.first.steps} steps, plain")]),
        *([] if config.honest is None else [("honest data", f"the same, {_arguments(config.honest)}")]),
        ("seeds", ", ".join(map(str, config.seeds))),
        ("arms", "; ".join(map(_described, grid.arms.values()))),
    ]


def summary_csv(estimates: Mapping[str, Any], roles: Mapping[str, str]) -> str:
    """A line for each model, budget, arm and number.

    Args:
        estimates: Model -> budget -> arm -> key -> `Estimate`.
        roles: Arm -> its role.
    """
    lines: list[list[Any]] = [["model", "budget", "arm", "role", "key", "value", "low", "high", "count"]]
    lines += [
        [model, budget, arm, roles.get(arm, "bound"), key, *vars(value).values()]
        for model, budgets in estimates.items()
        for budget, arms in budgets.items()
        for arm, keys in arms.items()
        for key, value in keys.items()
    ]
    return as_csv(lines)


def runs_csv(runs: Mapping[str, Any]) -> str:
    """A line for each run.

    Args:
        runs: Model -> budget -> arm -> seed -> result.
    """
    keys = ("accuracy", "loss", "val_best", "val_last", "steps", "seconds_per_step", "kept_share", "augmented")
    numbers: tuple[Number, ...] = ("misled", "worst_group")
    lines: list[list[Any]] = [
        ["model", "budget", "arm", "seed", *keys, *(f"{number} in %" for number in numbers), *BIASES]
    ]
    lines += [
        [
            *(model, budget, arm, seed),
            *(run[key] for key in keys),
            *(number_of(run, number) for number in numbers),
            *(run.get(bias) for bias in BIASES),
        ]
        for model, budgets in runs.items()
        for budget, arms in budgets.items()
        for arm, seeds in arms.items()
        for seed, run in seeds.items()
    ]
    return as_csv(lines)


def _described(arm: Arm) -> str:
    listed = _arguments(arm.init_args)
    kind = "" if arm.kind == arm.name else arm.kind
    inside = ", ".join(part for part in (kind, listed) if part)
    return f"{arm.name} ({inside})" if inside else arm.name


def _arguments(given: Mapping[str, Any]) -> str:
    return ", ".join(f"{key}={_text(plain_value(value))}" for key, value in given.items())


def _text(value: Any) -> str:
    """A value in readable form; for a class, its name and arguments."""
    if isinstance(value, Mapping) and "class_path" in value:
        listed = _arguments(value.get("init_args") or {})
        return f"{value['class_path']} ({listed})" if listed else str(value["class_path"])
    if isinstance(value, Mapping):
        return ", ".join(map(str, value))
    return str(value)
