"""RISE: randomised input sampling for explanation."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor, nn

from lightning_saliency.checks import check_minimum
from lightning_saliency.explainers.base import Output
from lightning_saliency.explainers.mask_scoring import MaskBlock, MaskScoringExplainer
from lightning_saliency.explainers.mask_scoring.precisions import Precision
from lightning_saliency.functional.class_scores import Score, predicted_classes
from lightning_saliency.functional.fills import Fill
from lightning_saliency.functional.masking import resize_maps


class RISE(MaskScoringExplainer):
    """RISE (Petsiuk, Das and Saenko 2018): ``masks`` forward passes per image; only the network's output is used.

    map(λ) = Σ_n Ψ(I ⊙ M_n) · M_n(λ) / (N · p): the mean score of the images in which the pixel was visible.

    A mask is a grid of cells, each open with probability p, upsampled bilinearly and cropped at a random shift of up to
    one cell (see `random_masks`). The masks have their own generator: they are the same for all images of a batch, for
    every batch, and for any ``batch_size``. They are made when they are needed.

    Args:
        model: The network, see ``Explainer``.
        masks: N, the number of masks.
        grid: Cells of a mask along each axis.
        probability: p that a cell is open, in (0, 1).
        seed: Seed of the masks.
        fill: What shows where a mask is zero, see `fill_images`; ``"zero"``, as in the paper, is zero in the
            network's normalised input space.
        output: Takes the logits out of what the network returns, see ``Explainer``.
        score: Ψ: ``"softmax"``, ``"sigmoid"`` (multi-label heads) or ``"logit"``.
        batch_size: Masked images in one pass, see `score_masks`.
        precision: ``"bf16"`` or ``"fp16"``: autocast the masked images' passes. ``None``: as the caller has it.
        fast: Score the masked images with a faster copy of the network, see `fast_inference` and `native_precision`.
        progress: Show a progress bar.

    Raises:
        ValueError: If an option is out of range or unknown.

    Example:
        >>> model = nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten())
        >>> RISE(model, masks=20, grid=3)(torch.rand(2, 3, 16, 16)).shape
        torch.Size([2, 16, 16])
    """

    def __init__(
        self,
        model: nn.Module,
        masks: int = 4000,
        grid: int = 7,
        probability: float = 0.5,
        seed: int = 0,
        fill: Fill = "zero",
        *,
        output: Output = None,
        score: Score = "softmax",
        batch_size: int | Literal["auto"] = "auto",
        precision: Precision | None = None,
        fast: bool = False,
        progress: bool = False,
    ) -> None:
        super().__init__(
            model, output=output, score=score, batch_size=batch_size, precision=precision, fast=fast, progress=progress
        )
        check_minimum("masks", masks, 1, "the paper uses 4000")
        check_minimum("grid", grid, 1, "the paper uses 7")
        if not 0 < probability < 1:
            raise ValueError(f"Got probability={probability}. Allowed are probabilities in (0, 1); the paper uses 0.5.")
        self.masks = masks
        self.grid = grid
        self.probability = probability
        self.seed = seed
        self.fill = fill

    def _explain(self, images: Tensor, targets: Tensor) -> Tensor:
        count, _, height, width = images.shape
        cells, shifts = self._drawn(images)
        total = images.new_zeros(count, height * width, dtype=torch.promote_types(images.dtype, torch.float32))
        owners = torch.arange(count, device=images.device)

        def masks_of(cells: Tensor, shifts: Tensor) -> Tensor:
            return random_masks(cells, shifts, (height, width)).to(total.dtype)

        with self._scorer(images, targets, self.fill, total=count * self.masks) as scorer:
            for _, masks in scorer.made(masks_of, cells, shifts, images_each=count):
                scores = scorer(masks.repeat(count, 1, 1), owners.repeat_interleave(len(masks))).view(count, -1)
                with torch.autocast(images.device.type, enabled=False):
                    total += scores.to(total.dtype) @ masks.flatten(1)
        return total.view(count, height, width) / (self.masks * self.probability)

    def _drawn(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Cells and shifts of all masks, on the images' device."""
        size = (images.shape[2], images.shape[3])
        cells, shifts = draw_masks(self.masks, self.grid, self.probability, size, self.seed)
        return cells.to(images.device), shifts.to(images.device)

    def _mask_blocks(self, images: Tensor, targets: Tensor | None, count: int | None) -> list[MaskBlock]:
        targets = predicted_classes(self.logits(images)) if targets is None else targets
        cells, shifts = self._drawn(images)
        masks = random_masks(cells[:count], shifts[:count], (images.shape[2], images.shape[3]))
        masks = masks.to(torch.promote_types(images.dtype, torch.float32))
        with self._scorer(images, targets, self.fill, total=len(masks)) as scorer:
            scores = scorer(masks, torch.zeros(len(masks), dtype=torch.int64, device=images.device))
        labels = tuple(f"mask {number}" for number in range(1, len(masks) + 1))
        return [MaskBlock("random", labels, masks, scorer.fill[0], scores, "Ψ", "as drawn", self.masks)]


def draw_masks(count: int, grid: int, probability: float, size: tuple[int, int], seed: int) -> tuple[Tensor, Tensor]:
    """The randomness of RISE's masks, a few bytes each.

    Args:
        count: N.
        grid: s, cells along each axis.
        probability: Probability that a cell is open.
        size: ``(H, W)`` of the images.
        seed: Seed of the masks' own generator; no other random numbers are drawn.

    Returns:
        Cells ``[N, s, s]`` bool, and shifts ``[N, 2]`` int64 (rows, columns), each from 0 to less than a cell's size in
        pixels.
    """
    generator = torch.Generator().manual_seed(seed)
    cells = torch.rand(count, grid, grid, generator=generator, dtype=torch.float32) < probability
    rows, columns = (torch.randint(0, _cell(side, grid), (count,), generator=generator) for side in size)
    return cells, torch.stack([rows, columns], dim=1)


def random_masks(cells: Tensor, shifts: Tensor, size: tuple[int, int]) -> Tensor:
    """RISE's masks at the images' size.

    A grid of s × s cells is upsampled bilinearly to (s + 1)·c pixels along each axis, c = ⌈side / s⌉ being a cell's
    size, and the window of the image's size is cut out at the shift.

    Args:
        cells: ``[N, s, s]`` bool.
        shifts: ``[N, 2]`` int64, see `draw_masks`.
        size: ``(H, W)``.

    Returns:
        ``[N, H, W]`` float32 in [0, 1].

    Example:
        >>> random_masks(torch.tensor([[[True]]]), torch.tensor([[0, 1]]), (2, 2))
        tensor([[[1., 1.],
                 [1., 1.]]])
    """
    (height, width), grid = size, cells.shape[-1]
    upsampled = resize_maps(cells.float(), ((grid + 1) * _cell(height, grid), (grid + 1) * _cell(width, grid)))
    rows = shifts[:, :1] + torch.arange(height, device=shifts.device)
    columns = shifts[:, 1:] + torch.arange(width, device=shifts.device)
    which = torch.arange(len(cells), device=shifts.device)
    return upsampled[which[:, None, None], rows[:, :, None], columns[:, None, :]]


def _cell(side: int, grid: int) -> int:
    return -(-side // grid)
