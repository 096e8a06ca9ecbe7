"""Reading the scales of a network during a forward pass that happens anyway.

A tap is a hook that reduces a scale's activation to one map at once, keeps only that map, and returns nothing: the
network's output, its graph and its memory are what they were.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from types import TracebackType
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from lightning_saliency.functional.statistics import Statistic, get_statistic
from lightning_saliency.scales.scale import Scale, as_grid, beside_a_text
from lightning_saliency.scales.tracing.hooks import Hook, being_traced
from lightning_saliency.scales.tracing.passes import rows_of
from lightning_saliency.scales.tracing.recording import register_recorder
from lightning_saliency.scales.tracing.trace import tensors_in

#: Modules after which activations count as rectified: what the truncated-normal statistics must be read before.
ACTIVATION_MODULES: tuple[type[nn.Module], ...] = (
    nn.ReLU,
    nn.ReLU6,
    nn.LeakyReLU,
    nn.PReLU,
    nn.RReLU,
    nn.ELU,
    nn.SELU,
    nn.CELU,
    nn.GELU,
    nn.SiLU,
    nn.Mish,
    nn.Hardswish,
    nn.Hardtanh,
    nn.Softplus,
)


class TapError(RuntimeError):
    """A recorded forward pass did not deliver a map for every scale; the message says which and why."""


class NoPassError(TapError):
    """The network was not run while recording was on."""


class ScaleTaps:
    """Taps on the scales of a network: register once, switch on for a forward pass, take the maps.

    Hooks are registered in the constructor, which must come before the network's first call under ``torch.compile``:
    hooks registered later are never run there. While ``recording`` is false a tap costs one test of a bool. While it is
    true, the first forward pass is recorded and later ones are not (gradient checkpointing runs a pass twice): each
    activation is detached, cut to ``max_images``, reduced by the statistic in at least float32, and forgotten.

    Statistics with ``pre_activation=True`` (the truncated-normal ones) are read at the input of the last activation
    module called before the scale's tensor (SMOE paper, Sec. 2.1), so each such module is tapped too and its latest
    call counts.

    An error inside a tap never reaches the network: recording stops and ``take`` raises it.

    Args:
        model: The network whose modules the scales name.
        scales: What to read, as ``find_scales`` or ``named_scales`` return it.
        statistic: A name in ``STATISTICS`` or a ``Statistic``.
        max_images: Read only this many first images of a batch; ``None`` reads all.

    Raises:
        ValueError: If no scale is given, or the network has no module of a scale's name, or the statistic is unknown.

    Example:
        >>> from torch import nn
        >>> network = nn.Sequential(nn.Conv2d(3, 4, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2))
        >>> scale = Scale(module="2", read="input", grid=(8, 8), channels=4, layout="NCHW")
        >>> with ScaleTaps(network, [scale]) as taps:
        ...     taps.start()
        ...     _ = network(torch.rand(2, 3, 8, 8))
        ...     [tuple(map_.shape) for map_ in taps.take()]
        [(2, 8, 8)]
    """

    def __init__(
        self,
        model: nn.Module,
        scales: Sequence[Scale],
        statistic: str | Statistic = "smoe_scale",
        max_images: int | None = None,
    ) -> None:
        if not scales:
            raise ValueError(
                "Got no scales for ScaleTaps. Allowed is at least one; give what find_scales(model, images) finds."
            )
        self.scales = tuple(scales)
        self.statistic = get_statistic(statistic)
        self.max_images = max_images
        self.rows: Sequence[int] | None = None
        self._size: tuple[int, int] | None = None
        self.recording = False
        self._traced = False
        register_recorder(self)
        self._maps: list[Tensor | None] = [None] * len(self.scales)
        self._pre_activation: Tensor | None = None
        self._error: Exception | None = None
        modules = [_module_of(model, scale) for scale in self.scales]
        self._handles: list[RemovableHandle] = []
        if self.statistic.pre_activation:
            self._tap_activations(model)
        for index, (module, scale) in enumerate(zip(modules, self.scales, strict=True)):
            self._tap_scale(module, index, scale)

    def start(
        self,
        max_images: int | None = None,
        rows: Sequence[int] | None = None,
        size: tuple[int, int] | None = None,
    ) -> None:
        """Switch on for the next forward pass, forgetting what was recorded before.

        Args:
            max_images: Replaces the constructor's ``max_images`` from now on, if given.
            rows: Read these rows of the pass; ``None``: the first ``max_images``.
            size: (H, W) of the images, by which a text beside the patches may have another length than the example's.
        """
        if max_images is not None:
            self.max_images = max_images
        self.rows = None if rows is None else list(rows)
        self._size = size
        self._forget()
        # A graph holds the taps that it switches on itself.
        self._traced = being_traced()
        self.recording = True

    def take(self) -> list[Tensor]:
        """Switch off and hand over the maps of the recorded pass.

        Returns:
            One map ``[B, h, w]`` (of volumes ``[B, t, h, w]``) a scale, in the scales' order, float32 (float64 for
            float64 activations), detached.

        Raises:
            NoPassError: If no scale was reached.
            TapError: If one was not, or a tap failed; the original error is its cause.
        """
        self.recording = False
        maps, error = self._maps, self._error
        self._forget()
        if error is not None:
            raise TapError(f"Reading the activations failed: {error}") from error
        missing = [
            scale.module or "(the network itself)"
            for scale, map_ in zip(self.scales, maps, strict=True)
            if map_ is None
        ]
        if missing:
            raise (NoPassError if len(missing) == len(maps) else TapError)(
                f"No forward pass reached {', '.join(missing)} while recording was on. Either the module was not "
                "called, or it had been compiled and called before the taps were registered: register them before the "
                "first compiled call, or call torch.compiler.reset() first."
            )
        return [map_ for map_ in maps if map_ is not None]

    def close(self) -> None:
        """Remove the hooks, and only these. A second call does nothing."""
        self.recording = False
        for handle in self._handles:
            handle.remove()
        self._handles.clear()
        self._forget()

    def __enter__(self) -> ScaleTaps:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def _forget(self) -> None:
        self._maps = [None] * len(self.scales)
        self._pre_activation = None
        self._error = None

    def _on(
        self, register: Callable[..., RemovableHandle], function: Callable[..., object], **options: bool
    ) -> RemovableHandle:
        return Hook.on(register, function, traced=lambda: self._traced, **options)

    def _tap_scale(self, module: nn.Module, index: int, scale: Scale) -> None:
        if scale.read == "input":

            def before(_module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
                if self.recording and self._maps[index] is None:
                    self._guarded(self._record, index, scale, args or kwargs)

            self._handles.append(self._on(module.register_forward_pre_hook, before, with_kwargs=True))
        else:

            def after(_module: nn.Module, _args: tuple[Any, ...], output: object) -> None:
                if self.recording and self._maps[index] is None:
                    self._guarded(self._record, index, scale, output)

            self._handles.append(self._on(module.register_forward_hook, after))

    def _tap_activations(self, model: nn.Module) -> None:
        activations = [module for module in model.modules() if isinstance(module, ACTIVATION_MODULES)]
        if not activations:
            raise ValueError(
                f"{self.statistic.name} is read before the activation function, but the network has no activation "
                "module (a functional call such as F.relu cannot be hooked). Use nn.ReLU() modules, or another "
                "statistic."
            )

        def before(_module: nn.Module, args: tuple[Any, ...]) -> None:
            if self.recording and any(map_ is None for map_ in self._maps):
                self._guarded(self._record_pre_activation, args)

        self._handles.extend(self._on(module.register_forward_pre_hook, before) for module in activations)

    def _guarded(self, record: Callable[..., None], *arguments: object) -> None:
        # Watching must not end a training run. Inside a compiled graph there is nothing to catch at run time, and a
        # try block would only get in the compiler's way.
        if torch.compiler.is_compiling():
            record(*arguments)
            return
        try:
            record(*arguments)
        except Exception as error:  # reported by take()
            self._error = error
            self.recording = False

    def _record(self, index: int, scale: Scale, value: object) -> None:
        activations = next(tensors_in(value), None)
        if activations is None:
            raise TapError(f"Got no tensor as the {scale.read} of {scale.module!r}. Find the scales anew.")
        grid, dim = as_grid(self._read(activations), scale, self._size if beside_a_text(scale) else None)
        if not self.statistic.pre_activation:
            self._maps[index] = self.statistic(grid, dim=dim)
            return
        if self._pre_activation is None:
            raise TapError(
                f"Got no call of an activation module before {scale.module!r}, at whose input {self.statistic.name} is "
                "read. Use another statistic."
            )
        expected = tuple(size for axis, size in enumerate(grid.shape) if axis != dim)
        if self._pre_activation.shape != expected:
            raise TapError(
                f"Got the grid {tuple(self._pre_activation.shape[1:])} at the last activation module before "
                f"{scale.module!r}, for {self.statistic.name}. Allowed is the scale's own {expected[1:]}; use another "
                "statistic for this network."
            )
        self._maps[index] = self._pre_activation

    def _read(self, activations: Tensor) -> Tensor:
        activations = activations.detach()
        return activations[: self.max_images] if self.rows is None else rows_of(activations, self.rows)

    def _record_pre_activation(self, args: tuple[Any, ...]) -> None:
        activations = next(tensors_in(args), None)
        # Squeeze-and-excitation gates work on pooled 1×1 grids: no scale's activation.
        if activations is None or activations.ndim not in (4, 5) or activations.shape[2:].numel() == 1:
            return
        self._pre_activation = self.statistic(self._read(activations), dim=1)


def _module_of(model: nn.Module, scale: Scale) -> nn.Module:
    try:
        return model.get_submodule(scale.module)  # finds modules inside torch.compile's wrapper by their plain names
    except AttributeError:
        raise ValueError(
            f"Got a scale at {scale.module!r}, which the network does not have. Give this network's own scales, as "
            "find_scales(model, images) returns them."
        ) from None
