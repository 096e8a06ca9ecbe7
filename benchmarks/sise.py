"""What SISE costs at different thresholds μ, beside the methods of torchcam and captum on the same image.

Seconds, images passed through the network, and the most tensor memory held at once beyond the network's own. The
methods run one after the other, once each (they take seconds to minutes; the passes tell more than the spread).

    python -m benchmarks.sise [--quick] [--networks NAME ...] [--mu X ...] [--rise N] [--threads N]
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from typing import Any

import captum.attr
import torch
import torchcam.methods
from torch import Tensor, nn

from benchmarks._shared_data import network, photographs
from benchmarks._timing import peak_extra_bytes, print_table, write_results
from lightning_saliency.explainers import RISE, SISE, GradCAM, GroupCAM, ScoreCAM
from lightning_saliency.scales import find_scales


def measure(model: nn.Module, function: Callable[[], object]) -> dict[str, float]:
    """Seconds, images passed through the network, and peak memory of one call; memory in a second call."""
    passed: list[int] = []
    handle = model.register_forward_pre_hook(lambda _module, inputs: passed.append(inputs[0].shape[0]))
    try:
        start = time.perf_counter()
        function()
        seconds = time.perf_counter() - start
    finally:
        handle.remove()
    return {"seconds": seconds, "forward_passes": sum(passed), "peak_extra_mb": peak_extra_bytes(function) / 1e6}


def ours(model: nn.Module, images: Tensor, options: argparse.Namespace) -> dict[str, Callable[[], object]]:
    """Calls of this package's methods; the layers have been found before."""
    explainers = {f"SISE, μ = {mu}": SISE(model, mu=mu) for mu in options.mu}
    explainers |= {f"SISE, μ = {options.mu[0]}, fast": SISE(model, mu=options.mu[0], fast=True)}
    explainers |= {"Grad-CAM": GradCAM(model), "Group-CAM": GroupCAM(model), "Score-CAM": ScoreCAM(model)}
    explainers |= {f"RISE, {options.rise} masks": RISE(model, masks=options.rise)}
    for explainer in explainers.values():
        explainer._all_scales(images)
    return {name: (lambda explainer=explainer: explainer(images)) for name, explainer in explainers.items()}


def peers(model: nn.Module, images: Tensor) -> dict[str, Callable[[], object]]:
    """Calls of torchcam's and captum's methods, with their own defaults."""
    with torch.no_grad():
        target = int(model(images).argmax())
    scale = find_scales(model, images)[-1]
    layer = scale.module if scale.read == "output" else _producer(model, scale.module)
    size = tuple(images.shape[1:])

    def cam(method: type) -> Callable[[], object]:
        def call() -> object:
            with method(model, layer, input_shape=size) as extractor:
                return extractor(target, model(images))

        return call

    def attribution(method: Any, **arguments: Any) -> Callable[[], object]:
        return lambda: method(model).attribute(images, target=target, **arguments)

    window = (3, size[1] // 8, size[2] // 8)
    stride = (3, size[1] // 16, size[2] // 16)
    return {
        "torchcam Grad-CAM": cam(torchcam.methods.GradCAM),
        "torchcam Score-CAM": cam(torchcam.methods.ScoreCAM),
        "captum integrated gradients, 50 steps": attribution(
            captum.attr.IntegratedGradients, n_steps=50, internal_batch_size=8
        ),
        "captum occlusion": attribution(captum.attr.Occlusion, sliding_window_shapes=window, strides=stride),
    }


def _producer(model: nn.Module, consumer: str) -> str:
    """The module before `consumer` among its siblings: torchcam reads outputs only."""
    parent, _, name = consumer.rpartition(".")
    siblings = [child for child, _ in model.get_submodule(parent).named_children()]
    before = siblings.index(name) - 1
    if before >= 0:
        return f"{parent}.{siblings[before]}" if parent else siblings[before]
    return _producer(model, parent)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--networks", nargs="+", default=["mobilenet_v2", "squeezenet1_0"], help="of torchvision")
    parser.add_argument("--mu", nargs="+", type=float, default=[0.0, 0.3, 0.5, 0.75])
    parser.add_argument("--rise", type=int, default=4000, help="masks of RISE")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads(), help="torch's threads")
    parser.add_argument("--quick", action="store_true", help="a tiny setting, to see that it runs; nothing is written")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    size = 224
    if options.quick:
        options.networks, options.mu, options.rise, size = ["squeezenet1_0"], [0.5, 0.75], 32, 64

    results: dict[str, Any] = {}
    for name in options.networks:
        model, trained = network(name)
        images = photographs(1, size)
        if images is None:
            images = torch.randn(1, 3, size, size, generator=torch.Generator().manual_seed(0))
        figures = {}
        for method, function in (ours(model, images, options) | peers(model, images)).items():
            figures[method] = measure(model, function)
            print(f"{name}, {method}: {figures[method]['seconds']:.2f} s", flush=True)
        results[name] = {"weights": "trained" if trained else "random", "methods": figures}
        rows = [(method, *values.values()) for method, values in figures.items()]
        weights = results[name]["weights"]
        title = f"{name} ({weights} weights), one image of {size}², threads: {options.threads}"
        print_table(title, ("", "seconds", "forward passes", "peak MB"), rows)
    if not options.quick:
        path = write_results("sise", {"settings": vars(options), "networks": results})
        print(f"Written to {path.relative_to(path.parents[2])}.")


if __name__ == "__main__":
    main()
