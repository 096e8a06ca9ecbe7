"""Finding a network's scales, and reading them, in the first ordinary forward pass that comes by.

No pass is run for it: hooks write down which module was called where with what shapes, as a probing pass would, and
reduce each tensor that may turn out to be a scale to its map at once. When the pass is over, the rule of `find_scales`
says which of them are the scales; the other maps are forgotten.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from types import TracebackType
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle
from typing_extensions import Self

from lightning_saliency.functional.statistics import Statistic, get_statistic
from lightning_saliency.scales.find import NoScalesError
from lightning_saliency.scales.kept_maps import KeptMaps, channel_dims
from lightning_saliency.scales.scale import Scale
from lightning_saliency.scales.taps import ACTIVATION_MODULES, NoPassError, TapError
from lightning_saliency.scales.tracing.grids import Grids
from lightning_saliency.scales.tracing.hooks import Hook
from lightning_saliency.scales.tracing.origins import Origins, Shape
from lightning_saliency.scales.tracing.passes import (
    BatchImages,
    Entrance,
    PassMaps,
    choose_passes,
    entering_images,
    joined,
)
from lightning_saliency.scales.tracing.recording import register_recorder
from lightning_saliency.scales.tracing.tensor_refs import named_tensor_ref, split_layer
from lightning_saliency.scales.tracing.token_order import TokenOrder
from lightning_saliency.scales.tracing.trace import Call, TensorNumbers, plain_name, shape_of, tensors_in
from lightning_saliency.scales.tracing.trunk import scale_refs


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
        self.layers = None if layers == "auto" else [layers] if isinstance(layers, (str, nn.Module)) else list(layers)
        self.recording = False
        self.images = BatchImages(images)
        self._wanted = None if rows is None else frozenset(rows)
        self._names = {id(module): plain_name(name) for name, module in model.named_modules()}
        self._numbers = TensorNumbers()
        self._origins = Origins()
        self._order = TokenOrder()
        self._stack: list[Call] = []
        self._top: list[Call] = []
        self._entered: dict[int, Entrance] = {}
        self._maps = KeptMaps(get_statistic(statistic), self.images.ndim)
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
            NoPassError: If no module was called at all.
            TapError: If no pass over images came by, or a hook failed; the original error is its cause.
            ValueError: If a layer was named that cannot be read.
        """
        if self._error is not None:
            raise TapError(f"Reading the activations failed: {self._error}") from self._error
        calls = [each for top in self._top for each in self._passes_in(top)]
        if not calls and self._unread is not None:
            raise TapError(f"Reading the activations failed: {self._unread}") from self._unread
        if not calls:
            volumes = self.images.ndim == 5
            wanted = "volumes [B, C, T, H, W]" if volumes else "images [B, C, H, W]"
            raise (TapError if self._top else NoPassError)(
                f"No module of {type(self.model).__name__} was called with {wanted} in this step, so that nothing "
                "could be read. Name the network that the step runs with model=."
                + " Where it takes them apart (into crops, or frames), let the batch hold one image of each, too, and "
                "say where with image_key=." * volumes
            )
        parts: list[tuple[Entrance, list[Tensor]]] = []
        scales: tuple[Scale, ...] = ()
        chosen = choose_passes([self._entered[id(call)] for call in calls], self.images.count)
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
        images = entering_images((args, kwargs), self.images.ndim)
        (self._stack[-1].children if self._stack else self._top).append(call)
        self._stack.append(call)
        tensors = list(tensors_in((args, kwargs)))
        entering = tensors[0] if tensors else None
        if images is not None and self._closed is None:
            try:
                if self._current() is None:
                    self._origins.begin(self.model, images, tensors)
                    self._order = TokenOrder(self.model)
                self._note_entrance(call, images)
            except Exception as error:  # reported by result() where no other pass could be read
                self._unread, self._closed = error, call
        call.inputs, call.entered, call.order = self._shape(entering), self._numbers.of(entering), self._order
        call.order.note(entering, call.inputs)
        call.origin = self._origins.enter(
            self._with_shapes(tensors), None if call.parent is None else call.parent.origin
        )
        with self._or_closed():
            if (wanted := self._wanted_of(entering)) is not None:
                if self._maps.statistic.pre_activation and isinstance(module, ACTIVATION_MODULES):
                    self._maps.note_pre_activation(*wanted)
                # What enters a network is no scale.
                if id(call) not in self._entered:
                    self._maps.note(call, "input", *wanted)

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
                call.order.note(tensors[0] if tensors else None, next(iter(call.outputs), None))
                with self._or_closed():
                    if (wanted := self._wanted_of(tensors[0] if tensors else None)) is not None:
                        self._maps.note(call, "output", *wanted)
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
            self._entered[id(call)] = Entrance.of(call.module, images, self.images)
        elif self.images.size in (tuple(images.shape[1:]), (images.shape[-1], *images.shape[1:-1])):
            entrance = Entrance.of(call.module, images, self.images)
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

    def _wanted_of(self, tensor: Tensor | None) -> tuple[Tensor, Shape, Sequence[int]] | None:
        """A tensor of the pass that is going on, its shape for one image and its wanted rows; None for any other."""
        current, shape = self._current(), self._shape(tensor)
        if current is None or tensor is None or shape is None or shape[0] != 1:
            return None
        return tensor, shape, current.read_rows(self._wanted)

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
            shape[0] == 1 and channel_dims(each.module, shape, self.images.ndim)
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
        found = [self._maps.of(ref) for ref in refs]
        scales = [scale for scale, _ in found]
        if self.layers is not None:
            # A module may have several names; the user's own is kept.
            scales = [replace(scale, module=name) for scale, (_, name, _) in zip(scales, named, strict=True)]
        return tuple(scales), [map_ for _, map_ in found]
