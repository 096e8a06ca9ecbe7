"""Augmentations compared: does blending guided by saliency maps help more than meaningless masks, and at what cost?"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from lightning_saliency.studies.augmentation.arms.arm import Arm, parse_arms
from lightning_saliency.studies.augmentation.config import AugmentationConfig, CostConfig, FineTuningConfig
from lightning_saliency.studies.augmentation.costs import StepCost, affordable_steps
from lightning_saliency.studies.augmentation.grid import AugmentationGrid
from lightning_saliency.studies.augmentation.plan import plan_grid
from lightning_saliency.studies.augmentation.report.results import AugmentationResult
from lightning_saliency.studies.augmentation.training import FineTunedClassifier
from lightning_saliency.studies.engine.plan import Plan
from lightning_saliency.studies.engine.run import run_cells

__all__ = [
    "Arm",
    "AugmentationConfig",
    "AugmentationResult",
    "CostConfig",
    "FineTunedClassifier",
    "FineTuningConfig",
    "Plan",
    "StepCost",
    "affordable_steps",
    "parse_arms",
    "plan_augmentation",
    "run_augmentation",
]


def run_augmentation(
    config: AugmentationConfig | None = None, /, *, progress: bool = True, **options: Any
) -> AugmentationResult:
    """Train every arm from every seed, for equal steps and for equal wall time, and test it.

    All arms of a seed begin with the same weights and see the same training images in the same order, cropped and
    mirrored alike; the augmentations draw from random numbers of their own. For equal wall time an arm gets the number
    of steps that takes as long as all of the reference's, and its learning rate's schedule ends with its own last step.
    The cost of a step is measured first, in turn with the reference (see `CostConfig`), and kept, so that a resumed
    study uses the same numbers.

    Each result is its own file, written in one step: if the study is killed, the next call computes what is
    missing.

    Args:
        config: The study; or its fields as options.
        progress: Whether bars are shown on the error stream.
        **options: The fields of `AugmentationConfig`; with a config, the fields to change.

    Returns:
        All results; ``print(result)`` shows the table and the verdicts, ``result.save()`` writes tables, figures and
        one HTML page into the output folder.

    Raises:
        CellError: If cells could not be computed, after all others were.
        FileNotFoundError: If a file does not exist.
        StaleResultsError: If the output folder holds results of another study.
        TypeError: If an option does not exist or is of another type.
        ValueError: If an option is out of range or a name unknown.

    Example:
        >>> result = run_augmentation(  # doctest: +SKIP
        ...     models={"small CNN": {"model": "small_cnn"}},
        ...     data={"class_path": "lightning_saliency.data.DigitScenes", "init_args": {"train_size": 2000}},
        ...     arms={
        ...         "plain": None,
        ...         "grad_cam": {"class_path": "saliency", "init_args": {"explainer": "grad_cam"}},
        ...         "random mask": {
        ...             "class_path": "saliency",
        ...             "init_args": {"explainer": "grad_cam", "control": "random_blobs"},
        ...         },
        ...     },
        ...     controls=["random mask"],
        ...     output="runs/digits",
        ... )
        >>> print(result)  # doctest: +SKIP
    """
    grid = AugmentationGrid(_config(config, options))
    engine = {**grid.config.engine_options(), "progress": progress}
    # On a cluster, where the arms are trained; on this machine one at a time, since timings would disturb each other.
    measured = run_cells(list(grid.cost_cells.values()), grid.costs_folder, **{**engine, "workers": 1})
    costs = grid.measured_costs(measured)
    beginnings = grid.beginnings()
    begun = run_cells([each.cell for each in beginnings], grid.first_folder, **engine)
    # Those of one seed together, since their data are read once.
    planned = sorted([*grid.runs(costs), *grid.honest_runs()], key=lambda run: grid.config.seeds.index(run.seed))
    results = run_cells([run.cell for run in planned], grid.folder, **engine)
    return AugmentationResult.gather(grid, planned, costs, results, beginnings, begun)


def plan_augmentation(config: AugmentationConfig | None = None, /, **options: Any) -> Plan:
    """What a comparison costs, without running it.

    The time is estimated from finished runs and from the study's own timings of steps. Without these, a step of each
    kind is timed now, on a few images if it takes long, and kept for the next plan.

    Args:
        config: The study; or its fields as options.
        **options: As for `run_augmentation`.

    Returns:
        Cells, epochs, forward passes and time of each part; ``print(plan)`` shows them.

    Raises:
        CellError: If an arm cannot be trained at all.
        FileNotFoundError: If a file does not exist.
        TypeError: If an option does not exist or is of another type.
        ValueError: If an option is out of range or a name unknown.
    """
    return plan_grid(AugmentationGrid(_config(config, options)))


def _config(config: AugmentationConfig | None, options: dict[str, Any]) -> AugmentationConfig:
    return AugmentationConfig(**options) if config is None else replace(config, **options)
