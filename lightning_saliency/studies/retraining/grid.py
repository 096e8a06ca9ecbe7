"""The networks that retraining studies share: trained on whole images, one for each seed, or given in a file."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import nn

from lightning_saliency.checks import plural
from lightning_saliency.data.masked.store import SaliencyStore
from lightning_saliency.data.masked.store_files import SaliencyStoreError
from lightning_saliency.networks import load_weights, weights_fingerprint
from lightning_saliency.studies.engine.cell import Cell, read_record
from lightning_saliency.studies.isolation import quiet, seeded
from lightning_saliency.studies.retraining.cells import (
    Training,
    store_path,
    train_unmasked,
)
from lightning_saliency.studies.retraining.config import TrainingConfig
from lightning_saliency.studies.retraining.training import check_metric, network_of
from lightning_saliency.studies.specs import build_data, build_module, given_arguments


def network_name(model: Mapping[str, Any]) -> str:
    """The name of a module's network in tables."""
    return str((model.get("init_args") or {}).get("model") or str(model["class_path"]).rpartition(".")[2])


def class_count(training: Training) -> int | None:
    """The number of classes that the module's arguments say, ``None`` where they do not."""
    found = (training.model.get("init_args") or {}).get("num_classes")
    return found if isinstance(found, int) else None


def study_facts(training: Training) -> list[tuple[str, str]]:
    """The network and the data of a study, in words."""
    data = training.data
    options = ", ".join(f"{key}={value}" for key, value in given_arguments(data).items())
    name = str(data["class_path"]).rpartition(".")[2]
    return [("network", network_name(training.model)), ("data", f"{name} ({options})" if options else name)]


def per_cell(epochs: int, seeds: Sequence[int]) -> str:
    """How long each cell is trained, and with which seeds.

    >>> per_cell(1, [0]), per_cell(2, [0, 1])
    ('1 epoch per cell, seed 0', '2 epochs per cell, seeds 0, 1')
    """
    named = "seed" if len(seeds) == 1 else "seeds"
    return f"{plural(epochs, 'epoch')} per cell, {named} {', '.join(map(str, seeds))}"


@dataclass(frozen=True)
class Weights:
    """The network whose maps are used: the file of its weights and their fingerprint."""

    path: Path
    hash: str


def training_of(config: TrainingConfig) -> Training:
    """The part of a configuration that all cells need."""
    return Training(config.data, config.model, config.epochs, config.network, config.metric, config.trainer)


def checked_network(training: Training) -> nn.Module:
    """The network of a training, after a test of one batch: of the data, the module and its metric.

    Raises:
        TypeError: If the module or the data module has no such option.
        ValueError: If a class cannot be imported, or the module does not log the metric.
    """
    with quiet(), seeded(0):
        module = build_module(training.model)
        check_metric(module, build_data(training.data), training.trainer, training.metric)
        return network_of(module, training.network)


def unmasked_cells(
    training: Training, fingerprint: Mapping[str, Any], seeds: Sequence[int], output: Path
) -> list[Cell]:
    """One training on whole images for each seed, which keeps its network's weights."""
    return [
        Cell(
            f"unmasked-s{seed}",
            train_unmasked,
            {"training": training, "seed": seed, "weights": str(network_file(output, seed))},
            {"training": fingerprint, "seed": seed},
        )
        for seed in seeds
    ]


def network_file(output: Path, seed: int) -> Path:
    """The file of the weights of the network that was trained on whole images."""
    return output / "networks" / f"unmasked-s{seed}.pt"


def forget_lost(cells: Sequence[Cell], folder: Path) -> None:
    """Delete the results of cells whose other files are gone, so that they are computed again."""
    for cell in cells:
        if read_record(cell, folder) is None:
            continue
        if cell.function is train_unmasked:
            lost = not Path(cell.arguments["weights"]).exists()
        else:
            lost = not _store_is_there(store_path(cell.arguments["source"], cell.arguments["stage"]))
        if lost:
            cell.path(folder).unlink()


def _store_is_there(path: Path) -> bool:
    try:
        SaliencyStore.open(path)
    except SaliencyStoreError:
        return False
    return True


def given_weights(checkpoint: str, training: Training) -> Weights:
    """The weights in a file, as the network's own."""
    network = network_of(build_module(training.model), training.network)
    load_weights(network, checkpoint)
    return Weights(Path(checkpoint).resolve(), weights_fingerprint(network))
