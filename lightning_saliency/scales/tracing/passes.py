"""Which of the passes through a network is the one over a batch's own images, and which row is which image."""

from __future__ import annotations

import weakref
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from lightning_saliency.scales.tracing.trace import tensors_in

# Rows and columns of an even grid over the image, of whose points and blocks images are recognised.
_POINTS = 8
# Of a volume, so many slices that lie evenly over it.
_SLICES = 4
# A row shows an image if their correlation is at least this; a normalised or rounded copy reaches 0.999.
_SAME = 0.99
# Images whose rows reach less than this in the mean are others. On 64 photographs, at 224 and at 32 pixels, colour,
# blur and noise leave 0.81 and more; turned by 3°, cropped, erased, mixed half and half, mirrored they reach 0.79 to
# 0.26.
_ALIKE = 0.8


@dataclass(frozen=True)
class PassRows:
    """The images of one pass.

    Attributes:
        score: Mean correlation of the rows with the images they show, in [-1, 1]; 0 where they cannot be compared.
        images: For each row of the pass the image of the batch that it shows.
        exact: Whether every row shows its image, up to a change of brightness and contrast of the channels.
        changed: Whether the rows show something else than any image of the batch, as mirrored ones do.
        own: Whether they are the batch's own, a bool on their device that was not read, see `BatchImages`; ``None``:
            all of the above is known.
    """

    score: float
    images: tuple[int, ...]
    exact: bool
    changed: bool = False
    own: Tensor | None = None


class BatchImages:
    """The images of a batch, to be recognised at the entrance of a network.

    An image is recognised by 64 of its pixels and the means of 64 blocks, standardised in each channel: images that
    the module normalises, scales or converts on their way to the network are recognised, mirrored ones are not. Of a
    volume or clip, four slices are looked at in this way.

    Args:
        images: ``[B, C, H, W]``, or volumes ``[B, C, T, H, W]``, as the data loader gave them.
        defer: Do not wait for a GPU to learn whether the batch's own tensor was written to: it is taken for unchanged,
            and ``PassRows.own`` tells later.

    Attributes:
        written: Whether the batch's own tensor came, and had been written to.
    """

    def __init__(self, images: Tensor, defer: bool = False) -> None:
        self.written = False
        self._defer = defer
        self.count = images.shape[0]
        self.ndim = images.ndim
        self.size: tuple[int, ...] = tuple(images.shape[1:])
        self._prints = _prints(images)
        self._tensor = weakref.ref(images)
        self._memory = _memory_of(images)
        self._points = _points(images)

    def rows(self, entering: Tensor) -> PassRows:
        """Which image each row of a tensor ``[n, C, H, W]`` (or ``[n, H, W, C]``, or of volumes) shows.

        Rows that are not recognised are taken in order.
        """
        count = entering.shape[0]
        in_order = tuple(row if row < self.count else -1 for row in range(count))
        own = self._is_own(entering)
        if isinstance(own, Tensor):
            if self._defer:
                return PassRows(1.0, in_order, True, own=own)
            own = bool(own)
        if own:
            return PassRows(1.0, in_order, True)
        self.written |= own is not None
        prints, known = _prints(entering).cpu(), self._prints.cpu()
        if prints.shape[1:] != known.shape[1:]:
            other = _prints(entering.movedim(-1, 1)).cpu() if entering.ndim == self.ndim else prints
            if other.shape[1:] != known.shape[1:]:
                return PassRows(0.0, in_order, False)
            prints = other
        found = (prints @ known.T) / prints.shape[1]
        straight = torch.tensor([found[row, row] if row < self.count else -1.0 for row in range(count)])
        if count <= self.count and bool((straight >= _SAME).all()):
            return PassRows(float(straight.mean()), in_order, True)
        best, which = found.max(dim=1)
        images: list[int] = []
        for row, image in enumerate(which.tolist()):
            recognised = float(best[row]) >= _SAME and image not in images
            images.append(image if recognised else -1)
        if count > self.count and all(number in images for number in range(self.count)):
            # Several views in one batch: the other rows are no image of it.
            return PassRows(
                float(best[[images.index(number) for number in range(self.count)]].mean()), tuple(images), True
            )
        if all(image >= 0 for image in images):
            return PassRows(float(best.mean()), tuple(images), True)
        score = float(straight[: self.count].mean())
        return PassRows(score, in_order, False, score < _ALIKE)

    def _is_own(self, entering: Tensor) -> Tensor | bool | None:
        """Whether this is the batch's own tensor, as it mostly is: it need not be gone through again.

        ``None``: it is another. Else whether it still holds what it held; on other devices than the CPU not a bool but
        a tensor, which has to be waited for.
        """
        try:
            if self._tensor() is None or _memory_of(entering) != self._memory:
                return None
        except RuntimeError:  # no memory of its own, as inside `torch.func.grad`
            return None
        # Tensors of inference mode do not count how often they are written to, nor do others where NumPy or a kernel of
        # the user's own writes.
        now, then = _points(entering), self._points
        same = ((now == then) | (now.isnan() & then.isnan())).all()
        return bool(same) if entering.device.type == "cpu" else same


@dataclass(frozen=True)
class Entrance:
    """Images that entered a module: the beginning of a pass.

    Attributes:
        module: The module.
        rows: Which image of the batch each row shows.
        batch: How many rows there are.
        size: (C, H, W) or (C, T, H, W), whatever the layout.
        seen: A copy of the rows, ``[n, C, H, W]``, where they show something else than the batch's images.
    """

    module: nn.Module
    rows: PassRows
    batch: int
    size: tuple[int, ...]
    seen: Tensor | None = None

    @classmethod
    def of(cls, module: nn.Module, entering: Tensor, images: BatchImages) -> Entrance:
        """What a tensor ``[n, C, H, W]`` or ``[n, H, W, C]``, or one of volumes, is that enters a module."""
        sides = tuple(entering.shape[1:])
        last = sides[-1] == images.size[0] and sides[0] != images.size[0]
        size = (sides[-1], *sides[:-1]) if last else sides
        rows, given = images.rows(entering), entering.detach()
        seen = (given.movedim(-1, 1) if last else given).clone() if rows.changed else None
        return cls(module, rows, entering.shape[0], size, seen)

    def read_rows(self, wanted: frozenset[int] | None) -> list[int]:
        """The rows that show images of the batch, or those of them that are wanted."""
        known = [row for row, image in enumerate(self.rows.images) if image >= 0]
        return known if wanted is None else [row for row in known if self.rows.images[row] in wanted]


@dataclass(frozen=True)
class PassMaps:
    """Maps of images of a batch.

    Attributes:
        images: The rows of the batch whose maps there are, in order.
        maps: One map ``[n, h, w]``, or ``[n, t, h, w]`` of volumes, a scale, of these rows.
        seen: What the maps are of, ``[n, C, H, W]``, where the step has made something else of the batch's images.
        own: Whether they are of the batch's own images, a bool on their device, not read yet; ``None``: it is known.
    """

    images: tuple[int, ...]
    maps: list[Tensor]
    seen: Tensor | None = None
    own: Tensor | None = None


def choose_passes(entrances: Sequence[Entrance], count: int) -> list[tuple[int, Entrance]]:
    """The pass over a batch's own images: several, if the images went through one after another in chunks.

    Modules that are trained go before those that are not (a teacher, an average of the weights); among them the pass
    that shows the images best, a mirrored one behind the plain one; among equals the first.

    Args:
        entrances: The passes of one step, at least one.
        count: How many images the batch has.

    Returns:
        Positions in ``entrances`` and the passes, each with its rows.
    """

    def trained(each: Entrance) -> bool:
        return any(parameter.requires_grad for parameter in each.module.parameters())

    numbered = list(enumerate(entrances))
    candidates = [(number, each) for number, each in numbered if trained(each)] or numbered
    # Among images that show something else, chance alone says which are nearer.
    position, best = max(
        candidates,
        key=lambda each: (each[1].rows.exact, 0.0 if each[1].rows.changed else round(each[1].rows.score, 3)),
    )
    same = [(number, each) for number, each in candidates if each.module is best.module]
    if best.rows.exact:
        return [(position, best), *(each for each in same if each[0] != position and each[1].rows.exact)]
    # Images that could not be recognised: that pass, and those behind it that fill the batch up.
    found, filled = [(position, best)], best.batch
    for number, each in same:
        if number > position and filled + each.batch <= count:
            rows = replace(each.rows, images=tuple(range(filled, filled + each.batch)))
            found.append((number, replace(each, rows=rows)))
            filled += each.batch
    return found


def joined(parts: Sequence[tuple[Entrance, list[Tensor]]], wanted: frozenset[int] | None) -> PassMaps:
    """The maps of passes put together, image by image; of an image that went through twice, the first.

    Args:
        parts: Passes, each with one map ``[n, h, w]`` a scale of the rows that were read.
        wanted: The images whose rows were read; ``None``: all.
    """
    unread = [entrance.rows.own for entrance, _ in parts if entrance.rows.own is not None]
    own = torch.stack(unread).all() if unread else None
    if len(parts) == 1:
        entrance, maps = parts[0]
        rows = entrance.read_rows(wanted)
        shown = tuple(entrance.rows.images[row] for row in rows)
        if all(before < after for before, after in pairwise(shown)):
            return PassMaps(shown, list(maps), None if entrance.seen is None else rows_of(entrance.seen, rows), own)
    of_image: dict[int, list[Tensor]] = {}
    seen: dict[int, Tensor] = {}
    for entrance, maps in parts:
        for place, row in enumerate(entrance.read_rows(wanted)):
            image = entrance.rows.images[row]
            of_image.setdefault(image, [map_[place] for map_ in maps])
            if entrance.seen is not None:
                seen.setdefault(image, entrance.seen[row])
    images = tuple(sorted(of_image))
    levels = len(parts[0][1])
    return PassMaps(
        images,
        [torch.stack([of_image[image][level] for image in images]) for level in range(levels)],
        torch.stack([seen[image] for image in images]) if len(seen) == len(images) > 0 else None,
        own,
    )


def entering_images(args: object, ndim: int = 4) -> Tensor | None:
    """The first tensor ``[n, C, H, W]``, or of other ``ndim`` dimensions, among what a module was called with."""
    return next((tensor for tensor in tensors_in(args) if tensor.ndim == ndim and min(tensor.shape) > 0), None)


def rows_of(tensor: Tensor, rows: Sequence[int]) -> Tensor:
    """Rows of a tensor: a view, and no copy, where they follow each other.

    Example:
        >>> tensor = torch.arange(4)
        >>> rows_of(tensor, [1, 2]).data_ptr() == tensor[1:].data_ptr(), rows_of(tensor, [3, 0])
        (True, tensor([3, 0]))
    """
    first = rows[0] if rows else 0
    if list(rows) == list(range(first, first + len(rows))):
        return tensor[first : first + len(rows)]
    return tensor[list(rows)]


def _memory_of(images: Tensor) -> tuple[object, ...]:
    version = None if images.is_inference() else images._version
    return images.data_ptr(), images.shape, images.stride(), images.dtype, images.device, version


def _points(images: Tensor) -> Tensor:
    """Pixels of an even grid over each image, ``[B, C, 8, 8]``; of a volume, of four of its slices."""
    images = _slices(images.detach())
    rows, columns = (_evenly(side, _POINTS, images.device) for side in images.shape[-2:])
    return images[:, :, rows][..., columns]


def _slices(images: Tensor) -> Tensor:
    """Images as they are; of volumes, slices that lie evenly over T, as if they were channels."""
    if images.ndim != 5:
        return images
    return images[:, :, _evenly(images.shape[2], _SLICES, images.device)].flatten(1, 2)


def _evenly(side: int, count: int, device: torch.device) -> Tensor:
    """Places that lie evenly over a side, the next to i · (side − 1) / (count − 1); in whole numbers, on the device."""
    return (torch.arange(count, device=device) * (2 * (side - 1)) + count - 1) // (2 * (count - 1))


def _prints(images: Tensor) -> Tensor:
    """What an image is recognised by: ``[B, n]`` on its device, of which two agree where their product's mean is 1."""
    points = _points(images).float().flatten(2).nan_to_num()
    # Dots and strokes lie beside the points; no block misses them.
    blocks = F.adaptive_avg_pool2d(_slices(images.detach()).float(), _POINTS).flatten(2).nan_to_num()
    return torch.cat([_standardised(points), _standardised(blocks)], dim=2).flatten(1)


def _standardised(values: Tensor) -> Tensor:
    spread, mean = torch.std_mean(values, dim=2, keepdim=True, correction=0)
    # A flat channel says nothing, and agrees with a flat one.
    return torch.where(spread > 1e-6, (values - mean) / spread.clamp_min(1e-6), torch.ones_like(values))
