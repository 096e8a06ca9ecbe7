"""What a map costs, told by a few timed passes."""

from __future__ import annotations

from dataclasses import dataclass
from time import perf_counter

import torch
from torch import Tensor

from lightning_saliency.explainers import Explainer
from lightning_saliency.explainers.mask_scoring import limited_scoring
from lightning_saliency.studies.passes import counted_passes

# Images that are explained at a time when an explainer is timed.
_IMAGES = 2


@dataclass(frozen=True)
class MapCost:
    """What one map costs on average.

    Attributes:
        passes: Images passed forward through the network.
        seconds: Wall time.
    """

    passes: float
    seconds: float


def map_cost(explainer: Explainer, images: Tensor, targets: Tensor | None = None, budget: float = 1.0) -> MapCost:
    """Time an explainer on one or two images, after a first one that is not timed.

    An explainer that scores masked images is stopped when these have taken ``budget`` seconds, and the rest of its
    masked images is counted at the same rate: RISE with 4,000 masks is told by as many as go into a second.

    Args:
        explainer: The explainer.
        images: ``[B, C, H, W]``, B ≥ 1; the first ones are used.
        targets: ``[B]`` int64; ``None``: the predicted classes.
        budget: Seconds for the passes over masked images.

    Example:
        >>> from torch import nn
        >>> from lightning_saliency.explainers import RISE
        >>> network = nn.Sequential(nn.Conv2d(3, 4, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten())
        >>> map_cost(RISE(network, masks=50), torch.rand(1, 3, 16, 16), torch.tensor([0]), budget=0.0).passes
        50.0
    """
    if targets is not None:
        targets = targets[:_IMAGES]
    images = images[:_IMAGES]
    begin = perf_counter()
    # The first time, layers are looked for and copies are made.
    with limited_scoring(0.0):
        explainer(images[:1], None if targets is None else targets[:1])
    if perf_counter() - begin > budget:
        images, targets = images[:1], None if targets is None else targets[:1]
    wait_for(images.device)
    with limited_scoring(budget) as scoring, counted_passes((images.shape[2], images.shape[3])) as count:
        begin = perf_counter()
        explainer(images, targets)
        wait_for(images.device)
        seconds = perf_counter() - begin
    if scoring.run:
        seconds += scoring.taken * (scoring.asked - scoring.run) / scoring.run
    return MapCost((count[0] + scoring.asked - scoring.run) / len(images), seconds / len(images))


def wait_for(device: torch.device) -> None:
    """Wait until a device has done what it was given."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
