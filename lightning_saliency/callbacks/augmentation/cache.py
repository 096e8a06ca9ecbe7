"""Maps of images seen before, for data sets that hand out indices and unchanging images."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from lightning_saliency.batches import fingerprint, same_images
from lightning_saliency.functional.masking import resize_maps

#: The longer side of a kept map in pixels; a map made of masks of 7×7 or 14×14 cells has no finer detail.
GRID = 56


@dataclass
class _Entry:
    epoch: int
    target: int
    look: Tensor
    map: Tensor


class MapCache:
    """Keeps maps by the image's index, for a number of epochs.

    Args:
        epochs: Number of epochs for which a map is used, the one it was made in included.
        megabytes: The most memory, in 10⁶ bytes; the maps made longest ago go first.

    Example:
        >>> cache = MapCache(epochs=2)
        >>> image, map_ = fingerprint(torch.rand(1, 3, 8, 8)), torch.rand(1, 8, 8)
        >>> cache.store([7], torch.tensor([3]), image, map_, epoch=0)
        >>> [cache.find([7], torch.tensor([3]), image, epoch, (8, 8))[0] is not None for epoch in (0, 1, 2)]
        [True, True, False]
        >>> cache.find([7], torch.tensor([3]), image + 1, 1, (8, 8))
        [None]
    """

    def __init__(self, epochs: int, megabytes: float = 512.0) -> None:
        self.epochs = epochs
        self.megabytes = megabytes
        #: How often an index came back in time with the same image, and with another one.
        self.same = self.changed = 0
        self._entries: OrderedDict[int, _Entry] = OrderedDict()
        self._bytes = 0

    @property
    def useless(self) -> bool:
        """Whether of 100 images that came back none was the same."""
        return self.changed >= 100 and self.same == 0

    def maps(
        self, indices: Tensor, images: Tensor, targets: Tensor, epoch: int, explain: Callable[[Tensor, Tensor], Tensor]
    ) -> Tensor:
        """The maps of some images: kept ones where they can be used again, else new ones, which are kept.

        Args:
            indices: The images' indices in the data set, ``[n]`` int64, on the CPU.
            images: ``[n, C, H, W]``.
            targets: ``[n]`` int64 on the CPU.
            epoch: The present epoch, from 0.
            explain: Makes maps ``[m, H, W]`` of m images and their targets.

        Returns:
            ``[n, H, W]`` on the images' device.
        """
        numbers, looks = indices.tolist(), fingerprint(images)
        found = self.find(numbers, targets, looks, epoch, (images.shape[2], images.shape[3]))
        missing = torch.tensor([position for position, map_ in enumerate(found) if map_ is None], dtype=torch.int64)
        if len(missing):
            fresh = explain(images[missing.to(images.device)], targets[missing])
            finite = fresh.isfinite().all(-1).all(-1)
            kept = missing[finite.cpu()]
            self.store(
                [numbers[position] for position in kept.tolist()], targets[kept], looks[kept], fresh[finite], epoch
            )
            for position, map_ in zip(missing.tolist(), fresh, strict=True):
                found[position] = map_
        return torch.stack([map_.to(images.device) for map_ in found if map_ is not None])

    def find(
        self, indices: Sequence[int], targets: Tensor, looks: Tensor, epoch: int, size: tuple[int, int]
    ) -> list[Tensor | None]:
        """The kept maps of some images.

        Args:
            indices: The images' indices in the data set.
            targets: ``[n]`` int64, the classes asked for.
            looks: ``[n, k]`` float32 on the CPU, what the images look like, see ``fingerprint``.
            epoch: The present epoch, from 0.
            size: ``(H, W)`` of the images.

        Returns:
            For each image its map ``[H, W]`` float32 on the CPU, or ``None``.
        """
        found: list[Tensor | None] = []
        for index, target, look in zip(indices, targets.tolist(), looks, strict=True):
            entry = self._entries.get(index)
            if entry is None or not 0 <= epoch - entry.epoch < self.epochs or entry.target != target:
                found.append(None)
                continue
            same = bool(same_images(entry.look[None], look[None]))
            self.same += same
            self.changed += not same
            found.append(resize_maps(entry.map.float() / 255, size) if same else None)
        return found

    def store(self, indices: Sequence[int], targets: Tensor, looks: Tensor, maps: Tensor, epoch: int) -> None:
        """Keep new maps ``[n, H, W]`` in [0, 1]; the other arguments are those of ``find``."""
        height, width = maps.shape[-2:]
        scale = min(1.0, GRID / max(height, width))
        grid = (max(1, round(height * scale)), max(1, round(width * scale)))
        small = F.interpolate(maps[:, None].float(), grid, mode="bilinear", align_corners=False, antialias=True)[:, 0]
        kept = (small * 255).round().to(torch.uint8).cpu()
        for index, target, look, map_ in zip(indices, targets.tolist(), looks, kept, strict=True):
            if index in self._entries:
                self._bytes -= _size(self._entries.pop(index))
            self._entries[index] = _Entry(epoch, target, look.clone(), map_.clone())
            self._bytes += _size(self._entries[index])
        while self._bytes > self.megabytes * 1e6 and self._entries:
            self._bytes -= _size(self._entries.popitem(last=False)[1])


def _size(entry: _Entry) -> int:
    return entry.map.numel() + 4 * entry.look.numel()
