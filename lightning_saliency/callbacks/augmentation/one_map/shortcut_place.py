"""One map for all images: the place where their maps point and where what lies there tells the class."""

from __future__ import annotations

import math
from collections.abc import Mapping
from copy import deepcopy
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from lightning_saliency.functional.position_bias import PositionSums, cell_features

#: Cells a side of images that are larger than `EXACT`; twice as many as the monitor's, for the mark's shape.
GRID = 32
#: Images up to this side are looked at pixel by pixel: of a mark, one row that stays visible may be enough.
EXACT = 64
#: Where this product is reached, a shortcut begins.
SEED = 0.2
#: It goes on through neighbours in which the class explains at least this share of what it explains there.
EXTENT = 0.5
#: A larger share of the image is no place.
LARGEST = 0.6
#: How much the class explains in a cell of a background or tint, at least.
SPREAD = 0.1
#: By so many standard deviations of chance the class has to explain more than nothing: of a thousand cells, none does
#: by chance.
DEVIATIONS = 5.0
#: After so many images the place stays as it is, and no more maps are asked for.
IMAGES = 5000


class ShortcutPlace:
    """Gives every image the same map: 1 where a shortcut lies at one place in all images, 0 elsewhere.

    The maps say where the network looks, and the images how far the shortcut reaches. It begins in the cells where the
    share of images whose map points there times how much of what lies there depends on the class is at least 0.2. Both
    are those of `PositionBias`, but the share is that of the class where it is largest, since a mark may lie in the
    images of one class alone. It goes on through neighbouring cells that depend on the class half as much as the most
    dependent of these, whether the maps point there or not: maps show part of a frame. What chance makes of few images
    is taken off both; images that come again in each epoch are no new ones there. Where no place is found, or what
    tells the class lies all over the image, all maps are 0. The first 5,000 images decide.

    Up to 64 pixels a side the place is known to the pixel. Of larger images it is made of cells, 32 a side, and one
    cell is added round it, since the mark may lie in a part of the next one.

    Attributes:
        region: The place, ``[H, W]`` or ``[32, 32]`` bool; ``None`` while too few images were seen to tell.
        everywhere: Whether what tells the class lies all over the image.
        seen: The number of images that were taken in: with a class, and a map of finite numbers.

    Example:
        >>> place = ShortcutPlace()
        >>> maps, images = torch.rand(40, 32, 32), torch.rand(40, 3, 32, 32)
        >>> classes = torch.arange(40) % 2
        >>> maps[:, :4, :4] += 1.0
        >>> images[:, :, :4, :8] = classes[:, None, None, None].float()
        >>> found = place(maps, images, classes)[0]
        >>> found.sum().item(), found[:4, :8].mean().item()  # the whole mark, of which the maps show one half
        (32.0, 1.0)
    """

    def __init__(self) -> None:
        self.sums: PositionSums | None = None
        self.region: Tensor | None = None
        self.everywhere = False
        self.seen = 0
        self._asked = False
        self._count = 0
        self._of_epoch = self._distinct = 0

    def __call__(self, maps: Tensor, images: Tensor, classes: Tensor) -> Tensor:
        """Take in a batch and say where the place is.

        Args:
            maps: ``[n, H, W]``.
            images: ``[n, C, H, W]``, which the maps are of.
            classes: ``[n]`` int64; negative: none.

        Returns:
            ``[n, H, W]``, zeros and ones, of the maps' type; NaN for a map that is not finite.
        """
        if not self.settled:
            self._take(maps, images, classes)
        found = self._place((maps.shape[1], maps.shape[2])).to(maps)
        return torch.where(maps.flatten(1).isfinite().all(1)[:, None, None], found, torch.nan)

    def begin_epoch(self) -> None:
        """From here on, images come again."""
        self._of_epoch = 0

    @property
    def settled(self) -> bool:
        """Whether the place stays as it is, whatever the maps of further images are."""
        return self.seen >= IMAGES

    def _place(self, size: tuple[int, int]) -> Tensor:
        """The place in images of a size, ``[1, H, W]``, zeros and ones."""
        return torch.zeros(1, *size) if self.region is None else region_in(self.region, size)[None].float()

    def _take(self, maps: Tensor, images: Tensor, classes: Tensor) -> None:
        if self.sums is None:
            size = (images.shape[2], images.shape[3])
            self.sums = PositionSums(grid=size if max(size) <= EXACT else GRID)
        grid = (self.sums.maps.shape[1], self.sums.maps.shape[2])
        # Made here, since images of five channels have the shape of features where each pixel is a cell.
        self.sums.add(maps, classes, cell_features(images, grid))
        before, self.seen, self._asked = self.seen, int(self.sums.count[:-1].sum()), True
        self._of_epoch += self.seen - before
        self._distinct = max(self._distinct, self._of_epoch)
        # After a few images each more counts; after thousands hardly, and finding the place takes its time.
        if self.seen >= 1.1 * self._count or self.settled:
            self._find(self.sums)
        if self.settled:  # for a thousand classes they are large
            self.sums = None

    @property
    def why_none(self) -> str | None:
        """Why there is no place; ``None`` where there is one, or no image was seen."""
        if not self._asked or (self.region is not None and bool(self.region.any())):
            return None
        if self.region is None:
            return "too few images of each class were seen to tell"
        if self.everywhere:
            return "what tells the class lies all over the image, as a background or a tint would"
        return "the maps of many images point to no one place that tells the class"

    @property
    def no_place(self) -> str | None:
        """What is said of an augmentation that changes no image for that reason; ``None`` where it does."""
        if self.why_none is None:
            return None
        if self.region is None:
            remedy = "With very many classes or very few images take maps='mean'."
        elif self.everywhere:
            remedy = "Take action='swap' with guide_network='untrained', see the docs on shortcuts."
        else:
            remedy = (
                "Random crops and flips move a mark: leave them out, or hide it before them with HidePlace. A network "
                "that has not learnt it yet does not point to it: start_epoch= says when to look. Where it lies "
                "elsewhere in each image anyway, take maps='own' and a small share."
            )
        return f"maps='shortcut' changes no image: {self.why_none}. {remedy}"

    def kept(self) -> dict[str, Any]:
        """What `restore` goes back to."""
        return deepcopy(vars(self))

    def restore(self, kept: dict[str, Any]) -> None:
        """Forget all images since then."""
        vars(self).update(kept)

    def state_dict(self) -> dict[str, Any] | None:
        """The sums so far; ``None`` before the first image."""
        if not self._asked:
            return None
        state = {name: value for name, value in vars(self).items() if name != "sums"}
        if self.sums is not None:
            grid = tuple(self.sums.maps.shape[1:])
            state |= {"classes": self.sums.classes, "grid": grid, "sums": self.sums.vector()}
        return state

    def load_state_dict(self, state: Mapping[str, Any] | None) -> None:
        """Go on with the sums of a checkpoint."""
        given = {**vars(ShortcutPlace()), **(state or {})}
        if given["sums"] is not None:
            sums = PositionSums(int(given.pop("classes")), tuple(given.pop("grid")))
            sums.load(given["sums"])
            given["sums"] = sums
        vars(self).update(given)

    def _find(self, sums: PositionSums) -> None:
        self._count, count = self.seen, self._distinct
        classes = int((sums.count[:-1] > 0).sum())
        # Of independent values, the sum of squares between C classes is chi-squared with C − 1 degrees of freedom.
        chance = DEVIATIONS * math.sqrt(2 * max(0, classes - 1)) / max(1, count - classes)
        if classes < 2 or chance >= 1 - SEED:
            self.region, self.everywhere = None, False
            return
        # Seen again and again, N images explain as much by chance as N do. The sums tell ε² of the n images that were
        # counted, so 1 − η² = (1 − ε²)(n − C)/(n − 1), and from that follows ε² of the N different ones.
        again = (self.seen - classes) / (self.seen - 1) * (count - 1) / (count - classes)
        explained = (1 - (1 - sums.explained()) * again - chance).clamp_min(0)
        count_of_each = sums.count[:-1, None, None].clamp_min(1)
        # Less three standard deviations of a half: of a few images of a class, many maps point to one place by chance.
        shares = (sums.top[:-1] / count_of_each - 1.5 * (count_of_each * count / self.seen).rsqrt()).amax(0)
        seeds = explained * shares >= SEED
        region = region_of(seeds, explained)
        # A background or tint is everywhere, and maps that point to it need not agree on a place.
        spread = region if bool(region.any()) else explained >= SPREAD
        self.everywhere = bool(spread.float().mean() > LARGEST)
        self.region = torch.zeros_like(region) if self.everywhere else region


def region_in(region: Tensor, size: tuple[int, int]) -> Tensor:
    """A place in images of another size, with a margin of one of its own cells, since a mark may lie in a part of one.

    Args:
        region: ``[G, K]`` bool.
        size: ``(H, W)``; where it is ``(G, K)``, the place is known to the pixel.

    Returns:
        ``[H, W]`` bool.
    """
    if region.shape == torch.Size(size):
        return region
    wider = F.max_pool2d(region.float()[None], 3, 1, 1)
    coarser = F.adaptive_max_pool2d(wider, [min(own, other) for own, other in zip(region.shape, size, strict=True)])
    return F.interpolate(coarser[None], size, mode="nearest-exact")[0, 0] > 0


def region_of(seeds: Tensor, explained: Tensor) -> Tensor:
    """The cells that hang together with seeds through cells that are explained at least half as well as the best seed.

    Args:
        seeds: ``[G, K]`` bool.
        explained: ``[G, K]``, at least 0.

    Returns:
        ``[G, K]`` bool.
    """
    if not bool(seeds.any()):
        return torch.zeros_like(seeds)
    allowed = explained >= EXTENT * explained[seeds].max()
    region = seeds & allowed
    while True:
        grown = (F.max_pool2d(region.float()[None], 3, 1, 1)[0] > 0) & allowed
        if bool((grown == region).all()):
            return region
        region = grown
