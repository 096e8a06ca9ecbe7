"""Of what `SMOE`'s extra time beside a forward pass consists: each scale's statistic, the map, what is set aside.

ResNet-50 at 224², one thread, the processor's time, since the machine may be busy. A plain pass and a map run in turn;
in the map the statistic of each scale is timed where it happens, behind the layer that has just written the
activations. The map made of the statistics, setting aside what the network's modules keep, and the copy of the images
are timed beside it. The map beside the pass takes more than these parts by hooks and checks, and more or less by
the noise of two times of a second.

    OMP_NUM_THREADS=1 python -m benchmarks.smoe_parts [--rounds 15] [--batch 8] [--quick]
"""

from __future__ import annotations

import argparse
import statistics
import time
from typing import Any

import torch
from torch import Tensor
from torchvision import models

from benchmarks._timing import print_table, write_results
from lightning_saliency.explainers import SMOE
from lightning_saliency.explainers.base import stretched, undisturbed
from lightning_saliency.functional.statistics import Statistic, smoe_scale
from lightning_saliency.scales.maps import combined_statistics

CLOCK = time.process_time


def measure(network: torch.nn.Module, images: Tensor, rounds: int) -> dict[str, list[float]]:
    """Seconds of each part in each round, by name; the first round warms up and is left out."""
    spans: list[float] = []

    def timed(activations: Tensor, *, dim: int = 1) -> Tensor:
        begun = CLOCK()
        map_ = smoe_scale(activations, dim=dim)
        spans.append(CLOCK() - begun)
        return map_

    explainer = SMOE(network, Statistic("smoe_scale", timed))
    found, names = explainer.statistics(images)
    labels = [
        f"statistic, {name} {'×'.join(map(str, map_.shape[1:]))}" for name, map_ in zip(names, found, strict=True)
    ]
    times: dict[str, list[float]] = {}

    def note(name: str, begun: float) -> None:
        times.setdefault(name, []).append(CLOCK() - begun)

    for _ in range(rounds + 1):
        begun = CLOCK()
        with torch.no_grad():
            network(images)
        note("forward pass", begun)
        spans.clear()
        begun = CLOCK()
        explainer(images)
        note("map", begun)
        for label, span in zip(labels, spans, strict=True):
            times.setdefault(label, []).append(span)
        begun = CLOCK()
        with undisturbed(network):
            pass
        note("setting aside the network's state", begun)
        begun = CLOCK()
        with torch.no_grad():
            maps = combined_statistics(found, "equal", images.shape[2:])
        note("normalising, upsampling, combining", begun)
        begun = CLOCK()
        stretched(maps)
        note("stretching to [0, 1]", begun)
        begun = CLOCK()
        images.clone()
        note("copy of the images", begun)
    times = {name: values[1:] for name, values in times.items()}
    parts = [values for name, values in times.items() if name not in ("forward pass", "map")]
    times["all parts"] = [sum(others) for others in zip(*parts, strict=True)]
    return times


def summary(times: dict[str, list[float]]) -> dict[str, dict[str, float]]:
    """Median milliseconds and per cent of a forward pass, with the quartiles over the rounds."""
    plain = statistics.median(times["forward pass"])
    found: dict[str, dict[str, float]] = {}
    for name, values in times.items():
        shares = [100 * value / once for value, once in zip(values, times["forward pass"], strict=True)]
        low, _, high = statistics.quantiles(shares, n=4) if len(shares) > 1 else shares * 3
        median = statistics.median(values)
        found[name] = {"median_ms": 1e3 * median, "percent": 100 * median / plain, "low": low, "high": high}
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--quick", action="store_true", help="a tiny run that only shows that it works")
    options = parser.parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(0)
    network = models.resnet18().eval() if options.quick else models.resnet50().eval()
    batch, side, rounds = (1, 64, 1) if options.quick else (options.batch, 224, options.rounds)
    found = summary(measure(network, torch.rand(batch, 3, side, side), rounds))
    rows: list[tuple[Any, ...]] = [(name, *part.values()) for name, part in found.items()]
    print_table(f"A SMOE map of {batch} images of {side}²", ("", "ms", "% of a pass", "low", "high"), rows)
    if not options.quick:
        path = write_results("smoe_parts", {"network": "resnet50", "batch": batch, "rounds": rounds, "parts": found})
        print(f"Written to {path.relative_to(path.parents[2])}.")


if __name__ == "__main__":
    main()
