"""A scale of a network: one tensor that is read, and how positions and channels lie in it."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field

from torch import Tensor

from lightning_saliency.scales.tracing.grids import MAX_PREFIX, MAX_PREFIX_GUESSED, Layout, Side, patch_grid

#: The columns of ``scale_table``.
SCALE_COLUMNS = ("scale", "module", "read", "grid", "channels", "layout")


@dataclass(frozen=True)
class Scale:
    """One tensor of a network to be read, and how its positions and channels lie in it.

    Attributes:
        module: Dotted path of the module, for ``model.get_submodule``; ``""`` is the network itself.
        read: Whether the tensor is what enters the module or what comes out of it. Where there are several tensors (a
            tuple, a list, a mapping), the first one is meant.
        grid: (h, w), of a volume (t, h, w), as seen for the example input; another image size gives another grid.
        channels: C.
        layout: ``"NCHW"``, ``"NHWC"``, or ``"tokens"`` for ``[B, prefix_tokens + h·w + suffix_tokens, C]``, the h·w
            patch tokens in row-major order; of volumes ``"NCTHW"`` or ``"NTHWC"``.
        prefix_tokens: Class and register tokens before the patch tokens, or a text's.
        suffix_tokens: Tokens behind the patch tokens, likewise.
        image_size: (H, W), of a volume (T, H, W), of the example input; empty where it is not known or not needed.
    """

    module: str
    read: Side
    grid: tuple[int, ...]
    channels: int
    layout: Layout
    prefix_tokens: int = 0
    suffix_tokens: int = 0
    image_size: tuple[int, ...] = field(default=(), compare=False, repr=False)

    @property
    def name(self) -> str:
        """What is read, as ``layers=`` takes it: ``"layer2"``, ``"layer3:input"``; ``"output"`` is the network's own.

        Example:
            >>> Scale("layer3", "input", (14, 14), 256, "NCHW").name
            'layer3:input'
        """
        return f"{self.module}:input" if self.read == "input" else self.module or "output"


def as_grid(activations: Tensor, scale: Scale, size: tuple[int, int] | None = None) -> tuple[Tensor, int]:
    """A view of a scale's activations on its grid, without a copy, and the dimension that the channels have in it.

    Args:
        activations: The tensor read at ``scale``: ``[B, C, h, w]``, ``[B, h, w, C]`` or
            ``[B, prefix_tokens + h·w + suffix_tokens, C]``, by its layout.
        scale: The scale.
        size: (H, W) of the images, from whose proportions h and w of tokens are inferred; needed only where the number
            of patch tokens or the images' proportions are not those of the example input. Other layouts do not use it.

    Returns:
        ``([B, C, h, w], 1)`` for NCHW, else ``([B, h, w, C], 3)``; of volumes ``([B, C, t, h, w], 1)`` or
        ``([B, t, h, w, C], 4)``.

    Raises:
        ValueError: If the tensor has another number of dimensions than its layout, or the tokens do not fit on a grid.

    Example:
        >>> import torch
        >>> scale = Scale("blocks.11", "output", grid=(14, 14), channels=192, layout="tokens", prefix_tokens=1)
        >>> grid, dim = as_grid(torch.rand(2, 197, 192), scale)
        >>> grid.shape, dim
        (torch.Size([2, 14, 14, 192]), 3)
        >>> as_grid(torch.rand(2, 1 + 10 * 20, 192), scale, size=(160, 320))[0].shape
        torch.Size([2, 10, 20, 192])
    """
    dimensions = 3 if scale.layout == "tokens" else len(scale.layout)
    if activations.ndim != dimensions:
        raise ValueError(
            f"Got {list(activations.shape)} as the {scale.read} of {scale.module!r}. Allowed are {dimensions} "
            f"dimensions, its layout being {scale.layout}; find the scales anew, with an example of what the network "
            "is given."
        )
    if scale.layout != "tokens":
        return activations, scale.layout.index("C")
    patches, grid = patch_tokens(activations.shape[1], scale, size)
    return activations[:, patches].view(activations.shape[0], *grid, activations.shape[2]), 1 + len(grid)


def beside_a_text(scale: Scale) -> bool:
    """Whether a scale's patch tokens have more than class and register tokens beside them."""
    return scale.suffix_tokens > MAX_PREFIX_GUESSED or scale.prefix_tokens > MAX_PREFIX


def patch_tokens(count: int, scale: Scale, size: tuple[int, int] | None = None) -> tuple[slice, tuple[int, ...]]:
    """Where the patch tokens lie in a sequence of ``count`` tokens, and their grid; arguments and errors of `as_grid`.

    Of images of the example's size it is a text beside the patches that may be longer or shorter; of images of another
    size, it is the patches that may be more or fewer.

    Example:
        >>> scale = Scale("blocks.11", "output", (4, 4), 8, "tokens", 1, suffix_tokens=12, image_size=(64, 64))
        >>> patch_tokens(1 + 16 + 20, scale, size=(64, 64)), patch_tokens(1 + 25 + 12, scale, size=(80, 80))
        ((slice(1, 17, None), (4, 4)), (slice(1, 26, None), (5, 5)))
    """
    before, behind = scale.prefix_tokens, scale.suffix_tokens
    if beside_a_text(scale) and size is not None and size == scale.image_size:
        others = count - math.prod(scale.grid)
        before = before if behind > MAX_PREFIX_GUESSED else others - behind
        behind = others - before
        if min(before, behind) < 0:
            raise ValueError(
                f"Got {count} tokens as the {scale.read} of {scale.module!r}. Allowed are the "
                f"{math.prod(scale.grid)} patch tokens of the example input, with a text of any length beside them; "
                "find the scales anew with images of this size."
            )
    grid = _token_grid(count - before - behind, scale, size)
    return slice(before, count - behind), grid


def scale_table(scales: Sequence[Scale]) -> list[tuple[str, ...]]:
    """One row of strings for each scale, in the columns ``SCALE_COLUMNS``.

    Example:
        >>> scale_table([Scale("blocks.2", "output", (14, 14), 192, "tokens", prefix_tokens=1)])
        [('1', 'blocks.2', 'output', '14×14', '192', 'tokens (1 prefix)')]
    """
    return [
        (
            str(number),
            scale.module or "(the network itself)",
            scale.read,
            "×".join(map(str, scale.grid)),
            str(scale.channels),
            scale.layout + _others(scale),
        )
        for number, scale in enumerate(scales, start=1)
    ]


def share_one_grid(scales: Sequence[Scale]) -> bool:
    """Whether there are several scales, all on one grid: depths of an isotropic network (ViT), not resolutions.

    Example:
        >>> share_one_grid([Scale(f"blocks.{n}", "output", (14, 14), 192, "tokens", 1) for n in (2, 5, 8, 11)])
        True
    """
    return len(scales) > 1 and len({scale.grid for scale in scales}) == 1


def _others(scale: Scale) -> str:
    """The other tokens of a scale, in words."""
    counts = {"prefix": scale.prefix_tokens, "suffix": scale.suffix_tokens}
    words = ", ".join(f"{count} {name}" for name, count in counts.items() if count)
    return f" ({words})" if words else ""


def _token_grid(count: int, scale: Scale, size: tuple[int, int] | None) -> tuple[int, ...]:
    """(h, w) or (t, h, w) of ``count`` patch tokens; (h, w) is inferred from the images' size if that is given."""
    if size is None or len(scale.grid) == 3:
        if count == math.prod(scale.grid):
            return scale.grid
        shown = "×".join(map(str, scale.grid))
        raise ValueError(
            f"The {scale.read} of {scale.module!r} holds {count} patch tokens, but for the example input it held "
            f"{math.prod(scale.grid)} ({shown}). Give the images' size=(H, W), from which the grid can be "
            "inferred, or find the scales anew with images of this size."
        )
    inferred = patch_grid(count, size, (scale.grid[0], scale.grid[1]))
    if inferred is None:
        raise ValueError(
            f"The {count} patch tokens at {scale.module!r} do not fit on a {size[0]}×{size[1]} image: no h·w = {count} "
            "gives patches about as high as wide. The network may drop or merge tokens, or have other than "
            f"{scale.prefix_tokens} class and register tokens; find the scales anew with images of this size, or name "
            "another layer."
        )
    return inferred
