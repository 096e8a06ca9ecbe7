"""Measuring what a map costs beside the forward pass of its network."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor, nn

from lightning_saliency.explainers import Explainer, ExplainerSpec
from lightning_saliency.explainers.mask_scoring import MaskScoringExplainer, limited_scoring
from lightning_saliency.functional.class_scores import predicted_classes
from lightning_saliency.studies.costs import map_cost
from lightning_saliency.studies.method_costs.flops import Flops, counted_flops
from lightning_saliency.studies.passes import counted_passes
from lightning_saliency.studies.timing import Ratio, interleaved, peak_extra_bytes, ratios

FORWARD = "forward pass"
# Time for the passes over masked images while FLOPs and memory of an explainer are measured.
_SECONDS = 0.0


@dataclass(frozen=True)
class MethodCost:
    """What the maps of a batch cost.

    Attributes:
        passes: Images passed forward through the network, for one map.
        backward: FLOPs of gradients over those of one forward pass: 1 where the gradients of all activations are
            computed.
        flops: FLOPs of one map, as ``torch.utils.flop_counter`` counts them.
        memory: Most bytes of tensors held at once beyond what was held before, for the batch.
        time: Seconds for the batch, and their ratio to those of a forward pass.
        estimated: Whether the time is that of some masked images, from which the time of all is extrapolated.
    """

    passes: float
    backward: float
    flops: int
    memory: int
    time: Ratio
    estimated: bool = False


def measure_costs(
    network: nn.Module,
    explainers: Mapping[str, ExplainerSpec],
    images: Tensor,
    rounds: int = 10,
    budget: float = 10.0,
) -> dict[str, MethodCost]:
    """Measure a network's forward pass and each explainer's maps of the same images.

    Times are taken in turn, round by round. An explainer whose maps of the batch would take more than ``budget``
    seconds is timed once, over as many masked images as fit into it.

    Args:
        network: The network, in eval mode, on the images' device.
        explainers: Name in the table -> explainer.
        images: ``[B, C, H, W]``.
        rounds: Timed calls of each, ≥ 1.
        budget: Seconds that an explainer's maps of the batch may take in each round.

    Returns:
        Name -> cost, the forward pass first, under `FORWARD`.
    """
    built = {name: spec(network) for name, spec in explainers.items()}
    with torch.no_grad():
        output = network(images)
    # Of anything but logits each explainer takes the classes itself.
    targets = predicted_classes(output) if isinstance(output, Tensor) else None
    forward = partial(_forward, network, images)
    calls: dict[str, Callable[[], object]] = {FORWARD: forward}
    estimates: dict[str, float] = {}
    for name, explainer in built.items():
        cost = map_cost(explainer, images, targets)
        if cost.seconds * len(images) > budget:
            first = None if targets is None else targets[:1]
            estimates[name] = map_cost(explainer, images[:1], first, budget).seconds
        else:
            calls[name] = partial(explainer, images, targets)
    times = ratios(interleaved(calls, rounds), FORWARD)
    with counted_flops() as once:
        forward()
    costs = {FORWARD: MethodCost(1.0, 0.0, once.forward // len(images), peak_extra_bytes(forward), times[FORWARD])}
    for name, explainer in built.items():
        passes, flops = _counted(explainer, images, targets, once)
        costs[name] = MethodCost(
            passes / len(images),
            flops.backward / once.forward,
            (flops.forward + flops.backward) // len(images),
            peak_extra_bytes(partial(_limited, explainer, images, targets)),
            times[name] if name in times else _extrapolated(estimates[name] * len(images), times[FORWARD]),
            name in estimates,
        )
    return costs


def _forward(network: nn.Module, images: Tensor) -> None:
    with torch.no_grad():
        network(images)


def _limited(explainer: Explainer, images: Tensor, targets: Tensor | None) -> None:
    with limited_scoring(_SECONDS):
        explainer(images, targets)


def _counted(explainer: Explainer, images: Tensor, targets: Tensor | None, once: Flops) -> tuple[float, Flops]:
    """Images passed forward and FLOPs of a batch of maps; masked images that were not run count as one pass each."""
    size = (images.shape[2], images.shape[3])
    with limited_scoring(_SECONDS) as scoring, counted_passes(size) as count, counted_flops() as flops:
        explainer(images, targets)
    left_out = scoring.asked - scoring.run
    # Masked images are passed forward alone, noisy ones and steps backward as well.
    again = 1.0 if isinstance(explainer, MaskScoringExplainer) or not scoring.run else scoring.asked / scoring.run
    return count[0] + left_out, Flops(
        flops.forward + left_out * once.forward // len(images), round(flops.backward * again)
    )


def _extrapolated(seconds: float, forward: Ratio) -> Ratio:
    ratio = seconds / forward.seconds
    return Ratio(seconds, ratio, ratio, ratio)
