"""An image with what is known of the classes on it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from lightning_saliency.functional.localization import boxes_to_masks

#: How it is known where objects lie.
Objects = Literal["boxes", "masks"]


@dataclass(frozen=True)
class Sample:
    """An image as a network takes it, with the classes on it and where their objects lie.

    Args:
        name: Name of the image, for reports.
        image: ``[C, H, W]``, normalised.
        labels: Names of the ground-truth classes, each once.
        candidates: For each label the network's classes that mean it, usually one. If there are several, the one with
            the highest logit is explained.
        boxes: For each label its boxes ``[n, 4]`` as x1, y1, x2, y2 in the image's pixels; ``None`` where they are not
            known.
        masks: For each label the pixels of its objects, ``[H, W]`` bool, which count in place of its boxes; ``None``
            where they are not known. Empty: of no label they are.
    """

    name: str
    image: Tensor
    labels: tuple[str, ...]
    candidates: tuple[tuple[int, ...], ...]
    boxes: tuple[Tensor | None, ...]
    masks: tuple[Tensor | None, ...] = ()

    def mask(self, which: int) -> Tensor | None:
        """A label's own mask; ``None`` where it is not known."""
        return self.masks[which] if self.masks else None

    def where(self, which: int) -> Tensor:
        """The pixels of a label's objects ``[H, W]``, of its mask or else its boxes; none where both are unknown."""
        mask, boxes = self.mask(which), self.boxes[which]
        if mask is not None:
            return mask
        size = (self.image.shape[1], self.image.shape[2])
        return boxes_to_masks([torch.zeros(0, 4) if boxes is None else boxes], size)[0]

    @property
    def objects(self) -> Objects | None:
        """Whether boxes or masks say of every label where its objects lie; ``None``: of some nothing does."""
        if not self.labels:
            return None
        places = range(len(self.labels))
        if all(self.mask(which) is not None for which in places):
            return "masks"
        known = all(self.mask(which) is not None or self.boxes[which] is not None for which in places)
        return "boxes" if known else None


def common_objects(of_images: list[Objects | None]) -> Objects | None:
    """What is known of all images: masks, boxes (or masks of some), or nothing."""
    if not of_images or None in of_images:
        return None
    return "boxes" if "boxes" in of_images else "masks"
