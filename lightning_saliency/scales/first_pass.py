"""Finding a network's scales, and reading them, in the first ordinary forward pass that comes by.

No pass is run for it: hooks write down which module was called where with what shapes, as a probing pass would, and
reduce each tensor that may turn out to be a scale to its map at once. When the pass is over, the rule of `find_scales`
says which of them are the scales; the other maps are forgotten.
"""

from __future__ import annotations

import math
import weakref
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from types import TracebackType
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle
from typing_extensions import Self

from lightning_saliency.functional.statistics import Statistic, get_statistic
from lightning_saliency.scales._grids import Grid, Grids, Side, layout_by_type
from lightning_saliency.scales._origins import Origins, Shape
from lightning_saliency.scales._passes import (
    BatchImages,
    Entrance,
    PassMaps,
    choose_passes,
    entering_images,
    joined,
    rows_of,
)
from lightning_saliency.scales._recording import register_recorder
from lightning_saliency.scales._tensor_refs import TensorRef, named_tensor_ref, split_layer
from lightning_saliency.scales._trace import Call, TensorNumbers, plain_name, shape_of, tensors_in
from lightning_saliency.scales._trunk import scale_refs
from lightning_saliency.scales.find import NoScalesError, Scale, scale_of
from lightning_saliency.scales.hooks import Hook
from lightning_saliency.scales.taps import ACTIVATION_MODULES, TapError

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


class FirstPass:
    """Watches the passes of one batch through a network, and finds the scales in them.

    A context manager, to be entered before the step and left after it; `result` is asked for afterwards. While it is
    entered every module carries hooks, which return nothing; afterwards none is left. An error inside a hook never
    reaches the network: `result` raises it.

    Args:
        model: The network, in whatever mode it is run.
        images: ``[B, C, H, W]``, or volumes ``[B, C, T, H, W]``: the batch's images, by which the pass over them is
            recognised.
        statistic: A name in ``STATISTICS`` or a ``Statistic``.
        rows: The rows of the batch whose maps are wanted; ``None``: all.
        layers: ``"auto"``, or the modules whose outputs are the scales, by name or themselves, see `named_scales`.

    Example:
        >>> network = nn.Sequential(nn.Conv2d(3, 4, 3, padding=1), nn.MaxPool2d(2), nn.Conv2d(4, 8, 3), nn.Flatten())
        >>> images = torch.rand(2, 3, 8, 8)
        >>> with FirstPass(network, images) as first:
        ...     _ = network(images)
        >>> scales, entrance, found = first.result()
        >>> [(scale.module, scale.read) for scale in scales], [tuple(map_.shape) for map_ in found.maps]
        ([('1', 'input'), ('3', 'input')], [(2, 8, 8), (2, 2, 2)])
    """

    def __init__(
        self,
        model: nn.Module,
        images: Tensor,
        statistic: str | Statistic = "smoe_scale",
        rows: Sequence[int] | None = None,
        layers: str | nn.Module | Sequence[str | nn.Module] = "auto",
    ) -> None:
        self.model = model
        self.statistic = get_statistic(statistic)
        self.layers = None if layers == "auto" else [layers] if isinstance(layers, (str, nn.Module)) else list(layers)
        self.recording = False
        self._images = BatchImages(images)
        self._wanted = None if rows is None else frozenset(rows)
        self._names = {id(module): plain_name(name) for name, module in model.named_modules()}
        self._numbers = TensorNumbers()
        self._origins = Origins()
        self._stack: list[Call] = []
        self._top: list[Call] = []
        self._entered: dict[int, Entrance] = {}
        self._maps: dict[tuple[int, Side], _Maps] = {}
        self._latest: list[tuple[weakref.ref[Tensor], int, _Maps]] = []
        self._pre_activation: Tensor | None = None
        self._error: Exception | None = None
        # What went wrong in a pass, and the call of it that is not over yet.
        self._unread: Exception | None = None
        self._closed: Call | None = None
        self._handles: list[RemovableHandle] = []
        register_recorder(self)

    def __enter__(self) -> Self:
        for module in self.model.modules():
            # Scripted modules take no hooks; they count as functions.
            if not isinstance(module, torch.jit.ScriptModule):
                self._handles.append(Hook.on(module.register_forward_pre_hook, self._before, with_kwargs=True))
                self._handles.append(Hook.on(module.register_forward_hook, self._after))
        self.recording = True
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.recording = False
        for handle in self._handles:
            handle.remove()
        self._handles.clear()

    def result(self) -> tuple[tuple[Scale, ...], str, PassMaps]:
        """The scales, the path of the module that the images entered, and the maps of the pass over them.

        Raises:
            NoScalesError: If the network has no scales, as an MLP.
            TapError: If no pass over images came by, or a hook failed; the original error is its cause.
            ValueError: If a layer was named that cannot be read.
        """
        if self._error is not None:
            raise TapError(f"Reading the activations failed: {self._error}") from self._error
        calls = [each for top in self._top for each in self._passes_in(top)]
        if not calls and self._unread is not None:
            raise TapError(f"Reading the activations failed: {self._unread}") from self._unread
        if not calls:
            volumes = self._images.ndim == 5
            wanted = "volumes [B, C, T, H, W]" if volumes else "images [B, C, H, W]"
            raise TapError(
                f"No module of {type(self.model).__name__} was called with {wanted} in this step, so that nothing "
                "could be read. Name the network that the step runs with model=."
                + " Where it takes them apart (into crops, or frames), let the batch hold one image of each, too, and "
                "say where with image_key=." * volumes
            )
        parts: list[tuple[Entrance, list[Tensor]]] = []
        scales: tuple[Scale, ...] = ()
        chosen = choose_passes([self._entered[id(call)] for call in calls], self._images.count)
        for position, entrance in chosen:
            own, maps = self._read(calls[position], entrance)
            scales = scales or own
            if [(scale.module, scale.read) for scale in own] == [(scale.module, scale.read) for scale in scales]:
                parts.append((entrance, maps))
        return scales, calls[chosen[0][0]].name, joined(parts, self._wanted)

    def _before(self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        if self.recording:
            self._guarded(self._enter_call, module, args, kwargs)

    def _after(self, module: nn.Module, _args: tuple[Any, ...], output: object) -> None:
        if self.recording:
            self._guarded(self._leave_call, module, output)

    def _guarded(self, function: Callable[..., None], *arguments: object) -> None:
        try:
            function(*arguments)
        except Exception as error:  # reported by result()
            self._error = error
            self.recording = False

    def _enter_call(self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        call = Call(self._names[id(module)], module, parent=self._stack[-1] if self._stack else None)
        images = entering_images((args, kwargs), self._images.ndim)
        (self._stack[-1].children if self._stack else self._top).append(call)
        self._stack.append(call)
        tensors = list(tensors_in((args, kwargs)))
        entering = tensors[0] if tensors else None
        if images is not None and self._closed is None:
            try:
                if self._current() is None:
                    self._origins.begin(self.model, images, tensors)
                self._note_entrance(call, images)
            except Exception as error:  # reported by result() where no other pass could be read
                self._unread, self._closed = error, call
        call.inputs, call.entered = self._shape(entering), self._numbers.of(entering)
        call.origin = self._origins.enter(
            self._with_shapes(tensors), None if call.parent is None else call.parent.origin
        )
        with self._or_closed():
            if self.statistic.pre_activation and isinstance(module, ACTIVATION_MODULES):
                self._note_pre_activation(entering)
            # What enters a network is no scale.
            if id(call) not in self._entered:
                self._note(call, "input", entering)

    def _leave_call(self, module: nn.Module, output: object) -> None:
        # A parent that caught a child's error left the child's call on the stack.
        while self._stack:
            call = self._stack[-1]
            if call.module is module:
                tensors = list(tensors_in(output))
                leaving = self._with_shapes(tensors)
                call.outputs = tuple(shape for _, shape in leaving)
                self._origins.leave(call.origin, leaving)
                call.left = self._numbers.of(tensors[0] if tensors else None)
                with self._or_closed():
                    self._note(call, "output", tensors[0] if tensors else None)
            self._stack.pop()
            if call is self._closed:
                self._closed = None
            if call.module is module:
                break

    @contextmanager
    def _or_closed(self) -> Iterator[None]:
        """Inside, an error closes the pass that is going on: nothing is read of it, but of the step's other passes."""
        try:
            yield
        except Exception as error:  # reported by result() where no other pass could be read
            self._unread = error
            self._closed = next(each for each in self._stack if id(each) in self._entered)
            for each in self._stack:
                self._entered.pop(id(each), None)

    def _note_entrance(self, call: Call, images: Tensor) -> None:
        """Note that images entered a call: any do from outside, inside of a pass the batch's own alone."""
        if self._current() is None:
            self._entered[id(call)] = Entrance.of(call.module, images, self._images)
        elif self._images.size in (tuple(images.shape[1:]), (images.shape[-1], *images.shape[1:-1])):
            entrance = Entrance.of(call.module, images, self._images)
            if entrance.rows.exact:
                self._entered[id(call)] = entrance

    def _current(self) -> Entrance | None:
        """The pass that is going on: that of the innermost call that images entered."""
        if self._closed is not None:
            return None
        return next((self._entered[id(call)] for call in reversed(self._stack) if id(call) in self._entered), None)

    def _shape(self, tensor: Tensor | None) -> Shape | None:
        """A tensor's shape as it would be for one image; -1 first where the first dimension is not the batch."""
        current = self._current()
        return None if tensor is None else shape_of(tensor, None if current is None else current.batch)

    def _with_shapes(self, tensors: Sequence[Tensor]) -> list[tuple[Tensor, Shape]]:
        return [(each, shape) for each in tensors if (shape := self._shape(each)) is not None]

    def _note(self, call: Call, side: Side, tensor: Tensor | None) -> None:
        """Reduce a tensor to its maps, if it may be a scale."""
        current, shape = self._current(), self._shape(tensor)
        if current is None or tensor is None or shape is None or shape[0] != 1 or not tensor.is_floating_point():
            return
        dims = _channel_dims(call.module, shape, self._images.ndim)
        rows = current.read_rows(self._wanted)
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

    def _note_pre_activation(self, tensor: Tensor | None) -> None:
        current, shape = self._current(), self._shape(tensor)
        if current is None or tensor is None or shape is None or shape[0] != 1 or len(shape) != self._images.ndim:
            return
        rows = current.read_rows(self._wanted)
        # Squeeze-and-excitation gates work on pooled 1×1 grids: no scale's activation.
        if rows and math.prod(shape[2:]) > 1:
            self._pre_activation = self.statistic(rows_of(tensor.detach(), rows), dim=1)

    def _passes_in(self, call: Call) -> list[Call]:
        """The passes over images that a call consists of: itself, or several inside that do all the work."""
        inner = [found for child in call.children for found in self._passes_in(child)]
        if id(call) not in self._entered:
            return inner
        modules = {id(found.module) for found in inner}
        # A tower that is entered several times: the other images need not be the batch's own.
        towers = [each for each in call.walk() if each is not call and id(each.module) in modules]
        return inner if len(towers) > 1 and not self._works_beside(call, towers) else [call]

    def _works_beside(self, call: Call, towers: Sequence[Call]) -> bool:
        """Whether layers with weights inside a call work on grids beside the towers inside it."""
        inside = {id(each) for tower in towers for each in tower.walk()}
        return any(
            shape[0] == 1 and _channel_dims(each.module, shape, self._images.ndim)
            for each in call.walk()
            if each is not call and id(each) not in inside and each.weighted
            for shape in each.outputs
        )

    def _read(self, call: Call, entrance: Entrance) -> tuple[tuple[Scale, ...], list[Tensor]]:
        """The scales of one pass, and their maps."""
        # Whatever the network is given, for the rule it is images [1, C, H, W].
        call.inputs = (1, *entrance.size)
        if self.layers is None:
            refs = scale_refs(call)
        else:
            grids = Grids(call, None)
            named = [split_layer(self.model, layer) for layer in self.layers]
            refs = [named_tensor_ref(call, grids, module, name, side) for module, name, side in named]
        if not refs and not call.children and call.module is not self.model:
            raise NoScalesError(
                f"No scales found in {type(self.model).__name__}: the images entered {call.name!r}, which is one "
                "layer. Allowed are steps that call the network, or a module that holds its layers; call that, not its "
                "forward nor the layers one by one."
            )
        if not refs and not call.children and next(call.module.children(), None) is not None:
            raise NoScalesError(
                f"No scales found in {type(self.model).__name__}: none of the layers in {call.name or 'it'} was called "
                "by itself. Allowed are networks whose modules run one by one; where it, or its forward, was compiled "
                "and run before, call torch.compiler.reset() before the run, and where it was scripted, give the "
                "network itself."
            )
        if not refs:
            size, of_images = "×".join(map(str, entrance.size[1:])), len(entrance.size) == 3
            kept = "keep the image's two dimensions" if of_images else "take a volume as a whole and keep its sides"
            raise NoScalesError(
                f"No scales found in {type(call.module).__name__} for images of {size}: no layer with weights works on "
                f"a grid of more than one position. Allowed are networks that {kept} for a while; if there is such a "
                "layer, name it with layers=."
            )
        found = [self._map_of(ref) for ref in refs]
        scales = [scale for scale, _ in found]
        if self.layers is not None:
            # A module may have several names; the user's own is kept.
            scales = [replace(scale, module=name) for scale, (_, name, _) in zip(scales, named, strict=True)]
        return tuple(scales), [map_ for _, map_ in found]

    def _map_of(self, ref: TensorRef) -> tuple[Scale, Tensor]:
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
            map_ = map_[:, grid.prefix_tokens :].reshape(map_.shape[0], *grid.size)
        if tuple(map_.shape[1:]) != grid.size:
            raise TapError(
                f"The last activation module before {scale.module!r} works on a grid {tuple(map_.shape[1:])}, not on "
                f"the scale's own {grid.size}; {self.statistic.name} cannot be read for this network."
            )
        return scale, map_


def _channel_dims(module: nn.Module, shape: Shape, ndim: int) -> list[int]:
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
