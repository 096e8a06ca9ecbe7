"""Noisy copies of images, for explainers that average over them."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from lightning_saliency.checks import check_minimum
from lightning_saliency.explainers.mask_scoring.budget import CURRENT_BUDGET

# SmoothGrad's noise: 15 % of the range of the image's values, in the middle of the 10-20 % that Smilkov et al. (2017)
# recommend, and 15 samples, as the SMOE paper's comparison (its Sec. 4.1) takes them from Hooker et al. (2019).
RELATIVE_NOISE = 0.15
NOISY_COPIES = 15


def check_noise(samples: int, stdevs: float | None) -> None:
    """Refuse a number of noisy copies or a deviation that makes no sense.

    Raises:
        ValueError: If there are no samples, or the deviation is negative.
    """
    check_minimum("samples", samples, 1)
    if stdevs is not None:
        check_minimum("stdevs", stdevs, 0, "give one, or None for a share of each image's range", kind="numbers")


def noisy_copies(images: Tensor, samples: int, stdevs: float | None, seed: int) -> Iterator[Tensor]:
    """Copies of a batch with normal noise; an image's copies do not depend on the batch that it is in.

    A copy that the time limit of `limited_scoring` leaves out is counted as asked for, with as many passes as the copy
    before.

    Args:
        images: ``[B, C, *S]``.
        samples: Number of copies.
        stdevs: The noise's standard deviation, in the images' own unit; ``None``: for each image 15 % of the range of
            its own values.
        seed: Seed of the noise, which has its own generator: up to its deviation it is the same for each image.
    """
    values = images.flatten(1)
    spans = (values.amax(dim=1) - values.amin(dim=1)).view(-1, *[1] * (images.ndim - 1))
    deviations = RELATIVE_NOISE * spans if stdevs is None else stdevs
    generator = torch.Generator().manual_seed(seed)
    budget, each = CURRENT_BUDGET.get(), 0
    for _ in range(samples):
        if budget is not None and budget.used_up and each:
            budget.asked += each
            continue
        before = budget.asked if budget is not None else 0
        yield images + deviations * torch.randn(1, *images.shape[1:], generator=generator, dtype=torch.float32).to(
            images
        )
        each = budget.asked - before if budget is not None else 0
