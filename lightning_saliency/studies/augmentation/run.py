"""Augmentations compared: do saliency-guided blends help, beyond masks of no meaning, and at what cost?"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

from rich.console import Console
from rich.table import Table

from lightning_saliency.studies.augmentation.arms import Arm, parse_arms
from lightning_saliency.studies.augmentation.config import (
    AugmentationConfig,
    CostConfig,
    DataModuleConfig,
    FineTunedNetwork,
    TrainingConfig,
)
from lightning_saliency.studies.augmentation.figures import Role
from lightning_saliency.studies.augmentation.plan import Planner, Run, StepCost, affordable_steps
from lightning_saliency.studies.augmentation.results import AugmentationComparison, Runs
from lightning_saliency.studies.engine.progress import duration
from lightning_saliency.studies.estimates import paired_difference

__all__ = [
    "Arm",
    "AugmentationComparison",
    "AugmentationConfig",
    "AugmentationPlan",
    "CostConfig",
    "DataModuleConfig",
    "FineTunedNetwork",
    "TrainingConfig",
    "affordable_steps",
    "paired_difference",
    "parse_arms",
    "plan_augmentation",
    "run_augmentation",
]


@dataclass(frozen=True)
class AugmentationPlan:
    """What a comparison would do.

    Attributes:
        runs: Every training.
        missing: Those of which there is no result yet.
        costs: Network -> arm -> cost of a step.
        seconds: How long the missing ones will take.
    """

    runs: list[Run]
    missing: list[Run]
    costs: dict[str, dict[str, StepCost]]
    seconds: float

    def table(self) -> Table:
        """A line a network, arm and number of steps, to be printed by ``rich``."""
        table = Table("network", "arm", "budget", "steps", "cost of a step", "s/step", "runs", "done")
        groups: dict[tuple[str, str, int], list[Run]] = {}
        for run in self.runs:
            groups.setdefault((run.network, run.arm, run.steps), []).append(run)
        left = {run.cell.name for run in self.missing}
        for (network, arm, steps), runs in groups.items():
            cost, own = self.costs[network][arm], self.costs[network][arm].seconds[:steps]
            done = sum(run.cell.name not in left for run in runs)
            table.add_row(
                network,
                arm,
                " and ".join(runs[0].budgets),
                str(steps),
                f"{cost.ratio.value:.2f} ({cost.ratio.low:.2f}–{cost.ratio.high:.2f})",
                f"{math.fsum(own) / len(own):.3f}",
                str(len(runs)),
                str(done),
            )
        return table

    def summary(self) -> str:
        """How much there is to do, in a sentence."""
        return f"{len(self.missing)} of {len(self.runs)} runs are to be done; about {duration(self.seconds)}."


def plan_augmentation(config: AugmentationConfig, console: Console | None = None) -> AugmentationPlan:
    """What a comparison would run and how long it would take; nothing is trained to its end.

    The cost of a step is measured, unless it has been, and kept: the comparison then starts from it.

    Args:
        config: The comparison.
        console: Where progress is shown, by a bar on the error stream; ``None``: nowhere.

    Raises:
        CellError: If an arm cannot be trained at all.
        FileNotFoundError: If a file does not exist.
        StaleResultsError: If the folder holds results of something else.
        ValueError: If the configuration cannot be carried out.
    """
    return _planned(Planner(config), console is not None)


def run_augmentation(config: AugmentationConfig, console: Console | None = None) -> AugmentationComparison:
    """Train every arm from every seed, for equal steps and for equal wall time, and write the results.

    All arms of a seed begin with the same weights and see the same training images in the same order, cropped and
    mirrored alike; the augmentations draw from random numbers of their own. Within equal time an arm gets as many steps
    as take as long as all of the reference's, its learning rate's schedule ending with its own last step. What a step
    costs is measured before, arm by arm in turn with plain training (see `CostConfig`), and kept, so that a resumed
    comparison goes on with the same numbers.

    Args:
        config: The comparison.
        console: Where progress is shown, by a bar on the error stream; ``None``: nowhere.

    Returns:
        The results, which are also in ``config.output``.

    Raises:
        CellError: If runs failed, after all others were done.
        FileNotFoundError: If a file does not exist.
        StaleResultsError: If the folder holds results of something else.
        ValueError: If the configuration cannot be carried out.
    """
    planner = Planner(config)
    plan = _planned(planner, console is not None)
    if console is not None:
        console.print(plan.summary(), highlight=False)
    results = planner.compute(plan.runs, console is not None)
    runs: Runs = {network: {budget: {} for budget in config.budgets} for network in config.networks}
    for run in plan.runs:
        for budget in run.budgets:
            runs[run.network][budget].setdefault(run.arm, {})[run.seed] = dict(results[run.cell.name])
    costs = {network: {arm: cost.ratio for arm, cost in arms.items()} for network, arms in plan.costs.items()}
    roles = _roles(planner)
    controls = {arm: config.controls_of(arm) for arm, role in roles.items() if role == "guided"}
    comparison = AugmentationComparison(
        runs, costs, roles, config.reference, controls, config.confidence, _caption(config)
    )
    comparison.save(config.output)
    return comparison


def _planned(planner: Planner, progress: bool) -> AugmentationPlan:
    costs = planner.costs(progress)
    runs = planner.runs(costs)
    missing = planner.missing(runs)
    return AugmentationPlan(runs, missing, costs, planner.seconds(missing, costs))


def _roles(planner: Planner) -> dict[str, Role]:
    roles: dict[str, Role] = {}
    for name, arm in planner.arms.items():
        roles[name] = "guided" if arm.guided else "control" if arm.is_control else "other"
    return roles


def _caption(config: AugmentationConfig) -> str:
    training, seeds = config.training, len(config.seeds)
    images = (
        "each seed has images of its own"
        if config.data.seeded
        else "the test images are the same for all seeds, so that the intervals say nothing of others"
    )
    equal_time = (
        f"; within equal wall time as many as take as long as those of {config.reference}, up to "
        f"{config.cost.tolerance:.0%} more time being equal"
        + (", and a guide's own controls have as many as the guide" if isinstance(config.controls, Mapping) else "")
    )
    return (
        f"Means over {seeds} seed{'s' if seeds > 1 else ''}; differences are paired by seed, their "
        f"{config.confidence:.0%} intervals Student's t with {seeds - 1} degrees of freedom, not corrected "
        f"for the number of arms; {images}. "
        f"{training.steps} steps{equal_time if 'time' in config.budgets else ''}. Cost of a step: mean of the planned "
        f"ones from epoch {training.start_epoch} on; median, least and greatest of {config.cost.rounds} rounds in turn "
        f"with {config.reference}."
    )
