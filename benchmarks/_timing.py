"""What every benchmark shares: timing in turn, ratios with their spread, peak memory, the machine, tables, JSON."""

from __future__ import annotations

import ctypes
import gc
import json
import os
import platform
import shlex
import subprocess
import sys
import threading
from collections.abc import Mapping, Sequence
from datetime import datetime, timezone
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.table import Table

from lightning_saliency.studies.timing import ratios

RESULTS = Path(__file__).parent / "results"
ALLOCATOR_VARIABLES = (
    "LD_PRELOAD",
    "MALLOC_MMAP_MAX_",
    "MALLOC_MMAP_THRESHOLD_",
    "MALLOC_TRIM_THRESHOLD_",
    "PYTORCH_CUDA_ALLOC_CONF",
)


def compare(times: Mapping[str, Sequence[float]], reference: str) -> dict[str, dict[str, float]]:
    """Median time of each function and its ratio to that of `reference`, as the result files hold them.

    Returns:
        By name: `median_ms`; `ratio`, of the medians; `ratio_low` and `ratio_high`, the quartiles of the ratios round
        by round, which tell how far to trust it.
    """
    return {
        name: {"median_ms": 1e3 * one.seconds, "ratio": one.ratio, "ratio_low": one.low, "ratio_high": one.high}
        for name, one in ratios(times, reference).items()
    }


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
    """What a reader must know to compare a figure, and to make it again.

    Returns:
        The command line, the commit (see `commit`), processor, cores, threads, versions, allocator, load, and the day.
    """
    return {
        "command": command(),
        "commit": commit(),
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


def command() -> str:
    """The command line of this process, as it is typed: ``python -m benchmarks.sise --threads 1``."""
    main = getattr(sys.modules["__main__"], "__spec__", None)
    # Of `python -m package.module` the first argument is the module's file.
    typed = ["-m", main.name.removesuffix(".__main__")] if main is not None else sys.argv[:1]
    return shlex.join(["python", *typed, *sys.argv[1:]])


def commit() -> str | None:
    """The first 7 digits of this repository's commit, with ``+`` where files that it holds were changed since.

    ``None`` where there is no repository, or no git.
    """
    try:
        found = subprocess.run(
            ["git", "describe", "--always", "--exclude=*", "--abbrev=7", "--dirty=+"],
            cwd=Path(__file__).parent, capture_output=True, text=True, check=True,
        )  # fmt: skip
    except (OSError, subprocess.CalledProcessError):
        return None
    return found.stdout.strip()


def origin(*packages: str) -> str:
    """Where results come from, in the words of the pages: day, commit, versions.

    Args:
        packages: Beside torch; those that are not installed are left out.

    Example:
        >>> origin("torchvision")  # doctest: +SKIP
        '30 November 2026, commit abc1234, torch 2.14.1, torchvision 0.29.1'
    """
    now = datetime.now(timezone.utc)
    installed = {name: found for name in ("torch", *packages) if (found := _version(name))}
    versions = [f"{name} {found}" for name, found in installed.items()]
    return ", ".join([f"{now.day} {now:%B %Y}", f"commit {commit() or 'not known'}", *versions])


def _version(package: str) -> str | None:
    try:
        return version(package).split("+")[0]
    except PackageNotFoundError:
        return None


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


def _cpu_model() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor()
    return next(
        (line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")), platform.processor()
    )
