"""What SISE costs at different thresholds μ, beside the methods of torchcam and captum on the same images.

Seconds, images passed through the network for each image explained, and the most memory that the process took beyond
what it held before. The methods run one after the other, once each (they take seconds to minutes; the passes tell more
than the spread). Every row is given as a ratio to one forward pass of the same batch too, timed before and after it, so
that a machine whose speed drifts is taken into account.

    python -m benchmarks.sise [--quick] [--resume] [--networks NAME ...] [--images N] [--mu X ...] [--rise N]
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections.abc import Callable
from typing import Any

import captum.attr
import torch
import torchcam.methods
from torch import Tensor, fx, nn

from benchmarks._shared_data import network, photographs
from benchmarks._timing import RESULTS, PeakResidentMemory, machine, print_table, write_results
from lightning_saliency.explainers import RISE, SISE, GradCAM, GroupCAM, ScoreCAM
from lightning_saliency.scales.find import find_scales
from lightning_saliency.studies.timing import interleaved


def measure(model: nn.Module, images: Tensor, function: Callable[[], object]) -> dict[str, float]:
    """One call: seconds, also in forward passes of the batch; images passed through the network, for each of `images`.

    The passes of a copy of the network (`fast`) count as well, and each pass once, whatever the method.
    """
    kinds = (type(model), fx.GraphModule)
    passed: list[int] = []

    def count(module: nn.Module, inputs: tuple[object, ...]) -> None:
        if isinstance(module, kinds) and inputs and isinstance(inputs[0], Tensor):
            passed.append(len(inputs[0]))

    before = _forward_seconds(model, images)
    with PeakResidentMemory() as memory:
        handle = nn.modules.module.register_module_forward_pre_hook(count)
        try:
            start = time.perf_counter()
            function()
            seconds = time.perf_counter() - start
        finally:
            handle.remove()
    forward = (before + _forward_seconds(model, images)) / 2
    return {
        "seconds": seconds,
        "in_forward_passes": seconds / forward,
        "forward_passes": sum(passed) / len(images),
        "peak_extra_mb": memory.extra_bytes / 1e6,
    }


def _forward_seconds(model: nn.Module, images: Tensor) -> float:
    with torch.no_grad():
        model(images)
        return statistics.median(interleaved({"forward": lambda: model(images)}, rounds=3, warmup=0)["forward"])


def ours(model: nn.Module, images: Tensor, options: argparse.Namespace) -> dict[str, Callable[[], object]]:
    """Calls of this package's methods; the layers have been found before."""
    explainers = {f"SISE, μ = {mu}": SISE(model, mu=mu) for mu in options.mu}
    explainers |= {f"SISE, μ = {options.mu[0]}, fast": SISE(model, mu=options.mu[0], fast=True)}
    explainers |= {"Grad-CAM": GradCAM(model), "Group-CAM": GroupCAM(model)}
    if options.rise:
        explainers |= {"Score-CAM": ScoreCAM(model), f"RISE, {options.rise} masks": RISE(model, masks=options.rise)}
    for explainer in explainers.values():
        explainer._all_scales(images)
    return {name: (lambda explainer=explainer: explainer(images)) for name, explainer in explainers.items()}


def peers(model: nn.Module, images: Tensor, masks: int) -> dict[str, Callable[[], object]]:
    """Calls of torchcam's and captum's methods, with their own defaults; Score-CAM where RISE is asked for."""
    with torch.no_grad():
        targets = model(images).argmax(dim=1)
    scale = find_scales(model, images)[-1]
    layer = scale.module if scale.read == "output" else _producer(model, scale.module)
    size = tuple(images.shape[1:])

    def cam(method: type) -> Callable[[], object]:
        def call() -> object:
            with method(model, layer, input_shape=size) as extractor:
                return extractor(targets.tolist(), model(images))

        return call

    def attribution(method: Any, **arguments: Any) -> Callable[[], object]:
        return lambda: method(model).attribute(images, target=targets, **arguments)

    window = (3, size[1] // 8, size[2] // 8)
    stride = (3, size[1] // 16, size[2] // 16)
    dear = {"torchcam Score-CAM": cam(torchcam.methods.ScoreCAM)} if masks else {}
    return {
        "torchcam Grad-CAM": cam(torchcam.methods.GradCAM),
        "torchcam Grad-CAM++": cam(torchcam.methods.GradCAMpp),
        **dear,
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
    parser.add_argument("--networks", nargs="+", default=["resnet50"], help="of torchvision")
    parser.add_argument("--images", type=int, default=8, help="photographs in the batch")
    parser.add_argument("--mu", nargs="+", type=float, default=[0.0, 0.3, 0.5, 0.75])
    parser.add_argument(
        "--rise", type=int, default=0, help="masks of RISE, which, with our Score-CAM, is left out at 0"
    )
    parser.add_argument("--threads", type=int, default=torch.get_num_threads(), help="torch's threads")
    parser.add_argument("--resume", action="store_true", help="keep the rows of the last run, if it was of the same")
    parser.add_argument("--quick", action="store_true", help="a tiny setting, to see that it runs; nothing is written")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    size = 224
    if options.quick:
        options.networks, options.mu, options.rise, size = ["squeezenet1_0"], [0.5, 0.75], 32, 64
        options.images = 2

    settings = {name: value for name, value in vars(options).items() if name != "resume"}
    results: dict[str, Any] = _begun(settings) if options.resume else {}
    for name in options.networks:
        model, trained = network(name)
        images = photographs(options.images, size)
        if images is None:
            images = torch.randn(options.images, 3, size, size, generator=torch.Generator().manual_seed(0))
        weights = "trained" if trained else "random"
        figures = results.setdefault(name, {"weights": weights, "methods": {}})["methods"]
        for method, function in (ours(model, images, options) | peers(model, images, options.rise)).items():
            if method not in figures:
                figures[method] = measure(model, images, function)
                # After each: the dear ones take a quarter of an hour on a CPU, and a kill shall cost one of them only.
                if not options.quick:
                    write_results("sise", {"settings": settings, "networks": results})
            print(f"{name}, {method}: {figures[method]['seconds']:.2f} s", flush=True)
        rows = [(method, *values.values()) for method, values in figures.items()]
        title = f"{name} ({weights} weights), {options.images} images of {size}², threads: {options.threads}"
        print_table(title, ("", "seconds", "in forwards of the batch", "passes an image", "peak MB"), rows)


def _begun(settings: dict[str, Any]) -> dict[str, Any]:
    """The rows of the last run, if it had the same settings on a machine of the same kind."""
    path = RESULTS / "sise.json"
    found = json.loads(path.read_text()) if path.is_file() else {}
    if found.get("settings") != settings or found["machine"]["cpu"] != machine()["cpu"]:
        raise SystemExit(f"{path} holds no run of these settings on this kind of machine: leave out --resume.")
    networks: dict[str, Any] = found["networks"]
    return networks


if __name__ == "__main__":
    main()
