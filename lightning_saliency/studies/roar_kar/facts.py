"""The description of a retraining study for its report."""

from __future__ import annotations

from pathlib import Path

from lightning_saliency.studies.retraining.grid import per_cell, study_facts
from lightning_saliency.studies.roar_kar.grid import RoarKarGrid


def grid_facts(grid: RoarKarGrid) -> list[tuple[str, str]]:
    """All of a ROAR and KAR study."""
    config = grid.config
    maps = "of each seed's own network, trained on whole images"
    if config.checkpoint is not None:
        maps = f"of the network in {Path(config.checkpoint).name}"
    stored = [name for name in config.explainers if config.stored(name)]
    explained = "; ".join(
        str(explainer) if explainer.name == name else f"{name}: {explainer}"
        for name, explainer in config.explainers.items()
    )
    return [
        *study_facts(grid.training),
        ("training", per_cell(config.epochs, config.seeds)),
        ("explainers", explained),
        ("maps", maps + (f"; stored once: {', '.join(stored)}" if stored else "")),
        ("removed pixels", f"filled with {config.fill}"),
    ]
