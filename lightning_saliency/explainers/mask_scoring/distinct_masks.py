"""Masks of an image that show the same, and are scored as one."""

from __future__ import annotations

import torch
from torch import Tensor


def distinct_jobs(empty: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Which masks have to be scored where an image's empty ones all show the same.

    Args:
        empty: ``[B, m]`` bool, whether the image's mask is zero everywhere.

    Returns:
        ``owners`` and ``which``, ``[N]`` int64: the image and the number of each mask to be scored; and ``places``,
        ``[B, m]`` int64: where among the N the score of each mask is.

    Example:
        >>> owners, which, places = distinct_jobs(torch.tensor([[False, True, True], [True, False, True]]))
        >>> owners.tolist(), which.tolist(), places.tolist()
        ([0, 0, 1, 1], [0, 1, 0, 1], [[0, 1, 1], [2, 3, 2]])
    """
    first = empty & (empty.cumsum(1) == 1)
    kept = ~empty | first
    owners, which = kept.nonzero(as_tuple=True)
    own = kept.flatten().cumsum(0).view_as(kept) - 1
    of_empty = (own * first).sum(1, keepdim=True)
    return owners, which, torch.where(empty, of_empty, own)
