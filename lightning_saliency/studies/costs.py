"""What a map costs, estimated from a few timed passes."""

from __future__ import annotations

import hashlib
import json
import platform
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from time import perf_counter
from typing import Any

import torch
from torch import Tensor

from lightning_saliency.checks import plural
from lightning_saliency.explainers import Explainer
from lightning_saliency.explainers.mask_scoring import limited_scoring
from lightning_saliency.studies.engine.cell import Cell
from lightning_saliency.studies.passes import counted_passes

# Images that an explainer is timed on that is not so fast that all can be explained.
_IMAGES = 2
# A first map whose part that was run takes so many seconds tells enough.
_LONG = 0.6
# Among so many passes those in which layers are looked for are few.
_MANY = 8
# Images with sides from this on are first tried at half their size.
_LARGE = 128


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
    """Time an explainer on a few images, after a first one; fast ones on all that are given.

    An explainer that passes masked or noisy images is stopped when these have taken ``budget`` seconds, and the rest of
    them is counted at the same rate: RISE with 4,000 masks is estimated from as many as fit into a second. One that
    takes longer for its first masks alone is told by these, on large images at half their size.

    Args:
        explainer: The explainer.
        images: ``[B, C, H, W]``, B ≥ 1; the first ones are used.
        targets: ``[B]`` int64; ``None``: the predicted classes.
        budget: Seconds for the passes over masked or noisy images.

    Example:
        >>> from torch import nn
        >>> from lightning_saliency.explainers import RISE
        >>> network = nn.Sequential(nn.Conv2d(3, 4, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten())
        >>> map_cost(RISE(network, masks=50), torch.rand(1, 3, 16, 16), torch.tensor([0]), budget=0.0).passes
        50.0
    """
    tried = images[..., ::2, ::2] if min(images.shape[2:]) >= _LARGE else images
    try:
        first, run = _timed(explainer, tried, targets, 0.0, 1)
    except (RuntimeError, TypeError, ValueError):
        if tried is images:
            raise
        tried = images  # a network of one image size alone
        first, run = _timed(explainer, tried, targets, 0.0, 1)
    larger = images[0].numel() / tried[0].numel()
    # The first time, layers are looked for and copies are made; of a slow explainer that is little of it.
    if run * larger > max(budget, _LONG) and first.passes > _MANY:
        return MapCost(first.passes, first.seconds * larger)
    if run * larger > budget:
        again, _ = _timed(explainer, tried, targets, budget, _IMAGES)
        return MapCost(again.passes, again.seconds * larger)
    if tried is not images:
        _timed(explainer, images, targets, 0.0, 1)
    fast = first.seconds * larger * len(images) < budget
    return _timed(explainer, images, targets, budget, len(images) if fast else _IMAGES)[0]


def _timed(
    explainer: Explainer, images: Tensor, targets: Tensor | None, budget: float, count: int
) -> tuple[MapCost, float]:
    """The cost of a map, from the first ``count`` images, and the seconds of the part of it that was run."""
    images, targets = images[:count], None if targets is None else targets[:count]
    wait_for(images.device)
    with limited_scoring(budget) as scoring, counted_passes((images.shape[2], images.shape[3])) as passed:
        begin = perf_counter()
        explainer(images, targets)
        wait_for(images.device)
        seconds = run = perf_counter() - begin
    if scoring.run:
        seconds += scoring.taken * (scoring.asked - scoring.run) / scoring.run
    passes = passed[0] + scoring.asked - scoring.run
    return MapCost(passes / len(images), seconds / len(images)), run


def timing_cell(
    name: str, function: Callable[..., dict[str, Any]], arguments: Mapping[str, Any], fingerprint: Mapping[str, Any]
) -> Cell:
    """A timing as a cell. Its name includes what it depends on, so that it is never stale.

    Args:
        name: What is timed.
        function: What times it.
        arguments: Its arguments.
        fingerprint: What the time depends on, by part, as JSON.

    Example:
        >>> timing_cell("rise", dict, {}, {"masks": 100}).name == timing_cell("rise", dict, {}, {"masks": 200}).name
        False
    """
    content = json.dumps(fingerprint, sort_keys=True).encode()
    return Cell(f"{name}-{hashlib.sha256(content).hexdigest()[:8]}", function, arguments, fingerprint)


def machine(device: torch.device | str) -> str:
    """What this process computes on, for a caption: the device, the processor and the threads of PyTorch."""
    return f"{device} ({platform.machine()}, {plural(torch.get_num_threads(), 'thread')})"


def wait_for(device: torch.device) -> None:
    """Wait until a device has finished its work."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
