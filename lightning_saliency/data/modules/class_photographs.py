"""A shortcut of whole backgrounds: each class on a photograph of its own."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from lightning_saliency.data.modules._scenes import PHOTOGRAPHS, read_photograph
from lightning_saliency.data.shortcuts import Shortcut, pixels_in_boxes


class ClassPhotograph(Shortcut):
    """All that lies outside the boxes around the objects is a part of the class's photograph.

    The photographs are those of `DigitScenes`, inside scikit-image and scikit-learn; which part of it an image shows is
    its own. They are among the backgrounds of unmarked scenes, too, where they say nothing of the class.

    Args:
        zoom: Shorter side of a photograph in sides of an image, at least 1.

    Raises:
        ImportError: In `plant`, if scikit-image or scikit-learn is not installed.
        ValueError: If the zoom is below 1; in `plant`, if there are more classes than photographs, or no boxes.
    """

    def __init__(self, zoom: float = 1.5) -> None:
        if not zoom >= 1:
            raise ValueError(f"Got zoom={zoom}. Allowed are numbers from 1; give one of them.")
        self.zoom = zoom
        self._resized: dict[tuple[int, int, int], Tensor] = {}

    def plant(
        self, images: Tensor, cues: Tensor, num_classes: int, draws: Tensor, boxes: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """See `Shortcut.plant`."""
        if boxes is None or num_classes > len(PHOTOGRAPHS):
            raise ValueError(
                f"Got {num_classes} classes {'without' if boxes is None else 'with'} boxes. Allowed are up to "
                f"{len(PHOTOGRAPHS)}, with boxes around what is not background; take other data or another shortcut."
            )
        height, width = images.shape[2:]
        mask = ~pixels_in_boxes(boxes, height, width).to(images.device)
        backgrounds = []
        for cue, (down, across) in zip(cues.tolist(), draws.tolist(), strict=True):
            photograph = self._photograph(cue, height, width)
            top = int(down * (photograph.shape[1] - height + 1))
            left = int(across * (photograph.shape[2] - width + 1))
            backgrounds.append(photograph[:, top : top + height, left : left + width])
        return torch.where(mask[:, None], torch.stack(backgrounds).to(images), images), mask

    def _photograph(self, number: int, height: int, width: int) -> Tensor:
        """A photograph ``[3, h, w]`` in [0, 1], resized for images of a size."""
        key = (number, height, width)
        if key not in self._resized:
            photograph = read_photograph(*PHOTOGRAPHS[number])[None].float() / 255
            factor = self.zoom * max(height, width) / min(photograph.shape[2:])
            sides = [max(max(height, width), round(factor * side)) for side in photograph.shape[2:]]
            self._resized[key] = F.interpolate(photograph, sides, mode="bilinear", antialias=True)[0].clamp(0, 1)
        return self._resized[key]
