"""Cells in processes of this machine, each process replaced when it dies."""

from __future__ import annotations

import math
import multiprocessing
import os
import signal
import threading
import traceback
from collections import Counter, deque
from collections.abc import Iterator, Sequence
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from pathlib import Path

import torch

from lightning_saliency.studies.engine.cell import Cell, Outcome, compute_cell

# Seconds that a process is given to end before it is killed. Nothing is lost by it: results are written at once.
_GRACE = 5.0


def here(cells: Sequence[Cell], folder: Path, retries: int) -> Iterator[Outcome]:
    """Compute cells one after the other in this process."""
    for cell in cells:
        try:
            compute_cell(cell, folder, retries)
        except Exception as error:
            yield Outcome(cell.name, traceback.format_exc(), error)
        else:
            yield Outcome(cell.name)


def in_processes(
    cells: Sequence[Cell], folder: Path, workers: int, threads: int, devices: Sequence[str | None], retries: int
) -> Iterator[Outcome]:
    """Compute cells in several processes at a time.

    A process computes one cell after another, so that what a cell's function caches serves the next one. One that dies
    in mid-cell is replaced, and its cell restarted.

    Args:
        cells: What is to be computed.
        folder: Folder of the results.
        workers: Number of processes.
        threads: Number of PyTorch's threads in each process.
        devices: For each process the GPUs it sees, as ``CUDA_VISIBLE_DEVICES`` names them; ``None``: as they are.
        retries: How often a cell is restarted after its process, or one that it started, dies.

    Yields:
        The cells as they end.
    """
    waiting, deaths = deque(cells), Counter[str]()
    free = list(devices[: min(workers, len(cells))])
    running: dict[Connection, _Worker] = {}
    try:
        while waiting or any(worker.cell is not None for worker in running.values()):
            while waiting and free:
                worker = _Worker(folder, threads, free.pop(0), retries)
                running[worker.connection] = worker
                worker.begin(waiting.popleft())
            for ready in wait(list(running)):
                worker = running[ready]  # type: ignore[index]
                cell = worker.cell
                try:
                    failure: str | None = worker.connection.recv()
                except (EOFError, ConnectionError):
                    code = worker.stop()
                    del running[worker.connection]
                    free.append(worker.device)
                    if cell is None:
                        continue
                    deaths[cell.name] += 1
                    if deaths[cell.name] <= retries:
                        waiting.appendleft(cell)
                    else:
                        yield Outcome(cell.name, _death(deaths[cell.name], code))
                    continue
                worker.cell = None
                if waiting:
                    worker.begin(waiting.popleft())
                if cell is not None:
                    yield Outcome(cell.name, failure)
    finally:
        for worker in running.values():
            worker.stop()


def visible_devices(workers: int, gpus_per_cell: float) -> list[str | None]:
    """The GPUs that each process sees; whole GPUs are not shared.

    Raises:
        ValueError: If there are not enough GPUs, or their number per cell is neither whole nor below 1.

    Example:
        >>> visible_devices(2, 0)
        [None, None]
    """
    if gpus_per_cell == 0:
        return [None] * workers
    if gpus_per_cell > 1 and gpus_per_cell != int(gpus_per_cell):
        raise ValueError(f"Got gpus_per_cell={gpus_per_cell}. Allowed are whole numbers and shares below 1; round it.")
    named = os.environ.get("CUDA_VISIBLE_DEVICES")
    gpus = [str(index) for index in range(torch.cuda.device_count())] if named is None else named.split(",")
    gpus = [gpu for gpu in gpus if gpu not in ("", "-1")]
    sharing = max(1, math.floor(1 / gpus_per_cell))
    each = max(1, int(gpus_per_cell))
    needed = each * math.ceil(workers / sharing)
    if needed > len(gpus):
        raise ValueError(
            f"Got workers={workers} with gpus_per_cell={gpus_per_cell}, which takes {needed} GPUs of this machine's "
            f"{len(gpus)}. Take fewer workers, or a smaller share of a GPU for each."
        )
    return [",".join(gpus[each * (worker // sharing) :][:each]) for worker in range(workers)]


class _Worker:
    """A process that computes the cells it is sent; not a daemon, since a cell may start processes of its own."""

    def __init__(self, folder: Path, threads: int, device: str | None, retries: int) -> None:
        context = multiprocessing.get_context("spawn")
        self.connection, theirs = context.Pipe()
        self.device = device
        self.cell: Cell | None = None
        self.process: BaseProcess = context.Process(target=_work, args=(theirs, folder, threads, device, retries))
        self.process.start()
        theirs.close()

    def begin(self, cell: Cell) -> None:
        """Send it a cell; a process that died meanwhile is noticed when its answer is read."""
        self.cell = cell
        try:
            self.connection.send(cell)
        except (BrokenPipeError, ConnectionError):
            return

    def stop(self) -> int | None:
        """End it, and return its exit code."""
        self.connection.close()
        if self.cell is not None and self.process.is_alive():
            self.process.terminate()
        self.process.join(_GRACE)
        if self.process.is_alive():
            self.process.kill()
            self.process.join()
        return self.process.exitcode


def _work(connection: Connection, folder: Path, threads: int, device: str | None, retries: int) -> None:
    # Ctrl-C reaches every process of the terminal; the one that was started by hand ends the others.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=_end_with_parent, daemon=True).start()
    if device is not None:
        os.environ["CUDA_VISIBLE_DEVICES"] = device
    torch.set_num_threads(threads)
    while True:
        try:
            cell: Cell = connection.recv()
        except EOFError:
            return
        except Exception:  # what the cell is made of cannot be imported here
            connection.send(traceback.format_exc())
            continue
        try:
            compute_cell(cell, folder, retries)
        except Exception:  # the study's own process raises it, as a CellError
            connection.send(traceback.format_exc())
        else:
            connection.send(None)


def _end_with_parent() -> None:
    """Without it, a killed study's processes would go on with their cells while the study is restarted."""
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)


def _death(times: int, code: int | None) -> str:
    return (
        f"Its process died {times} times, the last time with exit code {code} (-9 is often the system's, for want of "
        "memory). Run fewer workers at a time, or smaller batches; a script must call studies under "
        "`if __name__ == '__main__':`."
    )
