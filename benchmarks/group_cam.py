"""What Group-CAM costs beside the procedure published with the paper, and what the fast settings do to its maps.

The published procedure takes one image at a time: a full forward pass, a backward pass into every parameter of the
network, all masks upsampled, all masked images in one pass. It is stated anew here, with Algorithm 1's de-noising, so
that both compute the same map. ResNet-50 with random weights and noise, or a trained network of the folder beside the
project and its photographs; batches of 224² images; all run in turn in one process, after each other on the same
images, by the processor's time where there is one thread. Also SMOE, Fast-CAM, Grad-CAM and Grad-CAM++ in forward
passes, and, on the trained networks and photographs, how the fast maps rank the pixels compared with the exact ones.
`settled` is what docs/results/group_cam_passes.md is about, no explainer of the package.

    python -m benchmarks.group_cam [--quick] [--network NAME] [--rounds N] [--batch N] [--photographs N] [--threads N]
"""

from __future__ import annotations

import argparse
import time
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import interpolate

from benchmarks._settled import SettledGroupCAM
from benchmarks._shared_data import TRAINED, network, photographs
from benchmarks._timing import compare, print_table, write_results
from lightning_saliency.explainers import SMOE, FastCAM, GradCAM, GradCAMPlusPlus, GroupCAM
from lightning_saliency.functional.fills import blur
from lightning_saliency.functional.similarity import spearman
from lightning_saliency.studies.passes import counted_passes
from lightning_saliency.studies.timing import interleaved

# What is timed: the highest ratio to the published procedure, or to a forward pass, that is accepted.
GROUP_TARGETS = {"exact": 0.65, "fast": 0.30}
CAM_TARGETS = {"SMOE": 1.03, "Fast-CAM": 1.10, "Grad-CAM": 1.05, "Grad-CAM++": 1.05}
SPEARMAN_TARGET = 0.98


def published(model: nn.Module, layer: nn.Module, images: Tensor, groups: int, theta: float = 70.0) -> Tensor:
    """Group-CAM as published, image after image; `layer`'s output is grouped."""
    kept: dict[str, Tensor] = {}
    forward = layer.register_forward_hook(lambda _module, _inputs, output: kept.update(activations=output))
    backward = layer.register_full_backward_hook(lambda _module, _inputs, outputs: kept.update(gradients=outputs[0]))
    maps = []
    try:
        for image in images.split(1):
            logits = model(image)
            target = int(logits.argmax())
            model.zero_grad()
            logits[0, target].backward()
            activations, gradients = kept["activations"].detach(), kept["gradients"]
            with torch.no_grad():
                weighted = (activations * gradients.mean((2, 3), keepdim=True))[0]
                masks = torch.stack([part.sum(0) for part in weighted.tensor_split(groups)]).relu()
                limits = torch.quantile(masks.flatten(1), theta / 100, dim=1)[:, None, None]
                masks = torch.where(masks > limits, masks, 0)
                low, high = masks.amin((1, 2), keepdim=True), masks.amax((1, 2), keepdim=True)
                masks = (masks - low) / (high - low).clamp(min=1e-12)
                masks = interpolate(masks[:, None], size=image.shape[2:], mode="bilinear", align_corners=False)
                blurred = blur(image)
                masked = image * masks + blurred * (1 - masks)
                scores = model(masked).softmax(1)[:, target] - model(blurred).softmax(1)[0, target]
                map_ = (scores[:, None, None] * masks[:, 0]).sum(0).relu()
                maps.append((map_ - map_.min()) / (map_.max() - map_.min()).clamp(min=1e-12))
    finally:
        forward.remove()
        backward.remove()
        model.zero_grad()
    return torch.stack(maps)


def speed(options: argparse.Namespace) -> tuple[dict[str, Any], dict[str, Any]]:
    """Group-CAM's ratios to the published procedure, and the CAMs' to a forward pass."""
    torch.manual_seed(0)
    model, trained = network(options.network)
    images = photographs(options.batch, options.size) if trained else None
    images = torch.randn(options.batch, 3, options.size, options.size) if images is None else images
    groups = options.groups
    layer = model.get_submodule("layer4" if options.network.startswith("resnet") else "features")
    explainers = {
        "exact": GroupCAM(model, layer, groups=groups),
        "bf16 alone": GroupCAM(model, layer, groups=groups, precision="bf16"),
        "fast": GroupCAM(model, layer, groups=groups, fast=True),
        "settled": SettledGroupCAM(model, layer, groups=groups, settled=0.98, fast=True),
    }
    explainers["settled"](images[:1])  # finds the layer's shape
    with counted_passes((options.size, options.size)) as passes:
        explainers["settled"](images)
    agreement = (explainers["exact"](images) - published(model, layer, images, groups)).abs().max().item()
    functions = {"published": partial(published, model, layer, images, groups)}
    functions |= {name: partial(explainer, images) for name, explainer in explainers.items()}
    # What other programs take of the machine is left out; of several threads the processor's times would be added up.
    clock = time.process_time if torch.get_num_threads() == 1 else time.perf_counter
    group_cam = compare(interleaved(functions, options.rounds, warmup=0, clock=clock), "published")

    def forward() -> Tensor:
        with torch.no_grad():
            return model(images)

    cams = {"forward pass": forward}
    cams |= {"SMOE": partial(SMOE(model), images), "Fast-CAM": partial(FastCAM(model), images)}
    cams |= {"Grad-CAM": partial(GradCAM(model), images), "Grad-CAM++": partial(GradCAMPlusPlus(model), images)}
    in_passes = compare(interleaved(cams, options.cam_rounds, clock=clock), "forward pass")
    settled = {"settled_passes": passes[0] / len(images)}
    return {"times": group_cam, "largest_difference_to_published": agreement, **settled}, in_passes


def fidelity(options: argparse.Namespace) -> dict[str, Any] | str:
    """Mean Spearman correlation, over photographs, of the fast map with the exact one."""
    images = photographs(options.photographs, options.size)
    if images is None:
        return "The photographs and trained networks beside the project are not there: the maps are not compared."
    result: dict[str, Any] = {"photographs": len(images)}
    for name in TRAINED:
        model, _ = network(name)
        exact, ours = GroupCAM(model, groups=options.groups), GroupCAM(model, groups=options.groups, fast=True)
        correlations = torch.cat([spearman(ours(part), exact(part)) for part in images.split(8)])
        result[name] = {"mean": correlations.mean().item(), "lowest": correlations.min().item()}
    return result


def judge(group_cam: dict[str, Any], cams: dict[str, Any], kept: dict[str, Any] | str) -> list[dict[str, Any]]:
    def verdict(what: str, measured: float, least: float | None = None, most: float | None = None) -> dict[str, Any]:
        met = (least is None or measured >= least) and (most is None or measured <= most)
        bound = f"at least {least}" if most is None else f"at most {most}"
        return {"what": what, "measured": measured, "target": bound, "met": met}

    verdicts = [
        verdict(f"{name} / published", group_cam["times"][name]["ratio"], most=target)
        for name, target in GROUP_TARGETS.items()
    ]
    verdicts += [verdict(f"{name}, forward passes", cams[name]["ratio"], most=t) for name, t in CAM_TARGETS.items()]
    if not isinstance(kept, str):
        verdicts += [verdict(f"Spearman, {name}", kept[name]["mean"], least=SPEARMAN_TARGET) for name in TRAINED]
    return verdicts


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--network", default="resnet50", choices=("resnet50", *TRAINED))
    parser.add_argument("--rounds", type=int, default=3, help="timed calls of each Group-CAM")
    parser.add_argument("--cam-rounds", type=int, default=10, help="timed calls of each CAM")
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--groups", type=int, default=32)
    parser.add_argument("--photographs", type=int, default=32)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads(), help="torch's threads")
    parser.add_argument("--quick", action="store_true", help="a tiny setting, to see that it runs; nothing is written")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    options.size = 224
    if options.quick:
        options.network, options.size, options.batch, options.groups = "resnet18", 64, 2, 4
        options.rounds, options.cam_rounds, options.photographs = 1, 2, 2

    group_cam, cams = speed(options)
    kept = fidelity(options)
    columns = ("median_ms", "ratio", "ratio_low", "ratio_high")
    for title, times in (
        (f"Group-CAM, G = {options.groups}, {options.network}, batch {options.batch}", group_cam["times"]),
        (f"Class activation maps, {options.network}, batch {options.batch}", cams),
    ):
        rows = [(name, *(figures[column] for column in columns)) for name, figures in times.items()]
        print_table(f"{title}, threads: {options.threads}", ("", "ms", "ratio", "low", "high"), rows)
    difference = group_cam["largest_difference_to_published"]
    print(f"Passes of settled maps: {group_cam['settled_passes']:.1f} an image")
    print(f"Largest difference of the exact maps to the published ones: {difference:.2g}")
    if isinstance(kept, str):
        print(kept)
    verdicts = judge(group_cam, cams, kept)
    print_table("Targets", ("", "measured", "target", "met"), [tuple(verdict.values()) for verdict in verdicts])
    if not options.quick:
        results = {"group_cam": group_cam, "cams": cams, "fidelity": kept, "targets": verdicts}
        name = "group_cam" if options.network == "resnet50" else f"group_cam_{options.network}"
        path = write_results(name, {"settings": vars(options), **results})
        print(f"Written to {path.relative_to(path.parents[2])}.")


if __name__ == "__main__":
    main()
