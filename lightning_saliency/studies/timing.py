"""Times and memory of functions that run in turn, for ratios that hold on a machine whose speed drifts."""

from __future__ import annotations

import json
import statistics
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import torch


class Ratio(NamedTuple):
    """A function's time beside that of another.

    Attributes:
        seconds: Median time.
        ratio: Ratio of the medians.
        low: First quartile of the ratios, round by round.
        high: Their third quartile.
    """

    seconds: float
    ratio: float
    low: float
    high: float


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
        clock: ``time.process_time`` leaves out what other processes took of the processor; it is for one thread, since
            it adds up the threads.
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


def ratios(times: Mapping[str, Sequence[float]], reference: str) -> dict[str, Ratio]:
    """Each function's time beside the reference's.

    Args:
        times: Function -> seconds in each round, as ``interleaved`` returns them.
        reference: One of the functions.

    Example:
        >>> ratios({"forward": [1.0, 2.0, 1.0], "map": [2.0, 4.0, 2.0]}, "forward")["map"]
        Ratio(seconds=2.0, ratio=2.0, low=2.0, high=2.0)
    """
    base = times[reference]
    result = {}
    for name, own in times.items():
        by_round = [mine / theirs for mine, theirs in zip(own, base, strict=True)]
        low, _, high = statistics.quantiles(by_round, n=4) if len(by_round) > 1 else by_round * 3
        median = statistics.median(own)
        result[name] = Ratio(median, median / statistics.median(base), low, high)
    return result


def peak_extra_bytes(function: Callable[[], object]) -> int:
    """Most bytes of tensor memory held at once during ``function()``, above what was held before.

    On a CPU every allocation and release by torch's allocator counts, temporaries inside an operator included; with a
    GPU its memory counts instead.
    """
    if torch.cuda.is_available():
        torch.cuda.synchronize()
        torch.cuda.reset_peak_memory_stats()
        held = torch.cuda.memory_allocated()
        function()
        torch.cuda.synchronize()
        return torch.cuda.max_memory_allocated() - held
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU], profile_memory=True) as profiler:
        function()
    with tempfile.TemporaryDirectory() as folder:
        trace = Path(folder) / "trace.json"
        profiler.export_chrome_trace(str(trace))
        events = json.loads(trace.read_text(encoding="utf-8"))["traceEvents"]
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


def _wait_for_gpu() -> None:
    if torch.cuda.is_available():
        torch.cuda.synchronize()
