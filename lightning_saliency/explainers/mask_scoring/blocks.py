"""The masks of one image with which an explainer asks the network, to be looked at."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor


@dataclass(frozen=True)
class MaskBlock:
    """Masks of one image that belong together, such as those of one layer.

    Args:
        name: Where they come from: the layer, as ``layers=`` takes it, or ``"random"``.
        labels: What each mask is, M texts such as ``"channel 12"``.
        masks: ``[M, H, W]`` in [0, 1] at the image's size.
        baseline: ``[C, H, W]``, what shows where a mask is zero, in the network's input space. ``blend(image[None],
            baseline, masks[None])`` are the images that the network is given.
        scores: ``[M]``, what the network answered under each mask: the class's score Ψ, or its gain α.
        symbol: ``"Ψ"`` or ``"α"``.
        order: By what they are ordered, such as ``"largest gradient first"``.
        total: How many masks there are, of which M are given. Among them may be constant ones, which show nothing and
            are never given.
    """

    name: str
    labels: tuple[str, ...]
    masks: Tensor
    baseline: Tensor
    scores: Tensor
    symbol: str
    order: str
    total: int
