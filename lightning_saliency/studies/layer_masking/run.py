"""Which statistic shows best, scale by scale, where a network's information is: masks inside the network."""

from __future__ import annotations

from typing import Any

from lightning_saliency.studies.engine.plan import Plan, plan_row
from lightning_saliency.studies.engine.run import read_cells, run_cells
from lightning_saliency.studies.layer_masking.config import PAPER_STATISTICS, LayerMaskingConfig
from lightning_saliency.studies.layer_masking.grid import LayerGrid, scales_of
from lightning_saliency.studies.layer_masking.mask import LayerMask, modules_before
from lightning_saliency.studies.layer_masking.results import LayerMaskingResult
from lightning_saliency.studies.retraining.costs import training_costs
from lightning_saliency.studies.retraining.grid import forget_lost

__all__ = [
    "PAPER_STATISTICS",
    "LayerMask",
    "LayerMaskingConfig",
    "LayerMaskingResult",
    "modules_before",
    "plan_layer_masking",
    "run_layer_masking",
]


def run_layer_masking(
    config: LayerMaskingConfig | None = None, /, *, progress: bool = True, **options: Any
) -> LayerMaskingResult:
    """Run a layer-masking study (SMOE paper, Sec. 3.1): statistics × {KAR, ROAR} × scales × seeds.

    In a trained network one scale is masked at a time: KAR lets only the positions through where a statistic of the
    activation is highest (2.5 %), ROAR only those where it is lowest (10 %). The layers after the scale are fine-tuned,
    those before it are frozen, and the accuracy is measured with the mask in place. A statistic is good where KAR stays
    high and ROAR low, compared with random masks.

    Each result is its own file, written in one step: if the study is killed, the next call computes what is
    missing.
    A ROAR and KAR study with the same ``output``, data, model and epochs shares the networks that are trained first.

    Args:
        config: The study; or its fields as options.
        progress: Whether bars are shown on the error stream.
        **options: The fields of `LayerMaskingConfig`, where no config is given.

    Returns:
        All accuracies; ``print(result)`` shows the tables, ``result.optimal_weights()`` gives weights for combined
        maps, ``result.save()`` writes CSV files, figures and one HTML page into the output folder.

    Raises:
        CellError: If cells could not be computed.
        NoScalesError: If the network has no scales.
        StaleResultsError: If the output folder holds results of another study.
        TypeError: If an option does not exist or is of another type.
        ValueError: If an option is out of range or a name unknown.

    Example:
        >>> result = run_layer_masking(  # doctest: +SKIP
        ...     data=DigitScenes(train_size=4000),
        ...     model={"model": "small_cnn", "num_classes": 10},
        ...     fine_tuning_epochs=3,
        ...     output="runs/layers",
        ... )
        >>> result.optimal_weights()  # doctest: +SKIP
    """
    config = LayerMaskingConfig(**options) if config is None else config
    grid = LayerGrid(config, scales_of(config))
    engine = {**config.engine_options(), "progress": progress}
    if config.checkpoint is None:
        forget_lost(grid.unmasked(), grid.folder)
    unmasked = run_cells(grid.unmasked(), grid.folder, **engine)
    results = run_cells(grid.masked(grid.weights(unmasked)), grid.folder, **engine)
    return LayerMaskingResult.gather(grid, unmasked, results)


def plan_layer_masking(config: LayerMaskingConfig | None = None, /, **options: Any) -> Plan:
    """What a layer-masking study costs, without running it.

    The time is estimated from finished cells, or else from a few steps of whole training, which take
    longer than that of the layers after a scale.

    Args:
        config: The study; or its fields as options.
        **options: As for `run_layer_masking`.

    Returns:
        Cells, epochs, forward passes, storage and time of each part; ``print(plan)`` shows them.
    """
    config = LayerMaskingConfig(**options) if config is None else config
    grid = LayerGrid(config, scales_of(config, check=False))
    costs = training_costs(grid.training, grid.fingerprint, grid.output)
    unmasked = grid.unmasked()
    epochs = config.epochs if config.checkpoint is None else 0
    rows = [
        plan_row(
            "networks without masks",
            grid.folder,
            unmasked,
            epochs,
            costs.cell_passes(epochs),
            4 * costs.parameters if epochs else 0,
            costs.cell_seconds(epochs),
        )
    ]
    masked = dict(zip(grid.keys, grid.masked(grid.weights(read_cells(unmasked, grid.folder))), strict=True))
    for place, scale in enumerate(grid.scales):
        rows.append(
            plan_row(
                f"masks at scale {place + 1} ({scale.module or 'the output'})",
                grid.folder,
                [cell for key, cell in masked.items() if key.scale == place],
                config.fine_tuning_epochs,
                costs.cell_passes(config.fine_tuning_epochs),
                0,
                costs.cell_seconds(config.fine_tuning_epochs),
            )
        )
    return Plan(rows, config.plan_workers())
