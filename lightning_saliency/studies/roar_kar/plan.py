"""The plan of a ROAR and KAR study."""

from __future__ import annotations

from lightning_saliency.studies.costs import MapCost
from lightning_saliency.studies.engine.plan import Plan, plan_row
from lightning_saliency.studies.engine.run import read_cells
from lightning_saliency.studies.retraining.costs import map_costs, training_costs
from lightning_saliency.studies.roar_kar.grid import STAGES, RoarKarGrid


def plan_grid(grid: RoarKarGrid) -> Plan:
    """The plan of a ROAR and KAR study, see `plan_roar_kar`."""
    config, training = grid.config, grid.training
    costs = training_costs(training, grid.fingerprint, grid.output)
    unmasked = grid.unmasked()
    weights = grid.weights(read_cells(unmasked, grid.folder))
    rows = [
        plan_row(
            "networks on whole images",
            grid.folder,
            unmasked,
            training.epochs,
            costs.cell_passes(training.epochs),
            4 * costs.parameters,
            costs.cell_seconds(training.epochs),
        )
    ]
    maps = map_costs(training, grid.fingerprint, config.explainers, grid.output)
    stores = grid.stores(weights)
    for name in filter(config.stored, config.explainers):
        passes, seconds = maps[name].passes, maps[name].seconds
        folders = {grid.source(name, seed, weights).folder for seed in config.seeds}
        for stage, images in zip(STAGES, (costs.train_images, costs.test_images), strict=True):
            cells = [
                cell
                for cell in stores
                if cell.arguments["stage"] == stage and cell.arguments["source"].folder in folders
            ]
            pixels = costs.pixels if config.map_size is None else min(config.map_size**2, costs.pixels)
            part = f"maps of {name}, {stage} images"
            rows.append(plan_row(part, grid.folder, cells, 0, images * passes, images * pixels, images * seconds))
    masked = dict(zip(grid.keys, grid.masked(weights), strict=True))
    for name in config.explainers:
        own = [cell for key, cell in masked.items() if key.explainer == name]
        cost = MapCost(0.0, 0.0) if config.stored(name) else maps[name]
        rows.append(
            plan_row(
                f"networks masked by {name}" + (", stored maps" if config.stored(name) else ""),
                grid.folder,
                own,
                training.epochs,
                costs.cell_passes(training.epochs, cost.passes),
                0,
                costs.cell_seconds(training.epochs, cost.seconds),
            )
        )
    return Plan(rows, config.plan_workers())
