"""The recipe of the augmentation: from images and their classes to maps, masks and other pixels."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from lightning_saliency.callbacks._augment_guide import Guide
from lightning_saliency.callbacks._augment_options import batch_generator
from lightning_saliency.functional.masking import Fill, blend, fill_images


@dataclass
class Recipe:
    """Steps 1 to 3 of ``SaliencyAugmentation``.

    Args:
        guide: Makes the maps.
        soft: Blend with the map itself, not with the binary mask.
        baseline: What shows where the mask is zero, see ``fill_images``.
    """

    guide: Guide
    soft: bool = False
    baseline: Fill = "blur"

    def augmented(
        self, images: Tensor, targets: Tensor, generator: torch.Generator, multi_label: bool = False
    ) -> tuple[Tensor, Tensor, Tensor]:
        """What becomes of some images, see ``SaliencyAugmentation.augmented``."""
        return self.blended(images, self.guide.maps(images, targets, generator, multi_label), generator)

    def blended(self, images: Tensor, maps: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor, Tensor]:
        """What becomes of images ``[n, C, H, W]`` whose maps ``[n, H, W]`` are made, steps 2 and 3."""
        maps = self.guide.controlled(maps, generator)
        masks = maps if self.soft else (maps > maps.mean((-2, -1), keepdim=True)).float()
        usable = maps.isfinite().all(-1).all(-1) & (maps.amax((-2, -1)) > maps.amin((-2, -1)))
        masks = torch.where(usable[:, None, None], masks, 1.0)
        noise = batch_generator(int(torch.randint(2**31, (), generator=generator)), 0, 0, images.device)
        return blend(images, fill_images(images, self.baseline, generator=noise), masks), maps, masks

    def gain(self, images: Tensor, augmented: Tensor, targets: Tensor, multi_label: bool) -> Tensor:
        """By how much the network is surer of the classes ``[n]`` of the augmented images than of the images."""
        before, after = (self.guide.confidence(part, targets, multi_label) for part in (images, augmented))
        return after - before
