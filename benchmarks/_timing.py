"""What every benchmark shares: timing in turn, ratios with their spread, peak memory, the machine, tables, JSON."""

from __future__ import annotations

import ctypes
import gc
import json
import os
import platform
import statistics
import tempfile
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.table import Table

RESULTS = Path(__file__).parent / "results"
ALLOCATOR_VARIABLES = (
    "LD_PRELOAD",
    "MALLOC_MMAP_MAX_",
    "MALLOC_MMAP_THRESHOLD_",
    "MALLOC_TRIM_THRESHOLD_",
    "PYTORCH_CUDA_ALLOC_CONF",
)


def interleaved(
    functions: Mapping[str, Callable[[], object]],
    rounds: int = 20,
    warmup: int = 2,
    clock: Callable[[], float] = time.perf_counter,
) -> dict[str, list[float]]:
    """Seconds each function took in each round, the functions running in turn (A B C A B C …).

    A machine whose speed drifts, or that others use too, then slows all of them alike: trust the ratios.

    Args:
        functions: By name; what they return is dropped at once.
        rounds: Timed calls of each, ≥ 1.
        warmup: Calls of each before that, not timed.
        clock: `time.process_time` leaves out what other processes took of the processor; it is for one thread, since it
            adds up the threads.
    """
    for function in functions.values():
        for _ in range(warmup):
            function()
    times: dict[str, list[float]] = {name: [] for name in functions}
    for _ in range(rounds):
        for name, function in functions.items():
            _wait_for_gpu()
            start = clock()
            function()
            _wait_for_gpu()
            times[name].append(clock() - start)
    return times


def compare(times: Mapping[str, Sequence[float]], reference: str) -> dict[str, dict[str, float]]:
    """Median time of each function and its ratio to that of `reference`.

    Returns:
        By name: `median_ms`; `ratio`, of the medians; `ratio_low` and `ratio_high`, the quartiles of the ratios round
        by round, which tell how far to trust it.
    """
    base = times[reference]
    result = {}
    for name, own in times.items():
        ratios = [mine / theirs for mine, theirs in zip(own, base, strict=True)]
        low, _, high = statistics.quantiles(ratios, n=4) if len(ratios) > 1 else ratios * 3
        median = statistics.median(own)
        result[name] = {
            "median_ms": 1e3 * median,
            "ratio": median / statistics.median(base),
            "ratio_low": low,
            "ratio_high": high,
        }
    return result


def peak_extra_bytes(function: Callable[[], object]) -> int:
    """Most bytes of CPU tensor memory held at once during `function()`, above what was held before.

    Every allocation and release by torch's allocator counts, temporaries inside an operator included.
    """
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU], profile_memory=True) as profiler:
        function()
    with tempfile.TemporaryDirectory() as folder:
        trace = Path(folder) / "trace.json"
        profiler.export_chrome_trace(str(trace))
        events = json.loads(trace.read_text())["traceEvents"]
    changes = sorted(
        (event["ts"], event["args"]["Bytes"])
        for event in events
        if event["name"] == "[memory]" and event["args"]["Device Type"] == 0
    )
    held = peak = 0
    for _, change in changes:
        held += change
        peak = max(peak, held)
    return peak


class PeakResidentMemory:
    """The most memory the process took inside the `with`, sampled every 5 ms, beyond what it held on entry.

    For calls too long to be profiled. What glibc keeps of memory released before is handed back first. Linux only.

    Attributes:
        extra_bytes: Known after the `with`.
    """

    def __init__(self) -> None:
        self.extra_bytes = 0
        self._done = threading.Event()

    def __enter__(self) -> PeakResidentMemory:
        gc.collect()
        trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
        if trim is not None:
            trim(0)
        held = _resident_bytes()

        def sample() -> None:
            while not self._done.wait(0.005):
                self.extra_bytes = max(self.extra_bytes, _resident_bytes() - held)

        self._thread = threading.Thread(target=sample, daemon=True)
        self._thread.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._done.set()
        self._thread.join()


def machine() -> dict[str, Any]:
    """What a reader must know to compare a figure: processor, cores, threads, versions, allocator, load."""
    return {
        "cpu": _cpu_model(),
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "cpu_capability": torch.backends.cpu.get_cpu_capability(),
        "gpu": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
        "system": platform.platform(),
        "python": platform.python_version(),
        "torch": torch.__version__,
        "allocator": {name: os.environ[name] for name in ALLOCATOR_VARIABLES if name in os.environ} or "default",
        "load_average": os.getloadavg()[0] if hasattr(os, "getloadavg") else None,
        "date": datetime.now(timezone.utc).isoformat(timespec="seconds"),
    }


def write_results(name: str, results: Mapping[str, Any]) -> Path:
    """Writes `benchmarks/results/{name}.json`, the machine's description first, and returns its path."""
    RESULTS.mkdir(exist_ok=True)
    path = RESULTS / f"{name}.json"
    path.write_text(json.dumps({"machine": machine(), **results}, indent=2) + "\n")
    return path


def print_table(title: str, header: Sequence[str], rows: Sequence[Sequence[object]]) -> None:
    """Prints a table; numbers are given three significant digits."""
    table = Table(title=title, title_justify="left")
    for position, column in enumerate(header):
        table.add_column(column, justify="left" if position == 0 else "right")
    for row in rows:
        table.add_row(*(f"{cell:.3g}" if isinstance(cell, float) else str(cell) for cell in row))
    Console(width=110).print(table)


def _resident_bytes() -> int:
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def _wait_for_gpu() -> None:
    if torch.cuda.is_available():
        torch.cuda.synchronize()


def _cpu_model() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor()
    return next(
        (line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")), platform.processor()
    )
