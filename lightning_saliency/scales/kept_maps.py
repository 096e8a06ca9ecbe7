"""The maps of a pass that goes on: each tensor that may turn out to be a scale is reduced at once, and not kept."""

from __future__ import annotations

import math
import weakref
from collections.abc import Sequence
from dataclasses import dataclass, field, replace

from torch import Tensor, nn

from lightning_saliency.functional.statistics import Statistic
from lightning_saliency.scales.find import scale_of
from lightning_saliency.scales.scale import Scale
from lightning_saliency.scales.taps import TapError
from lightning_saliency.scales.tracing.grids import Grid, Side, layout_by_type
from lightning_saliency.scales.tracing.origins import Shape
from lightning_saliency.scales.tracing.passes import rows_of
from lightning_saliency.scales.tracing.tensor_refs import TensorRef
from lightning_saliency.scales.tracing.trace import Call

# So many of the latest tensors are known again when they enter the next module.
_REMEMBERED = 8


@dataclass
class _Maps:
    """The statistic of one tensor's rows.

    Attributes:
        by_dim: For each dimension that may hold the channels.
        modules: What the tensor came out of and went into.
    """

    by_dim: dict[int, Tensor] = field(default_factory=dict)
    modules: list[nn.Module] = field(default_factory=list)


class KeptMaps:
    """The statistic of the tensors that modules take and give.

    Args:
        statistic: What is kept of each column of activations.
        ndim: The number of dimensions of the images.
    """

    def __init__(self, statistic: Statistic, ndim: int) -> None:
        self.statistic = statistic
        self._ndim = ndim
        self._maps: dict[tuple[int, Side], _Maps] = {}
        self._latest: list[tuple[weakref.ref[Tensor], int, _Maps]] = []
        self._pre_activation: Tensor | None = None

    def note(self, call: Call, side: Side, tensor: Tensor, shape: Shape, rows: Sequence[int]) -> None:
        """Reduce a tensor to its maps, if it may be a scale.

        Args:
            call: The call that the tensor enters or leaves.
            side: Which of the two.
            tensor: The tensor.
            shape: Its shape as it would be for one image.
            rows: The rows whose maps are wanted.
        """
        dims = channel_dims(call.module, shape, self._ndim) if tensor.is_floating_point() else []
        if not dims or not rows:
            return
        maps = self._remembered(tensor)
        maps.modules.append(call.module)
        self._maps[id(call), side] = maps
        for dim in dims:
            if dim in maps.by_dim:
                continue
            if not self.statistic.pre_activation:
                maps.by_dim[dim] = self.statistic(rows_of(tensor.detach(), rows), dim=dim)
            elif self._pre_activation is not None:
                maps.by_dim[dim] = self._pre_activation

    def note_pre_activation(self, tensor: Tensor, shape: Shape, rows: Sequence[int]) -> None:
        """Keep the statistic of what enters an activation module, for the scales behind it; arguments as of `note`."""
        # Squeeze-and-excitation gates work on pooled 1×1 grids: no scale's activation.
        if len(shape) == self._ndim and rows and math.prod(shape[2:]) > 1:
            self._pre_activation = self.statistic(rows_of(tensor.detach(), rows), dim=1)

    def of(self, ref: TensorRef) -> tuple[Scale, Tensor]:
        """The scale that a tensor is, and its maps ``[B, H, W]``.

        Raises:
            TapError: If the tensor has no maps, with the reason.
        """
        maps = self._maps.get((id(ref.call), ref.side))
        if maps is None:
            raise TapError(
                f"The {ref.side} of {ref.call.name!r} holds no tensor of the batch's images. It may belong to another "
                "branch, of text or of a table: name the module that the images alone enter with model=, or layers of "
                "it with layers=."
            )
        grid = _settled(ref, maps)
        scale = scale_of(replace(ref, grid=grid))
        map_ = maps.by_dim.get(2 if grid.layout == "tokens" else grid.layout.index("C"))
        if map_ is None:
            raise TapError(
                f"No activation module was called before {scale.module!r}; {self.statistic.name} is read at its input."
            )
        if grid.layout == "tokens" and not self.statistic.pre_activation:
            map_ = map_[:, grid.prefix_tokens :][:, : math.prod(grid.size)].reshape(map_.shape[0], *grid.size)
        if tuple(map_.shape[1:]) != grid.size:
            raise TapError(
                f"The last activation module before {scale.module!r} works on a grid {tuple(map_.shape[1:])}, not on "
                f"the scale's own {grid.size}; {self.statistic.name} cannot be read for this network."
            )
        return scale, map_

    def _remembered(self, tensor: Tensor) -> _Maps:
        """The maps of this very tensor, unless it was written to in between."""
        # Inference tensors do not count how often they are written to.
        if tensor.is_inference():
            return _Maps()
        for reference, version, maps in reversed(self._latest):
            if reference() is tensor and version == tensor._version:
                return maps
        self._latest = [*self._latest[1 - _REMEMBERED :], (weakref.ref(tensor), tensor._version, _Maps())]
        return self._latest[-1][2]


def channel_dims(module: nn.Module, shape: Shape, ndim: int) -> list[int]:
    """The dimensions that may hold the channels of a tensor on a grid; empty for other tensors.

    Args:
        module: What the tensor came out of or went into.
        shape: Its shape.
        ndim: The number of dimensions of the images, which tensors on a grid have as well.
    """
    if len(shape) == 3:
        return [2] if shape[1] > 1 else []
    if len(shape) != ndim:
        return []
    own = layout_by_type(module)
    positions = {1: math.prod(shape[2:]), ndim - 1: math.prod(shape[1:-1])}
    layouts = {1: "NCHW", ndim - 1: "NHWC"}
    return [dim for dim, layout in layouts.items() if own in (None, layout) and positions[dim] > 1]


def _settled(ref: TensorRef, maps: _Maps) -> Grid:
    """The grid; whether it is NCHW or NHWC is taken from the modules that the same tensor came out of or went into."""
    grid, shape = ref.grid, ref.shape
    layouts = [layout for module in maps.modules if (layout := layout_by_type(module)) is not None]
    if not grid.ambiguous or shape is None or not layouts:
        return grid
    _, a, b, c = shape
    return Grid((b, c), a, "NCHW") if layouts[-1] == "NCHW" else Grid((a, b), c, "NHWC")
