"""Maps of images seen before, for data whose images come back as they were."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from lightning_saliency.batches import content_keys
from lightning_saliency.functional.masking import resize_maps

#: The longer side of a kept map in pixels; a map made of masks of 7×7 or 14×14 cells has no finer detail.
GRID = 56
#: Memory of an entry beside its map, in bytes.
_OVERHEAD = 200

#: An image's content and the class that its map is for.
Key = tuple[int, int]


@dataclass
class _Entry:
    epoch: int
    map: Tensor


class MapCache:
    """Keeps maps by the image's content and class, for a number of epochs.

    An image is known again by its pixels, bit for bit, so that the data set need not say which image it is. Kept maps
    are rounded to 255 levels and at most 56 pixels a side. So is a new map before it is used: an image has the very
    same map each time.

    Args:
        epochs: Number of epochs for which a map is used, the one it was made in included; ``None``: all.
        megabytes: The most memory, in 10⁶ bytes; the maps made longest ago go first.

    Example:
        >>> cache, made = MapCache(epochs=2), []
        >>> def explain(images, targets):
        ...     made.append(len(images))
        ...     return torch.rand(len(images), 8, 8)
        >>> images, targets = torch.rand(3, 1, 8, 8), torch.tensor([0, 1, 0])
        >>> maps = [cache.maps(images, targets, epoch, explain) for epoch in range(3)]
        >>> made, torch.equal(maps[0], maps[1])
        ([3, 3], True)
    """

    def __init__(self, epochs: int | None, megabytes: float = 512.0) -> None:
        self.epochs = epochs
        self.megabytes = megabytes
        #: Images seen after the first epoch with kept maps, and how many of them had one.
        self.sought = self.found = 0
        self._first: int | None = None
        self._entries: OrderedDict[Key, _Entry] = OrderedDict()
        self._bytes = 0

    @property
    def useless(self) -> bool:
        """Whether of 100 images that were to come back none did."""
        return self.sought >= 100 and self.found == 0

    def maps(self, images: Tensor, targets: Tensor, epoch: int, explain: Callable[[Tensor, Tensor], Tensor]) -> Tensor:
        """The maps of some images: kept ones where there are, else new ones, which are kept.

        Args:
            images: ``[n, C, H, W]``, floating point.
            targets: ``[n]`` int64 on the CPU.
            epoch: The present epoch, from 0.
            explain: Makes maps ``[m, H, W]`` in [0, 1] of m images and their targets.

        Returns:
            ``[n, H, W]`` float32 on the images' device; NaN where a map is not finite, which is not kept.
        """
        keys = list(zip(content_keys(images), targets.tolist(), strict=True))
        new: dict[Key, int] = {}
        for row, key in enumerate(keys):
            if not self._has(key, epoch):
                new.setdefault(key, row)
        self._first = epoch if self._first is None else self._first
        if epoch > self._first:
            self.sought += len(keys)
            self.found += sum(key not in new for key in keys)
        known = {key: self._entries[key].map for key in keys if key not in new}
        broken: set[Key] = set()
        if new:
            rows = torch.tensor(list(new.values()))
            fresh = explain(images[rows.to(images.device)], targets[rows])
            finite = fresh.isfinite().all(-1).all(-1).tolist()
            for key, map_, usable in zip(new, _small(fresh), finite, strict=True):
                known[key] = map_
                if usable:
                    self._store(key, map_.clone(), epoch)
                else:
                    broken.add(key)
        stacked = torch.stack([known[key] for key in keys]).to(images.device)
        maps = resize_maps(stacked.float() / 255, (images.shape[2], images.shape[3]))
        if broken:
            maps[torch.tensor([key in broken for key in keys], device=maps.device)] = torch.nan
        return maps

    def _has(self, key: Key, epoch: int) -> bool:
        entry = self._entries.get(key)
        if entry is None or epoch < entry.epoch:
            return False
        return self.epochs is None or epoch - entry.epoch < self.epochs

    def _store(self, key: Key, map_: Tensor, epoch: int) -> None:
        if key in self._entries:
            self._bytes -= self._entries.pop(key).map.numel() + _OVERHEAD
        self._entries[key] = _Entry(epoch, map_)
        self._bytes += map_.numel() + _OVERHEAD
        while self._bytes > self.megabytes * 1e6 and self._entries:
            self._bytes -= self._entries.popitem(last=False)[1].map.numel() + _OVERHEAD


def _small(maps: Tensor) -> Tensor:
    """Maps ``[n, H, W]`` in [0, 1] as they are kept: uint8 on the CPU, their longer side at most ``GRID``."""
    height, width = maps.shape[-2:]
    scale = min(1.0, GRID / max(height, width))
    grid = (max(1, round(height * scale)), max(1, round(width * scale)))
    small = torch.nan_to_num(maps[:, None].float())
    if scale < 1:
        small = F.interpolate(small, grid, mode="bilinear", align_corners=False, antialias=True)
    return (small[:, 0] * 255).round().to(torch.uint8).cpu()
