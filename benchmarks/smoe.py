"""What SMOE Scale costs against Eq. 1 as it stands, on the activations of ResNet-50's five scales at 224².

The plain formulation is the mean, log₂, and mean of x + 1e-6, each out of place. Both run in turn in one process, once
with the default allocator and once with glibc told to keep freed memory (MALLOC_MMAP_THRESHOLD_,
MALLOC_TRIM_THRESHOLD_), since mapping and page-faulting large tensors anew at each call hides the arithmetic.

    python -m benchmarks.smoe [--rounds N] [--threads N] [--clock wall|cpu] [--compiled]
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor

from benchmarks._timing import ALLOCATOR_VARIABLES, compare, machine, print_table, write_results
from lightning_saliency.functional import smoe_scale
from lightning_saliency.studies.timing import interleaved, peak_extra_bytes

SCALES = ((64, 112), (256, 56), (512, 28), (1024, 14), (2048, 7))
BATCHES = (1, 16)
KEEP = str(2**30)
ARMS: dict[str, dict[str, str]] = {
    "default": {},
    "memory kept": {"MALLOC_MMAP_THRESHOLD_": KEEP, "MALLOC_TRIM_THRESHOLD_": KEEP},
}
# (arm, batch): the highest ratio to the plain formulation that is accepted.
RATIO_TARGETS = {("default", 1): 0.6, ("default", 16): 0.20, ("memory kept", 1): 0.6, ("memory kept", 16): 0.45}
MEMORY_TARGET = 8.0  # MB
CLOCKS = {"wall": time.perf_counter, "cpu": time.process_time}


def plain(activations: Tensor) -> Tensor:
    shifted = activations + 1e-6
    mean = shifted.mean(1)
    return mean * (torch.log2(mean) - torch.log2(shifted).mean(1))


def measure(batch: int, options: argparse.Namespace) -> dict[str, Any]:
    torch.manual_seed(0)
    scales = [torch.randn(batch, channels, size, size).relu() for channels, size in SCALES]
    functions: dict[str, Callable[[Tensor], Tensor]] = {"plain": plain, "smoe_scale": smoe_scale}
    if options.compiled:
        functions["smoe_scale, compiled"] = torch.compile(smoe_scale, dynamic=False)
    functions["reading once"] = torch.Tensor.sum

    def over_scales(function: Callable[[Tensor], Tensor]) -> Callable[[], object]:
        return lambda: [function(x) for x in scales]

    with torch.inference_mode():
        timed = {name: over_scales(function) for name, function in functions.items()}
        times = interleaved(timed, options.rounds, clock=CLOCKS[options.clock])
        exact = [plain(x.double()) for x in scales]
        results: dict[str, Any] = dict(compare(times, "plain"))
        for name, function in functions.items():
            results[name]["peak_extra_mb"] = max(peak_extra_bytes(partial(function, x)) for x in scales) / 1e6
            if name != "reading once":
                errors = [((function(x) - y).abs() / y).max().item() for x, y in zip(scales, exact, strict=True)]
                results[name]["largest_relative_error"] = max(errors)
    return results


def run_arm(environment: dict[str, str], options: argparse.Namespace) -> dict[str, Any]:
    """Measures in a process of its own: glibc reads these variables when it starts."""
    inherited = {name: value for name, value in os.environ.items() if name not in ALLOCATOR_VARIABLES}
    command = [sys.executable, "-m", "benchmarks.smoe", "--measure"]
    for name in ("rounds", "threads", "clock"):
        command += [f"--{name}", str(getattr(options, name))]
    command += ["--compiled"] if options.compiled else []
    finished = subprocess.run(command, env=inherited | environment, capture_output=True, text=True, check=False)
    if finished.returncode != 0:
        raise RuntimeError(f"The measurement failed:\n{finished.stderr}")
    result: dict[str, Any] = json.loads(finished.stdout)
    return result


def judge(arms: dict[str, Any]) -> list[dict[str, Any]]:
    verdicts = []
    for (arm, batch), target in RATIO_TARGETS.items():
        own = arms[arm]["batches"][str(batch)]["smoe_scale"]
        for what, key, limit in (("ratio", "ratio", target), ("peak MB", "peak_extra_mb", MEMORY_TARGET)):
            verdicts.append(
                {
                    "what": f"{what}, {arm}, batch {batch}",
                    "measured": own[key],
                    "at most": limit,
                    "met": own[key] <= limit,
                }
            )
    return verdicts


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=25, help="timed calls of each formulation")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads(), help="torch's threads")
    parser.add_argument("--clock", choices=CLOCKS, default="wall", help="cpu: for one thread on a busy machine")
    parser.add_argument("--compiled", action="store_true", help="also time smoe_scale under torch.compile")
    parser.add_argument("--measure", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    if options.measure:
        batches = {str(batch): measure(batch, options) for batch in BATCHES}
        json.dump({"machine": machine(), "batches": batches}, sys.stdout)
        return

    arms = {name: run_arm(environment, options) for name, environment in ARMS.items()}
    columns = ("median_ms", "ratio", "ratio_low", "ratio_high", "peak_extra_mb", "largest_relative_error")
    rows = [
        (arm, batch, name, *(figures.get(column, "") for column in columns))
        for arm, result in arms.items()
        for batch, functions in result["batches"].items()
        for name, figures in functions.items()
    ]
    header = ("allocator", "batch", "formulation", "ms", "ratio", "low", "high", "peak MB", "error")
    print_table(f"SMOE Scale of ResNet-50's five scales, threads: {options.threads}", header, rows)
    verdicts = judge(arms)
    print_table("Targets", ("", "measured", "at most", "met"), [tuple(verdict.values()) for verdict in verdicts])
    settings = {"scales": SCALES, "rounds": options.rounds, "clock": options.clock}
    path = write_results("smoe", {**settings, "arms": arms, "targets": verdicts})
    print(f"Written to {path.relative_to(path.parents[2])}.")


if __name__ == "__main__":
    main()
