"""Which tensors of a network are its scales.

A scale is what the network knows just before it goes to its next, smaller grid ("just prior to the downsampling", SMOE
Scale paper; "the inputs of the pooling layers", SISE paper).
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor, nn

from lightning_saliency.scales.scale import Scale, share_one_grid
from lightning_saliency.scales.tracing.grids import Grids
from lightning_saliency.scales.tracing.tensor_refs import TensorRef, named_tensor_ref, settle, split_layer
from lightning_saliency.scales.tracing.trace import Call, prepared, trace
from lightning_saliency.scales.tracing.trunk import scale_refs

_log = logging.getLogger(__name__)


class NoScalesError(ValueError):
    """The network has no scales: no layer with weights works on a grid of more than one position."""


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


def scale_of(ref: TensorRef) -> Scale:
    """The scale that a tensor of a trace is."""
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
