"""The images of a batch, in one tensor or one by one."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from typing import Literal

import torch
from torch import Tensor

from lightning_saliency.batches.images import layout_of
from lightning_saliency.batches.tree import BatchError, plain


class BatchImages:
    """The images of a batch.

    Args:
        images: ``[B, C, H, W]`` or ``[B, H, W, C]``, or a list of B ``[C, H, W]`` or ``[H, W, C]``; where a reader
            takes them, volumes ``[B, C, T, H, W]`` or ``[B, T, H, W, C]``.
    """

    def __init__(self, images: Tensor | Sequence[Tensor]) -> None:
        self._images = images

    @property
    def held(self) -> list[Tensor]:
        """The batch's own tensors of images: one ``[B, C, H, W]``, or B ``[C, H, W]``."""
        return [self._images] if isinstance(self._images, Tensor) else list(self._images)

    @property
    def count(self) -> int:
        """B, the number of images."""
        return len(self._images)

    @property
    def layout(self) -> Literal["NCHW", "NHWC"]:
        """Where the channels are, as far as the shape tells: last if there are three or four and nowhere else."""
        return layout_of(self.held[0])

    @property
    def single(self) -> list[Tensor]:
        """Each image ``[C, H, W]``, which may be of different sizes."""
        rows = (row for one in self.held for row in (plain(one) if one.ndim > 3 else plain(one)[None]))
        return [row.movedim(-1, 0) for row in rows] if self.layout == "NHWC" else list(rows)

    @cached_property
    def images(self) -> Tensor:
        """The images ``[B, C, H, W]``, or ``[B, H, W, C]`` where that is their layout.

        They are the batch's tensor itself, but without the behaviour of a subclass, or a stack of its list of images.

        Raises:
            BatchError: If they are of different sizes.
        """
        if isinstance(self._images, Tensor):
            return plain(self._images)
        sizes = {tuple(image.shape) for image in self.held}
        if len(sizes) > 1:
            raise BatchError(
                f"Got images of different sizes in one batch: {', '.join(map(str, sorted(sizes)))}. Allowed are images "
                "of one size; resize or pad them in the data set's transforms or its collate_fn, or use batch_size=1."
            )
        return torch.stack([plain(image) for image in self.held])

    @property
    def pictures(self) -> Tensor:
        """The images ``[B, C, H, W]``, or volumes ``[B, C, T, H, W]``, in any layout."""
        return self.images.movedim(-1, 1) if self.layout == "NHWC" else self.images

    @property
    def size(self) -> tuple[int, ...]:
        """(H, W) of the images, (T, H, W) of volumes."""
        return tuple(self.pictures.shape[2:])

    def channels_first(self) -> Tensor:
        """The images, if they are ``[B, C, H, W]``.

        Raises:
            BatchError: If the channels come last.
        """
        if self.layout == "NHWC":
            raise BatchError(
                f"Got images {list(self.images.shape)}, which seem to be [B, H, W, C]. Allowed are images "
                "[B, C, H, W]; permute them in the data set (images.permute(0, 3, 1, 2)), and back in the network."
            )
        return self.images
