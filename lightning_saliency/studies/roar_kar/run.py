"""Retraining on masked images: does accuracy fall where a map's pixels are removed, and hold where they are kept?"""

from __future__ import annotations

from typing import Any

from lightning_saliency.studies.engine.config import EngineConfig
from lightning_saliency.studies.engine.plan import Plan
from lightning_saliency.studies.engine.run import run_cells
from lightning_saliency.studies.retraining.config import TrainingConfig
from lightning_saliency.studies.retraining.grid import forget_lost
from lightning_saliency.studies.retraining.scores import (
    CombinedScores,
    combined_scores,
    quartile_shares,
    weights_from_scores,
)
from lightning_saliency.studies.roar_kar.config import RoarKarConfig
from lightning_saliency.studies.roar_kar.grid import EXAMPLES, RoarKarGrid
from lightning_saliency.studies.roar_kar.plan import plan_grid
from lightning_saliency.studies.roar_kar.rates import plan_by_rates
from lightning_saliency.studies.roar_kar.results import RoarKarResult

__all__ = [
    "CombinedScores",
    "EngineConfig",
    "Plan",
    "RoarKarConfig",
    "RoarKarResult",
    "TrainingConfig",
    "combined_scores",
    "plan_roar_kar",
    "quartile_shares",
    "run_roar_kar",
    "weights_from_scores",
]


def run_roar_kar(config: RoarKarConfig | None = None, /, *, progress: bool = True, **options: Any) -> RoarKarResult:
    """Run a ROAR and KAR study (SMOE paper, Sec. 2.4 and 3.2): explainers × {ROAR, KAR} × fractions × seeds.

    For each seed a network is trained on whole images; maps of it, or of a checkpoint's network, say which pixels of
    the training and test images are removed (ROAR) or kept (KAR); for every cell of the grid a new network is trained
    from the same initial weights, on the data in the same order, and tested on images masked alike. Differences between
    cells of one seed are therefore paired.

    Each result is its own file, written in one step: if the study is killed, the next call computes what is
    missing.

    Args:
        config: The study; or its fields as options.
        progress: Whether bars are shown on the error stream.
        **options: The fields of `RoarKarConfig`, where no config is given.

    Returns:
        All accuracies; ``print(result)`` shows the table, ``result.save()`` writes CSV files, figures and one HTML page
        into the output folder.

    Raises:
        CellError: If cells could not be computed.
        StaleResultsError: If the output folder holds results of another study.
        TypeError: If an option does not exist or is of another type.
        ValueError: If an option is out of range or a name unknown.

    Example:
        >>> result = run_roar_kar(  # doctest: +SKIP
        ...     data=DigitScenes(train_size=4000),
        ...     model={"model": "small_cnn", "num_classes": 10},
        ...     explainers=["smoe", "fast_cam"],
        ...     output="runs/digits",
        ... )
        >>> result.combined("smoe").sum.value  # doctest: +SKIP
    """
    config = RoarKarConfig(**options) if config is None else config
    grid = RoarKarGrid(config)
    grid.check()
    engine = {**config.engine_options(), "progress": progress}
    forget_lost(grid.unmasked(), grid.folder)
    unmasked = run_cells(grid.unmasked(), grid.folder, **engine)
    weights = grid.weights(unmasked)
    forget_lost(grid.stores(weights), grid.folder)
    run_cells(grid.stores(weights), grid.folder, **engine)
    results = run_cells([*grid.examples(weights), *grid.masked(weights)], grid.folder, **engine)
    examples = grid.gather_examples(results)
    return RoarKarResult.gather(grid, unmasked, {**results, EXAMPLES: examples} if examples else results)


def plan_roar_kar(config: RoarKarConfig | None = None, /, **options: Any) -> Plan:
    """What a ROAR and KAR study costs, without running it.

    The time is estimated from finished cells, or else from a few steps on a few images and one map of each
    explainer, which are timed here and now, and kept. With ``rates`` nothing is timed, see `PlanRates`.

    Args:
        config: The study; or its fields as options.
        **options: As for `run_roar_kar`.

    Returns:
        Cells, epochs, forward passes, storage and time of each part; ``print(plan)`` shows them.
    """
    config = RoarKarConfig(**options) if config is None else config
    return plan_grid(RoarKarGrid(config)) if config.rates is None else plan_by_rates(config, config.rates)
