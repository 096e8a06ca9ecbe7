"""What it costs on a CPU that glibc gives the memory of large tensors back and takes it anew in each pass.

glibc maps what is larger than 32 MB afresh at each allocation, and the system clears it page by page. Two environment
variables make it keep what was freed. Processes with and without them take turns; the ratio is of the medians.

    python -m benchmarks.allocation [--networks resnet50 mobilenet_v2] [--batch 8] [--rounds 4]
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
from collections.abc import Callable

import torch
from torch.nn.functional import cross_entropy

from benchmarks._shared_data import network
from benchmarks._timing import ALLOCATOR_VARIABLES, compare, print_table, write_results
from lightning_saliency.explainers import GroupCAM
from lightning_saliency.explainers.mask_scoring import fast_inference
from lightning_saliency.studies.timing import interleaved

KEPT = {"MALLOC_MMAP_MAX_": "0", "MALLOC_TRIM_THRESHOLD_": str(2**40)}
ARMS: dict[str, dict[str, str]] = {"default": {}, "memory kept": KEPT}


def measure(name: str, batch: int, rounds: int) -> dict[str, list[float]]:
    """The seconds of each kind of work with one network, round by round."""
    torch.manual_seed(0)
    model = network(name)[0].eval()
    images, classes = torch.rand(batch, 3, 224, 224), torch.arange(batch)
    copied = fast_inference(model, None, images)
    explainer = GroupCAM(model, groups=8)

    def step() -> object:
        cross_entropy(model(images), classes).backward()
        model.zero_grad(set_to_none=False)
        return None

    def quietly(work: Callable[[], object]) -> Callable[[], object]:
        return torch.no_grad()(work)

    work: dict[str, Callable[[], object]] = {
        "a pass": quietly(lambda: model(images)),
        "a pass of the copy of fast=True": quietly(lambda: copied(images)),
        "Group-CAM of an image": lambda: explainer(images[:1]),
        "forward and backward": step,
    }
    return interleaved(work, rounds)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--networks", nargs="+", default=["resnet50", "mobilenet_v2", "squeezenet1_0"])
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--rounds", type=int, default=4, help="processes of each kind, which take turns")
    parser.add_argument("--calls", type=int, default=5, help="timed calls in each")
    parser.add_argument("--measure", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.measure:
        json.dump(measure(options.measure, options.batch, options.calls), sys.stdout)
        return

    inherited = {name: value for name, value in os.environ.items() if name not in ALLOCATOR_VARIABLES}
    found: dict[str, dict[str, dict[str, float]]] = {}
    for name in options.networks:
        times: dict[str, dict[str, list[float]]] = {}
        for _ in range(options.rounds):
            for arm, environment in ARMS.items():
                command = [sys.executable, "-m", "benchmarks.allocation", "--measure", name]
                command += ["--batch", str(options.batch), "--calls", str(options.calls)]
                told = subprocess.run(command, env=inherited | environment, capture_output=True, text=True, check=True)
                for work, seconds in json.loads(told.stdout).items():
                    times.setdefault(work, {}).setdefault(arm, []).extend(seconds)
        found[name] = {work: compare(arms, "default")["memory kept"] for work, arms in times.items()}
    rows = [
        (work, *(f"{one['ratio']:.2f} ({one['ratio_low']:.2f}-{one['ratio_high']:.2f})" for one in ones))
        for work in next(iter(found.values()))
        for ones in [[found[name][work] for name in found]]
    ]
    variables = " ".join(f"{key}={value}" for key, value in KEPT.items())
    print_table(f"With {variables}, against without", ("", *found), rows)
    write_results("allocation", {"batch": options.batch, "variables": KEPT, "networks": found})


if __name__ == "__main__":
    main()
