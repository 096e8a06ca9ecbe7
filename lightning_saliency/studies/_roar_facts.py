"""What a retraining study consists of, in words for its report."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from lightning_saliency.studies._roar_cells import Training
from lightning_saliency.studies._roar_grid import RoarKarGrid
from lightning_saliency.studies._training import given_arguments


def network_name(model: Mapping[str, Any]) -> str:
    """How tables call the network of a module's specification."""
    return str((model.get("init_args") or {}).get("model") or str(model["class_path"]).rpartition(".")[2])


def study_facts(training: Training) -> list[tuple[str, str]]:
    """The network and the data of a study, in words."""
    data = training.data
    options = ", ".join(f"{key}={value}" for key, value in given_arguments(data).items())
    name = str(data["class_path"]).rpartition(".")[2]
    return [("network", network_name(training.model)), ("data", f"{name} ({options})" if options else name)]


def grid_facts(grid: RoarKarGrid) -> list[tuple[str, str]]:
    """All of a ROAR and KAR study."""
    config = grid.config
    maps = "of each seed's own network, trained on whole images"
    if config.checkpoint is not None:
        maps = f"of the network in {Path(config.checkpoint).name}"
    stored = [name for name in config.explainers if config.stored(name)]
    explained = "; ".join(
        f"{name} ({', '.join(f'{key}={value}' for key, value in own.items())})" if own else name
        for name, own in config.explainers.items()
    )
    return [
        *study_facts(grid.training),
        ("training", f"{config.epochs} epochs a cell, seeds {', '.join(map(str, config.seeds))}"),
        ("explainers", explained),
        ("maps", maps + (f"; stored once: {', '.join(stored)}" if stored else "")),
        ("removed pixels", f"filled with {config.fill}"),
    ]
