"""Which grid h×w, if any, a tensor of a traced forward pass lies on, and in which layout."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Literal

from torch import nn

from lightning_saliency.scales.tracing.origins import Beside, Shape
from lightning_saliency.scales.tracing.token_order import pooled_cells
from lightning_saliency.scales.tracing.trace import Call

Layout = Literal["NCHW", "NHWC", "tokens", "NCTHW", "NTHWC"]
Side = Literal["input", "output"]

#: Grids closer than this are one scale: unpadded convolutions shave a few positions off (Inception: 149, 147).
RATIO = 1.5
#: The most class and register tokens looked for before the patch tokens, where the grid is known from a convolution or,
#: more cautiously, guessed from the image's size alone.
MAX_PREFIX, MAX_PREFIX_GUESSED = 16, 5
#: By what factor a patch's height and width may differ where a grid of tokens is inferred from the image's size: an
#: image that is no multiple of the patch is padded or cut.
PATCH_TOLERANCE = 1.25
#: The largest share of a grid's positions that every second row and column, and the like, are.
_LATTICE = 0.5

_CHANNELS_FIRST = (
    nn.modules.conv._ConvNd,
    nn.modules.batchnorm._BatchNorm,
    nn.modules.instancenorm._InstanceNorm,
    nn.modules.pooling._MaxPoolNd,
    nn.modules.pooling._AvgPoolNd,
    nn.modules.pooling._AdaptiveAvgPoolNd,
    nn.modules.pooling._AdaptiveMaxPoolNd,
    nn.GroupNorm,
    nn.Dropout2d,
    nn.Upsample,
    nn.PixelShuffle,
    nn.PixelUnshuffle,
)


@dataclass(frozen=True)
class Grid:
    """The grid of one tensor.

    Attributes:
        size: (h, w), of a volume (t, h, w); (1, 1) for a vector ``[B, C]``.
        channels: C.
        layout: Order of the tensor's dimensions.
        prefix_tokens: Tokens before the h·w patch tokens.
        ambiguous: The shape fits NCHW and NHWC alike.
        suffix_tokens: Tokens behind the h·w patch tokens.
        image_size: (H, W) or (T, H, W) of the image, where tokens lie on the grid; else empty.
    """

    size: tuple[int, ...]
    channels: int
    layout: Layout
    prefix_tokens: int = 0
    ambiguous: bool = False
    suffix_tokens: int = 0
    image_size: tuple[int, ...] = ()

    @property
    def is_vector(self) -> bool:
        """Whether it has one position only."""
        return self.size[-2:] == (1, 1)

    def smaller_than(self, other: Grid) -> bool:
        """Whether this is a smaller grid, by the factor that makes two scales; of volumes h and w decide."""
        (h, w), (height, width) = self.size[-2:], other.size[-2:]
        return h <= height and w <= width and max(height / h, width / w) >= RATIO

    def close_to(self, other: Grid) -> bool:
        """Whether both are one scale; a vector is close to vectors alone."""
        if self.is_vector or other.is_vector:
            return self.is_vector and other.is_vector
        return not self.smaller_than(other) and not other.smaller_than(self)


class Grids:
    """The grids of all tensors of a trace.

    The batch must have been one image. A tensor ``[1, a, b, c]`` is NCHW if b×c has the image's proportions, NHWC if
    a×b has; the type of the module (a convolution, a linear layer) decides where both or neither do. A tensor
    ``[1, N, C]`` is a sequence of tokens if N is, up to a few other tokens, a grid seen before, the latest one reduced
    by an integer, or, while none has been seen, the image's size divided by a patch size. The other tokens stand before
    the patches, unless the pass has shown that they stand behind them or around them; then they may be many, as a text
    is (see `TokenOrder`). Patches that were shuffled, or of which some were dropped, are no grid, nor is anything
    else, such as a batch of windows.

    Of a volume ``[1, C, T, H, W]`` the tensors of five dimensions are looked at in the same way, and tokens that are,
    up to prefix tokens, such a grid seen before.

    A tensor of something beside the images (a text, a table) lies on no grid, and none is inferred from it.

    Args:
        root: The network's own call.
        beside: From when on a tensor counts as beside the images; ``None``: none does.
        images: The images' shape, ``[1, C, H, W]`` or ``[1, C, T, H, W]``; ``None``: that of what entered the call.
    """

    def __init__(self, root: Call, beside: Beside | None = Beside.PRESUMED, *, images: Shape | None = None) -> None:
        images = images or root.inputs
        if images is None or len(images) not in (4, 5):
            raise ValueError(
                f"Got a trace of the shape {images}. Allowed is one of images [1, C, H, W] or volumes "
                "[1, C, T, H, W]; trace with images."
            )
        _, channels, *size = images
        self.image = Grid(tuple(size), channels, "NCHW" if len(size) == 2 else "NCTHW")
        self._seen: dict[tuple[int, ...], int] = {}  # size to prefix tokens, the latest last
        self._of: dict[tuple[int, Side], Grid | None] = {}
        self._several: set[int] = set()
        self._beside = beside
        self._order = root.order
        self._astray = False
        self._cells: dict[tuple[int, ...], tuple[int, ...]] = {}  # of shuffled tokens, where on its grid each lies
        self._visit(root)

    def of(self, call: Call, side: Side) -> Grid | None:
        """The grid of the first tensor on one side of a call; ``None`` if it lies on none."""
        return self._of[id(call), side]

    def several_outputs(self, call: Call) -> bool:
        """Whether tensors on different grids came out: all stages of an encoder, or a map and its mean."""
        return id(call) in self._several

    def is_beside(self, call: Call, side: Side) -> bool:
        """Whether the first tensor on one side of a call comes from something beside the images."""
        if self._beside is None:
            return False
        return (call.origin.entered if side == "input" else call.origin.left) >= self._beside

    def _visit(self, call: Call) -> None:
        self._note(call, "input", call.inputs)
        for child in call.children:
            self._visit(child)
        self._note(call, "output", call.outputs[0] if call.outputs else None)
        first = self._of[id(call), "output"]
        others = [self._other(call, shape) for shape in call.outputs[1:] if shape[:1] == (1,)]
        if first is not None and any(other is not None and not other.close_to(first) for other in others):
            self._several.add(id(call))

    def _note(self, call: Call, side: Side, shape: Shape | None) -> None:
        grid = None
        # Another first dimension than the batch's: windows, tokens before the batch.
        if shape is not None and shape[:1] == (1,) and not self.is_beside(call, side):
            if len(shape) == 2:
                grid = Grid((1, 1), shape[1], "NCHW")
            elif len(shape) == len(self.image.size) + 2:
                grid = self._four(call, side, shape) if len(shape) == 4 else self._five(call, shape)
            elif len(shape) == 3:
                grid = self._tokens(shape[1], shape[2])
        self._of[id(call), side] = grid
        if grid is not None and not grid.is_vector and grid.size != self.image.size:
            self._seen.pop(grid.size, None)
            self._seen[grid.size] = grid.prefix_tokens

    def _other(self, call: Call, shape: Shape) -> Grid | None:
        if len(shape) == 2:
            return Grid((1, 1), shape[1], "NCHW")
        if len(shape) != len(self.image.size) + 2:
            return None
        return self._four(call, "output", shape) if len(shape) == 4 else self._five(call, shape)

    def _five(self, call: Call, shape: Shape) -> Grid | None:
        _, *before, channels = shape
        first, last = Grid(tuple(shape[2:]), shape[1], "NCTHW"), Grid(tuple(before), channels, "NTHWC")
        own = layout_by_type(call.module)
        fits_first, fits_last = self._fit(*first.size[-2:]), self._fit(*last.size[-2:])
        if own == "NHWC" or (own is None and fits_last > fits_first):
            return last
        return first if own == "NCHW" or first.is_vector or fits_first > 0 else None

    def _four(self, call: Call, side: Side, shape: Shape) -> Grid | None:
        _, a, b, c = shape
        first, last = Grid((b, c), a, "NCHW"), Grid((a, b), c, "NHWC")
        own = layout_by_type(call.module)
        if first.is_vector or own == "NCHW":
            return first
        if last.is_vector:
            return last
        fits_first, fits_last = self._fit(*first.size), self._fit(*last.size)
        if fits_first != fits_last:
            return first if fits_first > fits_last else last
        layout = own or _layout_inside(call, side, shape)
        if fits_first == 0:
            return first if layout == "NCHW" else None
        return replace(last if layout == "NHWC" else first, ambiguous=own is None)

    def _fit(self, h: int, w: int) -> int:
        """2 if h×w has the image's proportions to the pixel, 1 if nearly (unpadded convolutions), 0 if not."""
        height, width = self.image.size[-2:]
        difference = abs(h * width - w * height)
        return 2 if difference < max(height, width) else 1 if difference <= 2 * max(height, width) else 0

    def _tokens(self, count: int, channels: int) -> Grid | None:
        if count == 1:
            return Grid((1, 1), channels, "tokens")
        fitting = [
            (prefix, size)
            for size in reversed(self._seen)
            if 0 <= (prefix := count - math.prod(size)) <= MAX_PREFIX and prefix < math.prod(size)
        ]
        exact = any(prefix == 0 for prefix, _ in fitting)
        if not exact and (found := self._among_others(count)) is not None:
            size, before = found
            behind = count - math.prod(size) - before
            return Grid(size, channels, "tokens", before, suffix_tokens=behind, image_size=self.image.size)
        scattered = self._scattered(count)
        self._astray = self._astray or scattered
        if not fitting and len(self.image.size) == 2:
            fitting = self._reduced(count) if self._seen else self._patches(count)
            # What is pooled of scattered patches is on a coarser grid only where it is in order again.
            fitting = [each for each in fitting if not self._astray or self._in_order(*each)]
        if not fitting or scattered:
            return None
        prefix, size = min(fitting, key=lambda each: each[0])
        return Grid(size, channels, "tokens", prefix, image_size=self.image.size)

    def _among_others(self, count: int) -> tuple[tuple[int, ...], int] | None:
        """The grid whose patches were seen among so many tokens, the latest first, and how many stand before them."""
        for size in reversed(self._seen):
            before = self._order.before(count, math.prod(size))
            if before is not None:
                return size, before
        return None

    def _scattered(self, count: int) -> bool:
        """Whether a grid's patches were shuffled into a sequence, or some left out and not whole rows and columns."""
        for size in self._seen:
            rows = self._order.scattered(count, math.prod(size))
            if rows and (len(rows) > _LATTICE * math.prod(size) or not _is_lattice(rows, size[-1])):
                if len(rows) == count:
                    self._cells.setdefault(size, rows)
                return True
        return False

    def _in_order(self, prefix: int, size: tuple[int, ...]) -> bool:
        """Whether tokens that were pooled of shuffled patches, step by step, lie in row-major order (Hiera's last)."""
        if size not in self._cells and len(size) == 2:
            larger = [(other, cells) for other, cells in self._cells.items() if math.prod(other) > math.prod(size)]
            other, cells = min(larger, key=lambda each: math.prod(each[0]), default=(size, ()))
            self._cells[size] = pooled_cells(cells, other, size)
        return prefix == 0 and self._cells.get(size) == tuple(range(math.prod(size)))

    def _reduced(self, count: int) -> list[tuple[int, tuple[int, ...]]]:
        """The grid seen latest, reduced by an integer, with the prefix tokens that it had, or without."""
        (h, w), seen_prefix = next(reversed(self._seen.items()))
        sizes = {
            size
            for factor in range(2, min(h, w) + 1)
            for size in ((-(-h // factor), -(-w // factor)), (h // factor, w // factor))
        }
        return [(prefix, size) for prefix in {0, seen_prefix} for size in sizes if math.prod(size) + prefix == count]

    def _patches(self, count: int) -> list[tuple[int, tuple[int, ...]]]:
        """The image's size divided by a patch size."""
        height, width = self.image.size
        sizes: list[tuple[int, ...]] = [
            (height // patch, width // patch)
            for patch in range(2, min(height, width) // 2 + 1)
            if height % patch == 0 and width % patch == 0
        ]
        return [
            (prefix, size)
            for size in sizes
            if 0 <= (prefix := count - math.prod(size)) <= MAX_PREFIX_GUESSED and prefix < math.prod(size)
        ]


def _is_lattice(positions: tuple[int, ...], width: int) -> bool:
    """Whether positions of a grid so wide are evenly spaced rows and columns of it."""
    rows, columns = sorted({each // width for each in positions}), sorted({each % width for each in positions})
    even = all(len({b - a for a, b in pairwise(each)}) <= 1 for each in (rows, columns))
    return even and len(rows) * len(columns) == len(positions)


def settled(grid: Grid, shape: Shape, wider: Shape | None) -> Grid:
    """An ambiguous grid, settled by the shape that the same tensor has for an image twice as wide.

    Args:
        grid: The grid found for ``shape``.
        shape: ``[1, a, b, c]``.
        wider: The shape for the wider image; ``None``: the network refused it, and ``grid`` is returned unchanged.
    """
    if wider is None or len(wider) != 4:
        return grid
    _, a, b, c = shape
    if wider[3] != c and wider[2] == b:
        return Grid((b, c), a, "NCHW")
    if wider[2] != b and wider[3] == c:
        return Grid((a, b), c, "NHWC")
    return grid


def patch_grid(count: int, size: tuple[int, int], expected: tuple[int, int]) -> tuple[int, int] | None:
    """(h, w) with h·w = ``count`` whose patches on an image of ``size`` are closest to squares.

    Args:
        count: The number of patch tokens.
        size: (H, W) of the image.
        expected: Preferred to others that fit as well.

    Returns:
        The grid; ``None`` if no grid has patches about as high as wide.
    """
    height, width = size
    grids = sorted({(h, count // h) for h in range(1, count + 1) if count % h == 0}, key=lambda grid: grid != expected)
    skews = [abs(math.log((height / h) / (width / w))) for h, w in grids]
    if not skews or min(skews) > math.log(PATCH_TOLERANCE):
        return None
    return grids[skews.index(min(skews))]


def layout_by_type(module: nn.Module) -> Layout | None:
    """Where a layer of this type has its channels; None where the type does not say."""
    if isinstance(module, _CHANNELS_FIRST):
        return "NCHW"
    # Not their subclasses: several libraries have a LayerNorm2d that works on NCHW.
    return "NHWC" if type(module) in (nn.Linear, nn.LayerNorm) else None


def _layout_inside(call: Call, side: Side, shape: Shape) -> Layout | None:
    """The layout for the modules inside that see this shape on the same side."""
    for child in call.children if side == "input" else call.children[::-1]:
        if (child.inputs if side == "input" else next(iter(child.outputs), None)) == shape:
            layout = layout_by_type(child.module) or _layout_inside(child, side, shape)
            if layout is not None:
                return layout
    return None
