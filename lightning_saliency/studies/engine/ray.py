"""Cells as tasks of a Ray cluster (extra ``ray``)."""

from __future__ import annotations

import importlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import ModuleType

import torch

from lightning_saliency.studies.engine.cell import Cell, Outcome, compute_cell, read_record


def on_ray(
    cells: Sequence[Cell], folder: Path, cpus_per_cell: float, gpus_per_cell: float, retries: int
) -> Iterator[Outcome]:
    """Compute each cell as one task of Ray.

    The cluster is the one this process is connected to; otherwise the one that ``RAY_ADDRESS`` names or that runs on
    this machine; otherwise one of this machine's processors and GPUs is started, and stopped when this process ends.
    All of its machines must have this package, and see the folder under the same path.

    Args:
        cells: What is to be computed.
        folder: Folder of the results, an absolute path.
        cpus_per_cell: Processors that Ray sets aside for a cell.
        gpus_per_cell: GPUs that Ray sets aside for a cell; with 0 a cell sees none.
        retries: How often a cell is restarted after its process or machine, or a process that it started, is lost.

    Yields:
        The cells as they end.

    Raises:
        ImportError: If Ray is not installed.
        ValueError: If no machine of the cluster has what a cell needs.
    """
    ray = _require()
    if not ray.is_initialized():
        # It stays for the next cells, which a study has in several phases; Ray itself stops it when the process ends.
        ray.init(log_to_driver=False)
    _check_resources(ray, cpus_per_cell, gpus_per_cell)
    task = ray.remote(num_cpus=cpus_per_cell, num_gpus=gpus_per_cell, max_retries=retries)(_compute)
    names = {task.remote(cell, folder, max(1, int(cpus_per_cell)), retries): cell for cell in cells}
    waiting = list(names)
    try:
        while waiting:
            done, waiting = ray.wait(waiting)
            for reference in done:
                yield _outcome(ray, reference, names[reference], folder)
    finally:
        for reference in waiting:
            ray.cancel(reference, force=True)


def _compute(cell: Cell, folder: Path, threads: int, retries: int) -> None:
    torch.set_num_threads(threads)
    compute_cell(cell, folder, retries)


def _outcome(ray: ModuleType, reference: object, cell: Cell, folder: Path) -> Outcome:
    try:
        ray.get(reference)
    except ray.exceptions.RayError as error:
        return Outcome(cell.name, str(error), error)
    if read_record(cell, folder) is None:
        return Outcome(
            cell.name,
            f"It was computed, but its result is not in {folder} of this machine. Choose a folder that all machines of "
            "the cluster share under the same path.",
        )
    return Outcome(cell.name)


def _check_resources(ray: ModuleType, cpus: float, gpus: float) -> None:
    """Raise an error if no machine of the cluster has what a cell needs: Ray would wait for ever."""
    machines = [node["Resources"] for node in ray.nodes() if node["Alive"]]
    if any(machine.get("CPU", 0) >= cpus and machine.get("GPU", 0) >= gpus for machine in machines):
        return
    have = ", ".join(f"{machine.get('CPU', 0):g} CPUs and {machine.get('GPU', 0):g} GPUs" for machine in machines)
    raise ValueError(
        f"Got cpus_per_cell={cpus} and gpus_per_cell={gpus}, but no machine of the Ray cluster has as many (there are: "
        f"{have}). Ask for less, or join a machine that has them."
    )


def _require() -> ModuleType:
    try:
        return importlib.import_module("ray")
    except ImportError as error:
        raise ImportError(
            f'engine="ray" needs Ray, which cannot be imported ({error}). Install the extra that brings it, '
            'pip install "lightning-saliency[ray]", or use engine="local".'
        ) from error
