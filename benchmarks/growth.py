"""How the cost of maps grows with the images' size, the network's depth and the batch, in forward passes.

At each point three functions run in turn in one process (A B C A B C …): the forward pass, the `SMOE` explainer, and
the forward pass while the monitor's reader reads its scales. Told are the ratios of the processor's time to the forward
pass, and the peak of the memory that each takes beyond what was held before.

    OMP_NUM_THREADS=1 python -m benchmarks.growth [--quick]
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from torchvision import models

from benchmarks._timing import compare, machine, print_table, write_results
from lightning_saliency.explainers import SMOE
from lightning_saliency.scales.reader import ScaleReader
from lightning_saliency.studies.timing import interleaved, peak_extra_bytes

# Seconds of the processor for the timed calls of one point, and how many rounds these may be.
BUDGET, ROUNDS = 1.5, (5, 15)


@dataclass(frozen=True)
class Point:
    """One measurement: which network, on how many images of which side."""

    network: str
    size: int
    batch: int


CURVES: dict[str, list[Point]] = {
    "size": [Point("resnet18", size, 1) for size in (64, 128, 256, 512)],
    "depth": [Point(network, 128, 1) for network in ("resnet18", "resnet34", "resnet50")],
    "batch": [Point("resnet18", 64, batch) for batch in (1, 4, 16, 32)],
    "batch at 224²": [Point("resnet50", 224, batch) for batch in (1, 8)],
}
QUICK: dict[str, list[Point]] = {"size": [Point("resnet18", size, 1) for size in (32, 64)]}


def functions_of(network: nn.Module, images: torch.Tensor) -> dict[str, Callable[[], object]]:
    """What is compared, by name; the forward pass first."""
    explainer, reader = SMOE(network), ScaleReader(network)

    def read() -> object:
        reader.start(images)
        network(images)
        return reader.take()

    read()  # the first pass finds the scales
    return {"forward": lambda: network(images), "SMOE": lambda: explainer(images), "reading": read}


def measure(point: Point, budget: float = BUDGET) -> dict[str, Any]:
    """Times and memory at one point."""
    torch.manual_seed(0)
    network = getattr(models, point.network)().eval()
    images = torch.rand(point.batch, 3, point.size, point.size)
    with torch.no_grad():
        functions = functions_of(network, images)
        functions["SMOE"]()
        begin = time.process_time()
        functions["forward"]()
        once = max(time.process_time() - begin, 1e-4)
        low, high = ROUNDS if budget else (1, 1)
        rounds = min(high, max(low, round(budget / (len(functions) * once))))
        times = interleaved(functions, rounds, warmup=1, clock=time.process_time)
        result: dict[str, Any] = {**vars(point), "rounds": rounds, "functions": compare(times, "forward")}
        for name, function in functions.items():
            result["functions"][name]["peak_mb"] = peak_extra_bytes(function) / 1e6
    return result


def row_of(result: dict[str, Any]) -> tuple[object, ...]:
    """A line of the table."""
    forward, smoe, reading = (result["functions"][name] for name in ("forward", "SMOE", "reading"))
    cells: list[object] = [result["network"], result["size"], result["batch"], forward["median_ms"]]
    for one in (smoe, reading):
        cells += [f"{one['ratio']:.2f} ({one['ratio_low']:.2f}-{one['ratio_high']:.2f})"]
    return (*cells, *(f"{one['peak_mb']:.1f}" for one in (forward, smoe, reading)))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="two tiny points that only show that it works")
    options = parser.parse_args()
    torch.set_num_threads(1)
    curves = QUICK if options.quick else CURVES
    done: dict[Point, dict[str, Any]] = {}
    header = ("network", "side", "batch", "pass ms", "SMOE", "reading", "pass MB", "SMOE MB", "reading MB")
    for curve, points in curves.items():
        for point in points:
            if point not in done:
                done[point] = measure(point, 0.0 if options.quick else BUDGET)
        print_table(f"Growth over {curve}; ratios to the forward pass", header, [row_of(done[one]) for one in points])
    if not options.quick:
        results = {curve: [done[point] for point in points] for curve, points in curves.items()}
        path = write_results("growth", {"clock": "processor", "threads": machine()["threads"], "curves": results})
        print(f"Written to {path.relative_to(path.parents[2])}.")


if __name__ == "__main__":
    main()
