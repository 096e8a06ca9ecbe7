"""Class activation maps and SMOE Scale beside other libraries, in forward passes, all in one interleaved run.

torch-cam, captum and pytorch-grad-cam, as far as they are installed (the last is no dependency of this project: `make
peers` installs it beside `.venv`, in `.venv-peers`), and the formulas of the SMOE paper and of Grad-CAM++ as they
stand, which is how the authors' fastcam computes them. What is missing is printed. Each library is used as its guide
says; all get the same images, classes and layer, and the maps are compared: their Spearman correlation with ours, image
by image.

    python -m benchmarks.peers [--quick] [--rounds N] [--batch N] [--threads N]
"""

from __future__ import annotations

import argparse
import importlib
import warnings
from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import interpolate

from benchmarks._shared_data import network, photographs
from benchmarks._timing import compare, print_table, write_results
from lightning_saliency.explainers import build_explainer
from lightning_saliency.functional.normalization import min_max
from lightning_saliency.functional.similarity import spearman
from lightning_saliency.studies.timing import interleaved

Maps = Callable[[], Tensor]
LAYER = "layer4"
FORWARD = "forward pass"
OURS = "lightning-saliency"
FORMULAS = "formulas"
#: Library -> the module that is imported.
LIBRARIES = {"torch-cam": "torchcam.methods", "captum": "captum.attr", "pytorch-grad-cam": "pytorch_grad_cam"}
#: Our explainer -> each library's class.
CHEAP = {
    "grad_cam": {"torch-cam": "GradCAM", "captum": "LayerGradCam", "pytorch-grad-cam": "GradCAM"},
    "grad_cam_plus_plus": {"torch-cam": "GradCAMpp", "pytorch-grad-cam": "GradCAMPlusPlus"},
    "x_grad_cam": {"torch-cam": "XGradCAM", "pytorch-grad-cam": "XGradCAM"},
    "layer_cam": {"torch-cam": "LayerCAM", "pytorch-grad-cam": "LayerCAM"},
    "full_grad": {"pytorch-grad-cam": "FullGrad"},
    "smoe": {},
    "fast_cam": {},
}
#: Those that score masks, on a smaller network.
DEAR = {"score_cam": {"torch-cam": "ScoreCAM", "pytorch-grad-cam": "ScoreCAM"}}


def missing() -> dict[str, str]:
    """The libraries that cannot be imported, and why."""
    found = {}
    for library, module in LIBRARIES.items():
        try:
            importlib.import_module(module)
        except ImportError as error:
            found[library] = str(error)
    return found


def torch_cam(method: str, model: nn.Module, images: Tensor, targets: Tensor) -> Tensor:
    methods = importlib.import_module(LIBRARIES["torch-cam"])
    with getattr(methods, method)(model, LAYER) as extractor:
        scores = model(images)
        maps: list[Tensor] = extractor(targets.tolist(), scores)
    return resized(maps[0].detach(), images)


def captum(method: str, model: nn.Module, images: Tensor, targets: Tensor) -> Tensor:
    attr = importlib.import_module(LIBRARIES["captum"])
    attribution = getattr(attr, method)(model, model.get_submodule(LAYER))
    found: Tensor = attribution.attribute(images, target=targets, relu_attributions=True)
    return resized(found.detach()[:, 0], images)


def pytorch_grad_cam(method: str, model: nn.Module, images: Tensor, targets: Tensor) -> Tensor:
    package = importlib.import_module(LIBRARIES["pytorch-grad-cam"])
    output = importlib.import_module("pytorch_grad_cam.utils.model_targets").ClassifierOutputTarget
    with getattr(package, method)(model=model, target_layers=[model.get_submodule(LAYER)]) as cam:
        found = cam(input_tensor=images, targets=[output(target) for target in targets.tolist()])
    return torch.from_numpy(found)


USED: dict[str, Callable[[str, nn.Module, Tensor, Tensor], Tensor]] = {
    "torch-cam": torch_cam,
    "captum": captum,
    "pytorch-grad-cam": pytorch_grad_cam,
}


def resized(maps: Tensor, images: Tensor) -> Tensor:
    """The maps ``[B, h, w]`` at the images' size."""
    size = images.shape[2:]
    return interpolate(maps.float()[:, None], size=size, mode="bilinear", align_corners=False)[:, 0]


def smoe_formulas(model: nn.Module, images: Tensor, kept: dict[str, Tensor]) -> Tensor:
    """Eq. 1-3 of the SMOE paper, one operation after the other, on what the hooks kept."""
    total = torch.zeros(())
    for name in ("relu", "layer1", "layer2", "layer3", "layer4"):
        shifted = kept[name].detach() + 1e-6
        mean = shifted.mean(1)
        saliency = mean * (torch.log2(mean) - torch.log2(shifted).mean(1))
        mu, sigma = saliency.mean((1, 2), keepdim=True), saliency.std((1, 2), keepdim=True, correction=0)
        total = total + resized(0.5 * (1 + torch.erf((saliency - mu) / (sigma * 2**0.5))), images) / 5
    return total


def with_hooks(model: nn.Module, images: Tensor, targets: Tensor, gradients: bool) -> Tensor:
    """SMOE Scale by its formulas; with ``gradients`` times Grad-CAM++ by its own, all weights getting a gradient."""
    kept: dict[str, Tensor] = {}
    handles = [
        model.get_submodule(name).register_forward_hook(
            lambda _module, _args, output, name=name: kept.update({name: output})
        )
        for name in ("relu", "layer1", "layer2", "layer3", "layer4")
    ]
    try:
        if not gradients:
            with torch.no_grad():
                model(images)
                return smoe_formulas(model, images, kept)
        logits = model(images)
        kept[LAYER].retain_grad()
        model.zero_grad()
        logits.gather(1, targets[:, None]).sum().backward()
    finally:
        for handle in handles:
            handle.remove()
    with torch.no_grad():
        activations, slopes = kept[LAYER].detach(), kept[LAYER].grad
        denominator = 2 * slopes**2 + activations.sum((2, 3), keepdim=True) * slopes**3
        alpha = slopes**2 / torch.where(denominator == 0, 1, denominator)
        weights = (alpha * slopes.relu()).sum((2, 3), keepdim=True)
        cam = min_max(resized((weights * activations).sum(1).relu(), images))
        model.zero_grad()
        return smoe_formulas(model, images, kept) * cam


def functions(
    methods: dict[str, dict[str, str]], model: nn.Module, images: Tensor, absent: dict[str, str]
) -> tuple[dict[tuple[str, str], Maps], Callable[[], object]]:
    """What is timed, by method and library; and the forward pass."""

    def forward() -> Tensor:
        with torch.no_grad():
            found: Tensor = model(images)
            return found

    targets = forward().argmax(1)
    found: dict[tuple[str, str], Maps] = {}
    for method, classes in methods.items():
        # Score-CAM of the others scores by logits.
        options: dict[str, Any] = {"score": "logit"} if method == "score_cam" else {}
        if method not in ("smoe", "full_grad"):
            options["layer"] = LAYER
        found[method, OURS] = partial(build_explainer(method, model, **options), images, targets)
        for library, name in classes.items():
            if library not in absent:
                found[method, library] = partial(USED[library], name, model, images, targets)
    for method in ("smoe", "fast_cam"):
        if method in methods:
            found[method, FORMULAS] = partial(with_hooks, model, images, targets, method == "fast_cam")
    return found, forward


def measure(
    methods: dict[str, dict[str, str]], model: nn.Module, images: Tensor, rounds: int, absent: dict[str, str]
) -> dict[str, dict[str, dict[str, float]]]:
    """Time in forward passes and agreement with our map, by method and library."""
    timed, forward = functions(methods, model, images, absent)
    named: dict[str, Callable[[], object]] = {FORWARD: forward}
    named |= {f"{method} {library}": function for (method, library), function in timed.items()}
    figures = compare(interleaved(named, rounds, warmup=1), FORWARD)
    results: dict[str, dict[str, dict[str, float]]] = {}
    for (method, library), function in timed.items():
        ours = timed[method, OURS]()
        agreement = spearman(function().float(), ours).mean().item()
        results.setdefault(method, {})[library] = {**figures[f"{method} {library}"], "spearman": agreement}
    return results


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=8, help="timed calls of each")
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads(), help="torch's threads")
    parser.add_argument("--quick", action="store_true", help="a tiny setting without Score-CAM; nothing is written")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    warnings.filterwarnings("ignore")
    torch.manual_seed(0)
    name, size, rounds = ("resnet18", 64, 1) if options.quick else ("resnet50", 224, options.rounds)
    batch = 2 if options.quick else options.batch
    absent = missing()
    for library, reason in absent.items():
        print(f"Not measured: {library}, which cannot be imported ({reason}).")
    images = photographs(batch, size)
    if images is None:
        print("The photographs beside the project are not there: noise is explained.")
        images = torch.randn(batch, 3, size, size)
    results = {f"{name}, batch {batch} of {size}²": measure(CHEAP, network(name)[0], images, rounds, absent)}
    if not options.quick:
        small = interpolate(images[:1], size=112, mode="bilinear")
        results["resnet18, one image of 112²"] = measure(DEAR, network("resnet18")[0], small, 2, absent)
    for title, methods in results.items():
        rows = [
            (method, library, *(figures[key] for key in ("median_ms", "ratio", "ratio_low", "ratio_high", "spearman")))
            for method, libraries in methods.items()
            for library, figures in libraries.items()
        ]
        header = ("", "by", "ms", "passes", "low", "high", "ρ to ours")
        print_table(f"{title}, in forward passes, threads: {options.threads}", header, rows)
    if not options.quick:
        versions = {library: _version(module) for library, module in LIBRARIES.items() if library not in absent}
        settings = {"rounds": rounds, "batch": batch, "not_measured": absent, "versions": versions}
        path = write_results("peers", {"settings": settings, "results": results})
        print(f"Written to {path.relative_to(path.parents[2])}.")


def _version(module: str) -> str:
    distribution = {"torchcam": "torchcam", "captum": "captum", "pytorch_grad_cam": "grad-cam"}[module.split(".")[0]]
    return importlib.import_module("importlib.metadata").version(distribution)


if __name__ == "__main__":
    main()
