"""Augmentations compared: do saliency-guided blends help, beyond masks of no meaning, and at what cost?"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from lightning_saliency.studies.augmentation.config import AugmentationConfig
from lightning_saliency.studies.augmentation.figures import Role
from lightning_saliency.studies.augmentation.grid import ArmRun, AugmentationGrid
from lightning_saliency.studies.augmentation.results import AugmentationResult, Runs
from lightning_saliency.studies.engine.plan import Plan, plan_row


def run_augmentation(
    config: AugmentationConfig | None = None, /, *, progress: bool = True, **options: Any
) -> AugmentationResult:
    """Train every arm from every seed, for equal steps and for equal wall time.

    All arms of a seed begin with the same weights and see the same training images in the same order, cropped and
    mirrored alike; the augmentations draw from random numbers of their own. Within equal time an arm gets as many steps
    as take as long as all of the reference's, its learning rate's schedule ending with its own last step. What a step
    costs is measured before, arm by arm in turn with plain training (see `CostConfig`), and kept, so that a resumed
    comparison goes on with the same numbers.

    Args:
        config: The comparison; or its fields as options.
        progress: Whether bars are shown on the error stream.
        **options: The fields of `AugmentationConfig`, where no config is given.

    Returns:
        The results: ``print(result)`` shows the table and the verdicts, ``result.save()`` writes tables, figures and
        one HTML page into the output folder.

    Raises:
        CellError: If runs failed, after all others were done.
        FileNotFoundError: If a file does not exist.
        StaleResultsError: If the folder holds results of something else.
        ValueError: If the configuration cannot be carried out.
    """
    config = AugmentationConfig(**options) if config is None else config
    grid = AugmentationGrid(config)
    costs = grid.costs(progress)
    planned = grid.runs(costs)
    results = grid.compute(planned, progress)
    runs: Runs = {network: {budget: {} for budget in config.budgets} for network in config.models}
    for run in planned:
        for budget in run.budgets:
            runs[run.network][budget].setdefault(run.arm, {})[run.seed] = dict(results[run.cell.name])
    ratios = {network: {arm: cost.ratio for arm, cost in arms.items()} for network, arms in costs.items()}
    roles = _roles(grid)
    controls = {arm: config.controls_of(arm) for arm, role in roles.items() if role == "guided"}
    return AugmentationResult(
        runs, ratios, roles, config.reference, controls, config.confidence, _caption(config), grid.folder
    )


def plan_augmentation(config: AugmentationConfig | None = None, /, **options: Any) -> Plan:
    """What a comparison would run and how long it would take; nothing is trained.

    The cost of a step is taken from the comparison's own measurements where they are on the disk, and otherwise told by
    one step on a few images, timed here and now for each kind of arm: arms that differ in their control or in soft
    masks cost the same, and augmentations without maps cost what plain training does.

    Args:
        config: The comparison; or its fields as options.
        **options: As for `run_augmentation`.

    Returns:
        A row for each network, arm and number of steps; ``print(plan)`` shows them.

    Raises:
        CellError: If an arm cannot be trained at all.
        FileNotFoundError: If a file does not exist.
        ValueError: If the configuration cannot be carried out.
    """
    config = AugmentationConfig(**options) if config is None else config
    grid = AugmentationGrid(config)
    costs = grid.rough_costs()
    groups: dict[tuple[str, str, int], list[ArmRun]] = {}
    for run in grid.runs(costs):
        groups.setdefault((run.network, run.arm, run.steps), []).append(run)
    rows = []
    for (network, arm, steps), runs in groups.items():
        cost = costs[network][arm]
        part = f"{network}: {arm}, {steps} steps ({' and '.join(runs[0].budgets)})"
        seconds = grid.run_seconds(runs[0], costs)
        note = f"{cost.ratio.value:.2f}"
        cells = [run.cell for run in runs]
        rows.append(plan_row(part, grid.folder / "runs", cells, 0, 0, 0, seconds, note))
    return Plan(rows, config.plan_workers(), note="cost of a step")


def _roles(grid: AugmentationGrid) -> dict[str, Role]:
    roles: dict[str, Role] = {}
    for name, arm in grid.arms.items():
        roles[name] = "guided" if arm.guided else "control" if arm.is_control else "other"
    return roles


def _caption(config: AugmentationConfig) -> str:
    training, seeds = config.training, len(config.seeds)
    images = (
        "each seed has images of its own"
        if config.seeded_data
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
        f"ones from epoch {training.start_epoch} on; median, minimum and maximum of {config.cost.rounds} rounds in "
        f"turn with {config.reference}."
    )
