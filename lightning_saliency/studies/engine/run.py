"""The cells of a study, computed here or on a Ray cluster: each once, even if the study is killed and restarted."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, get_args

from rich.console import Console

from lightning_saliency.files import file_of_this_machine
from lightning_saliency.studies.engine.cell import Cell, CellError, Outcome, read_record
from lightning_saliency.studies.engine.config import Engine
from lightning_saliency.studies.engine.files import StaleResultsError
from lightning_saliency.studies.engine.local import here, in_processes, visible_devices
from lightning_saliency.studies.engine.progress import ProgressBar, TimeLeft
from lightning_saliency.studies.engine.ray import on_ray

__all__ = ["Cell", "CellError", "Engine", "cell_seconds", "read_cells", "run_cells"]

# What computes cells on other machines, called with the cells, the folder, processors and GPUs for a cell, and retries.
_CLUSTERS: dict[str, Callable[[Sequence[Cell], Path, float, float, int], Iterator[Outcome]]] = {"ray": on_ray}


def run_cells(
    cells: Sequence[Cell],
    folder: Path,
    *,
    engine: Engine = "local",
    workers: int = 1,
    cpus_per_cell: float = 1,
    gpus_per_cell: float = 0,
    retries: int = 2,
    progress: bool = True,
) -> dict[str, dict[str, Any]]:
    """The results of cells; only those missing from the folder are computed.

    The process that computes a cell writes its result in one atomic step. If a process is killed, only its current cell
    is lost; the next call computes it. A cell that raises an exception does not keep the others from being computed.

    Args:
        cells: The cells; their names differ.
        folder: Folder of the results, one file per cell; created. On a Ray cluster, a folder that all machines see
            under the same path.
        engine: ``"local"``: in this process (``workers=1``), or in ``workers`` processes of this machine, which keep
            what a cell's function caches for their next cell. ``"ray"``: each cell a task of the Ray cluster that this
            process is connected to, or that ``RAY_ADDRESS`` names, or that is started on this machine.
        workers: Processes of ``engine="local"``. With Ray, the cluster's size decides.
        cpus_per_cell: Processors for a cell. In processes of their own, cells use as many PyTorch threads (the threads
            of this process do not change).
        gpus_per_cell: GPUs for a cell: a whole number, or a share below 1. Each of several local processes sees its own
            only. 0: with Ray a cell sees none, locally it sees all.
        retries: How often a cell is restarted after its process (or machine), or a process that it started (such as
            those of ``strategy="ddp_spawn"``), was lost; not after an exception.
        progress: Whether a bar is shown on the error stream.

    Returns:
        Name -> result, in the order of the cells, as read from the disk.

    Raises:
        CellError: If cells could not be computed, after all others were.
        ImportError: If Ray is asked for and not installed.
        StaleResultsError: If the folder holds results of something else; nothing is computed then.
        ValueError: If two cells have one name, or an option is out of range.

    Example:
        >>> import tempfile
        >>> cells = [Cell(f"kar-{share}", dict, {"accuracy": share / 100}, {"share": share}) for share in (10, 30)]
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     run_cells(cells, Path(folder), progress=False)
        {'kar-10': {'accuracy': 0.1}, 'kar-30': {'accuracy': 0.3}}
    """
    _check(cells, engine, workers, cpus_per_cell, gpus_per_cell, retries)
    folder = file_of_this_machine(folder, "folder").resolve()
    folder.mkdir(parents=True, exist_ok=True)
    missing = [cell for cell in cells if read_record(cell, folder) is None]
    if missing:
        if engine in _CLUSTERS:
            outcomes = _CLUSTERS[engine](missing, folder, cpus_per_cell, gpus_per_cell, retries)
        else:
            devices = visible_devices(workers, gpus_per_cell)
            if workers == 1:
                outcomes = here(missing, folder, retries)
            else:
                outcomes = in_processes(missing, folder, workers, max(1, int(cpus_per_cell)), devices, retries)
        failures: dict[str, str] = {}
        cause: BaseException | None = None
        for outcome in _shown(outcomes, cells, folder, workers if engine == "local" else 1, progress):
            if outcome.failure is not None:
                failures[outcome.name] = outcome.failure
                cause = cause or outcome.cause
        if failures:
            first = next(iter(failures.values()))
            raise CellError(
                f"{len(failures)} of {len(missing)} cells could not be computed: {', '.join(failures)}. The others are "
                f"in {folder}; the next call computes these again. The first failed with:\n{first}",
                failures,
            ) from cause
    records = {cell.name: read_record(cell, folder) for cell in cells}
    return {name: record["result"] for name, record in records.items() if record is not None}


def read_cells(cells: Sequence[Cell], folder: Path) -> dict[str, dict[str, Any]]:
    """The results in the folder; missing and stale ones are left out.

    Args:
        cells: The cells.
        folder: Folder of the results; it need not exist.

    Returns:
        Name -> result.

    Example:
        >>> read_cells([Cell("kar-10", dict, {}, {})], Path("no/such/folder"))
        {}
    """
    return {name: record["result"] for name, record in _records(cells, folder).items()}


def cell_seconds(cells: Sequence[Cell], folder: Path) -> dict[str, float]:
    """The seconds that finished cells took; stale ones are left out.

    Args:
        cells: The cells.
        folder: Folder of the results; it need not exist.

    Returns:
        Name -> seconds.
    """
    return {name: float(record["seconds"]) for name, record in _records(cells, folder).items()}


def _records(cells: Sequence[Cell], folder: Path) -> dict[str, dict[str, Any]]:
    found = {}
    for cell in cells:
        try:
            record = read_record(cell, Path(folder))
        except StaleResultsError:
            continue
        if record is not None:
            found[cell.name] = record
    return found


def _check(
    cells: Sequence[Cell], engine: str, workers: int, cpus_per_cell: float, gpus_per_cell: float, retries: int
) -> None:
    twice = sorted(name for name, count in Counter(cell.name for cell in cells).items() if count > 1)
    if twice:
        raise ValueError(f"Got several cells named {', '.join(twice)}. Each cell needs its own name; rename them.")
    if engine not in get_args(Engine):
        allowed = " and ".join(f'"{name}"' for name in get_args(Engine))
        raise ValueError(f"Got engine={engine!r}. Allowed are {allowed}; use one of them.")
    if workers < 1 or cpus_per_cell <= 0 or gpus_per_cell < 0 or retries < 0:
        raise ValueError(
            f"Got workers={workers}, cpus_per_cell={cpus_per_cell}, gpus_per_cell={gpus_per_cell}, retries={retries}. "
            "Allowed are workers from 1, positive cpus_per_cell, and the other two from 0."
        )


def _shown(
    outcomes: Iterator[Outcome], cells: Sequence[Cell], folder: Path, workers: int, progress: bool
) -> Iterator[Outcome]:
    """The outcomes as they arrive, with a bar that shows their number and the time left."""
    steps: Counter[str] = Counter()
    for cell in cells:
        steps[cell.group] += cell.steps
    left = TimeLeft(steps, workers)
    by_name = {cell.name: cell for cell in cells}
    there = _records(cells, folder)
    for name, found in there.items():
        left.record(by_name[name].group, by_name[name].steps, float(found["seconds"]))
    done = len(there)
    with ProgressBar(left, Console(stderr=True) if progress else None) as bar:
        bar.show(f"{done}/{len(cells)} cells")
        for outcome in outcomes:
            cell = by_name[outcome.name]
            record = None if outcome.failure is not None else read_record(cell, folder)
            left.record(cell.group, cell.steps, 0.0 if record is None else float(record["seconds"]))
            done += 1
            bar.show(f"{done}/{len(cells)} {cell.name}")
            yield outcome
