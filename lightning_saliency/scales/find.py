"""Which tensors of a network are its scales.

A scale is what the network knows just before it goes to its next, smaller grid ("just prior to the downsampling", SMOE
Scale paper; "the inputs of the pooling layers", SISE paper).
"""

from __future__ import annotations

import logging
import math
from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor, nn

from lightning_saliency.scales.tracing.grids import MAX_PREFIX, MAX_PREFIX_GUESSED, Grids, Layout, Side, patch_grid
from lightning_saliency.scales.tracing.tensor_refs import TensorRef, layer_name, named_tensor_ref, settle, split_layer
from lightning_saliency.scales.tracing.trace import Call, plain_name, prepared, trace
from lightning_saliency.scales.tracing.trunk import scale_refs

__all__ = [
    "SCALE_COLUMNS",
    "NoScalesError",
    "Scale",
    "as_grid",
    "find_scales",
    "layer_name",
    "named_scales",
    "plain_name",
    "scale_table",
    "share_one_grid",
]

#: The columns of ``scale_table``.
SCALE_COLUMNS = ("scale", "module", "read", "grid", "channels", "layout")

_log = logging.getLogger(__name__)


class NoScalesError(ValueError):
    """The network has no scales: no layer with weights works on a grid of more than one position."""


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


def find_scales(model: nn.Module, example_input: Tensor) -> tuple[Scale, ...]:
    """The scales of a network, shallow to deep, found by one forward pass that leaves no trace.

    The rule: *a scale is the tensor that enters the outermost module taking the network to its next, smaller grid.* In
    detail:

    - A module that passes over an intermediate grid (a ``stem``, a ``features``) is looked into. One that comes back to
      the grid it began on (squeeze-and-excitation, window partitions, reduced attention keys) is not.
    - Where a function does the reduction (``x.mean((2, 3))``, ``F.max_pool2d``), it is the output of the last module on
      that grid, as it is before any function that follows; likewise where the reducing module is called more than once
      in a pass (one pooling module for all stages), since its name would not say which tensor is meant. A grid of such
      modules alone is passed over.
    - Grids closer than a factor 1.5 are one scale. The image itself is no scale, nor is a map of logits (the tensor
      before the last layer is taken instead), a grid on which no layer with weights works (the pooled 7×7 of VGG), or
      1×1. A table of positions or a weight that passes through a module is none, either.
    - Where the grids grow for good, the scales end: an encoder-decoder has those of its encoder, the last one being the
      bottleneck.
    - Where a normalisation and ReLU directly follow a scale that is not yet rectified, what they make of it is taken:
      in DenseNet, whose transitions begin with both, and in MobileNetV2, whose blocks end without ReLU and widen what
      they get by a convolution, BatchNorm and ReLU before they reduce it. (``nn.ReLU`` and ``nn.ReLU6`` modules behind
      BatchNorm, GroupNorm or InstanceNorm; functions are not seen.)
    - Where all of a network lies on one grid, in a row of at least four blocks (ViT, MLP-Mixer), it is the outputs of
      four of them evenly spread in depth, the last block included; ``share_one_grid`` says so.
    - What a network makes of something else than the image is none: of tokens or a table that it holds or is given
      beside the image, of ids ``[B, n]``, or of what modules made of these, see `tracing.origins`. Functions between
      modules are not seen: what they make counts as the image's, unless it is a sequence shaped as one beside it.
    - Where a network names the modules of its stages itself (``feature_info`` of timm), the outputs of those that lie
      on the grids found by this rule are taken.

    The pass runs one image of ``example_input`` and a copy of it (the image alone, where the network refuses two), by
    which a batch is told from a table of positions. It runs in eval mode, without gradients and eagerly, on the
    network's device and in its dtype. Afterwards every submodule's training flag and attributes, buffers, ``.grad``,
    hooks and the random number generators are as before, also after an exception. A second pass, on an image twice as
    wide, is made only where a tensor could be NCHW and NHWC alike; if the network refuses it, the types of its modules
    decide.

    A volume or a clip ``[B, C, T, H, W]`` is an image with one dimension more. Its grids are (t, h, w), of which h and
    w say which is smaller; tokens lie on grids that a convolution or a pooling made before.

    Where the patches lie among other tokens is told by their values. Shuffled or dropped ones are on no grid, see
    `tracing.token_order`; name other modules with ``named_scales``. Scripted modules cannot be looked into.

    Args:
        model: A network that takes one tensor of images. It may be compiled and in any mode.
        example_input: ``[B, C, H, W]`` or ``[B, C, T, H, W]``, B ≥ 1, as the network sees it, of which the first
            image is used; any device and dtype.

    Returns:
        At least one scale, each naming a module that is called once in a pass.

    Raises:
        NoScalesError: If the network has none, as an MLP.
        TypeError: If ``model`` is no module or ``example_input`` no tensor.
        ValueError: If ``example_input`` has another shape, or a lazy parameter is not yet initialised.
        Exception: Whatever the network raises on the example input.

    Example:
        >>> import torch
        >>> network = nn.Sequential(
        ...     nn.Conv2d(3, 8, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2),
        ...     nn.Conv2d(8, 16, 3, padding=1), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(16, 10),
        ... )
        >>> for scale in find_scales(network, torch.rand(1, 3, 32, 32)):
        ...     print(scale.module, scale.read, scale.grid, scale.channels, scale.layout)
        2 input (32, 32) 8 NCHW
        5 input (16, 16) 16 NCHW
    """
    images = prepared(model, example_input)
    root = traced(model, images)
    refs = scale_refs(root)
    if not refs:
        raise NoScalesError(
            f"No scales found in {type(model).__name__} for an input of {list(images.shape)}: no layer with weights "
            "works on a grid [B, C, h, w], [B, h, w, C] or [B, tokens, C] of more than one position. Allowed are "
            "networks that keep the image's two dimensions for a while (an MLP does not; a scripted network cannot be "
            "looked into). If there is such a layer, name it: named_scales(model, layers, example_input)."
        )
    scales = tuple(scale_of(ref) for ref in settle(model, images, root, refs))
    if share_one_grid(scales):
        names = ", ".join(scale.module for scale in scales)
        grid = "×".join(map(str, scales[0].grid))
        _log.info("%s has one grid, %s: its scales are %s.", type(model).__name__, grid, names)
    return scales


def named_scales(model: nn.Module, layers: Sequence[str | nn.Module], example_input: Tensor) -> tuple[Scale, ...]:
    """The scales that the user names, in the order given, described by one forward pass that leaves no trace.

    Args:
        model: The network, see ``find_scales``.
        layers: Dotted paths of modules, or the modules themselves, whose outputs are read; ``"layer1:input"`` reads
            what enters ``layer1``. ``""`` is the network itself.
        example_input: Images to run the network on, see ``find_scales``.

    Returns:
        One scale for each name.

    Raises:
        TypeError: If ``layers`` is a single string, and where ``find_scales`` raises it.
        ValueError: If no layer is given, the network has no module of a name, the module is not called or is called on
            different shapes, or its tensor has no grid; or as for ``find_scales``.
        Exception: Whatever the network raises on the example input.

    Example:
        >>> import torch
        >>> network = nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.MaxPool2d(2))
        >>> [scale.grid for scale in named_scales(network, ["0", "2:input", "2"], torch.rand(1, 3, 32, 32))]
        [(30, 30), (30, 30), (15, 15)]
    """
    if isinstance(layers, str):
        raise TypeError(f"Got layers={layers!r}, a string. Allowed is a sequence of names; give [{layers!r}].")
    if isinstance(layers, nn.Module):
        raise TypeError(f"Got layers={type(layers).__name__}(…), a module. Allowed is a sequence; give [module].")
    if not layers:
        raise ValueError("Got no layers. Allowed is the name of at least one; name modules, or use find_scales.")
    images = prepared(model, example_input)
    chosen = [split_layer(model, layer) for layer in layers]
    root = traced(model, images)
    grids = Grids(root, None)
    refs = [named_tensor_ref(root, grids, module, name, side) for module, name, side in chosen]
    # A module may have several names; the user's own is kept.
    return tuple(
        replace(scale_of(ref), module=name)
        for ref, (_, name, _) in zip(settle(model, images, root, refs), chosen, strict=True)
    )


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


def scale_of(ref: TensorRef) -> Scale:
    grid = ref.grid
    others = (grid.prefix_tokens, grid.suffix_tokens, grid.image_size)
    return Scale(ref.call.name, ref.side, grid.size, grid.channels, grid.layout, *others)


def traced(model: nn.Module, images: Tensor) -> Call:
    """The trace of an image and a copy of it, or of the image alone where the network takes one at a time."""
    # An ordinary tensor, as in `prepared`.
    with torch.inference_mode(False), torch.no_grad():
        twice = torch.cat([images, images])
    try:
        return trace(model, twice)
    except (AssertionError, IndexError, RuntimeError, ValueError):  # how shapes are refused
        return trace(model, images)


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
