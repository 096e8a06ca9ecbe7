"""What `fast=True` gains on this device: a pass of the faster copy in each precision, against the network's own.

python -m benchmarks.precisions [--networks resnet50 mobilenet_v2] [--batch 4] [--device cuda]
"""

from __future__ import annotations

import argparse
from collections.abc import Callable

import torch
from torch import Tensor, nn

from benchmarks._shared_data import network
from benchmarks._timing import compare, machine, print_table, write_results
from lightning_saliency.explainers.mask_scoring import fast_inference, native_precision
from lightning_saliency.explainers.mask_scoring.precisions import PRECISIONS, Precision
from lightning_saliency.studies.timing import interleaved

COPIES: dict[str, Precision | None] = {"float32": None, "bf16": "bf16", "fp16": "fp16"}


def passes(model: nn.Module, images: Tensor) -> dict[str, Callable[[], object]]:
    """The network's own pass, and that of its faster copy in each precision."""
    found: dict[str, Callable[[], object]] = {"the network": lambda: model(images)}
    last = images.contiguous(memory_format=torch.channels_last)
    for name, precision in COPIES.items():
        copied = fast_inference(model, precision)

        def run(copied: nn.Module = copied, precision: Precision | None = precision) -> object:
            dtype = torch.bfloat16 if precision is None else PRECISIONS[precision]
            with torch.autocast(images.device.type, dtype, enabled=precision is not None):
                return copied(last)

        found[f"copy, {name}"] = run
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--networks", nargs="+", default=["resnet50", "mobilenet_v2", "squeezenet1_0"])
    parser.add_argument("--batch", type=int, default=4)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--quick", action="store_true", help="a tiny run that only shows that it works")
    options = parser.parse_args()
    if options.quick:
        options.networks, options.batch, options.rounds = ["squeezenet1_0"], 1, 1
    results = {}
    for name in options.networks:
        model = network(name)[0].eval().to(options.device)
        images = torch.rand(options.batch, 3, 224, 224, device=options.device)
        with torch.no_grad():
            results[name] = compare(interleaved(passes(model, images), options.rounds), reference="the network")
    header = ("", *results)
    arms = next(iter(results.values()))
    rows = [(arm, *(results[name][arm]["ratio"] for name in results)) for arm in arms]
    chosen = native_precision(options.device) or "float32"
    print_table(f"A pass, against the network's own; fast=True takes {chosen} here", header, rows)
    capability = machine()["cpu_capability"]
    print(f"CPU capability: {capability}")
    if not options.quick:
        kind = capability.lower() if options.device == "cpu" else torch.device(options.device).type
        write_results(f"precisions_{kind}", {"device": options.device, "chosen": chosen, "passes": results})


if __name__ == "__main__":
    main()
