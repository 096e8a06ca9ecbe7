"""Reading the scales of a network in passes that happen anyway, from the very first one on."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from lightning_saliency.functional.statistics import Statistic, get_statistic
from lightning_saliency.scales.find import find_scales, named_scales
from lightning_saliency.scales.first_pass import FirstPass
from lightning_saliency.scales.scale import Scale
from lightning_saliency.scales.taps import NoPassError, ScaleTaps, TapError
from lightning_saliency.scales.tracing.hooks import Hook
from lightning_saliency.scales.tracing.passes import (
    BatchImages,
    Entrance,
    PassMaps,
    choose_passes,
    entering_images,
    joined,
    rows_of,
)

__all__ = [
    "BatchImages",
    "CompiledReader",
    "Layers",
    "NoPassError",
    "PassMaps",
    "ScaleReader",
    "entering_images",
    "rows_of",
]

#: ``"auto"``, or the modules whose outputs are scales: themselves, or by their dotted paths.
Layers = str | nn.Module | Sequence[str | nn.Module]


class ScaleReader:
    """Reads the maps of a batch's images while somebody else runs the network on them.

    The first batch finds the scales (see `FirstPass`), and yields maps already; later ones read just these. Only
    between `start` and `take` does the network carry hooks: what is saved, copied or scripted in between carries none.
    A module that was replaced by another under the same name is found again.

    Of several passes in one step, the maps are those of the pass whose input is the batch's own images, see
    `choose_passes`; images that go through in chunks are put together again.

    Args:
        model: The network, or a module that holds it.
        statistic: A name in ``STATISTICS`` or a ``Statistic``.
        layers: ``"auto"``, or the modules whose outputs are the scales, by name or themselves, see `named_scales`.

    Attributes:
        scales: The scales; ``None`` until they are found.
        written: Whether a step has written to its batch's own tensor before the network took it.

    Example:
        >>> import torch
        >>> network = nn.Sequential(nn.Conv2d(3, 4, 3, padding=1), nn.MaxPool2d(2), nn.Conv2d(4, 8, 3), nn.Flatten())
        >>> reader, images = ScaleReader(network), torch.rand(2, 3, 8, 8)
        >>> for _ in range(2):
        ...     reader.start(images)
        ...     _ = network(images.flip(-1)), network(images)
        ...     found = reader.take()
        >>> found.images, [tuple(map_.shape) for map_ in found.maps]
        ((0, 1), [(2, 8, 8), (2, 2, 2)])
    """

    def __init__(
        self,
        model: nn.Module,
        statistic: str | Statistic = "smoe_scale",
        layers: Layers = "auto",
    ) -> None:
        self.model = model
        self.statistic = get_statistic(statistic)
        self.layers = layers
        self.scales: tuple[Scale, ...] | None = None
        self.written = False
        self._entrance = ""
        self._first: FirstPass | None = None
        self._later: _LaterPass | None = None

    @property
    def entrance(self) -> nn.Module | None:
        """The module, the network itself or one inside it, that the images enter; ``None`` until it is known."""
        return None if self.scales is None else self.model.get_submodule(self._entrance)

    def start(self, images: Tensor, rows: Sequence[int] | None = None, *, defer: bool = False) -> None:
        """Watch the passes to come.

        Args:
            images: ``[B, C, H, W]``, or volumes ``[B, C, T, H, W]``: the batch's images, by which the pass over them is
                recognised.
            rows: Read the maps of these rows of the batch only; ``None``: of all.
            defer: Do not wait for a GPU to learn whether the step wrote to the images; ``PassMaps.own`` tells later.
        """
        self.close()
        if self.scales is None:
            self._first = FirstPass(self.model, images, self.statistic, rows, self.layers)
            self._first.__enter__()
        else:
            known = BatchImages(images, defer)
            self._later = _LaterPass(self.model, self.scales, self._entrance, self.statistic, known, rows)

    def take(self) -> PassMaps:
        """Take off the hooks, and hand over the maps.

        Raises:
            NoScalesError: If the network has no scales.
            NoPassError: If the network was not run.
            TapError: If the images passed through no module of the network, or an activation could not be read.
            ValueError: If a layer was named that cannot be read.
        """
        first, later = self._first, self._later
        self.close()
        if first is not None:
            self.scales, self._entrance, found = first.result()
            self.written |= first.images.written
            return found
        if later is None:
            raise TapError("take() was called without start(): call start(images) before the step that is to be read.")
        self.written |= later.images.written
        return later.result()

    def close(self) -> None:
        """Take off the hooks. A second call does nothing."""
        if self._first is not None:
            self._first.__exit__(None, None, None)
        if self._later is not None:
            self._later.close()
        self._first = self._later = None


class CompiledReader:
    """Reads the maps of a compiled network.

    Hooks are part of what is compiled. So they are registered for good before the first compiled pass, and the scales
    are found by a probing pass of one image that leaves no trace, see `find_scales`. Of several passes in one step the
    first is read.

    Args:
        model: The network, compiled but not yet run.
        images: ``[B, C, H, W]``, or volumes ``[B, C, T, H, W]``, as the network takes them.
        statistic: A name in ``STATISTICS`` or a ``Statistic``.
        layers: ``"auto"``, or the modules whose outputs are the scales, see `named_scales`.

    Raises:
        ValueError: If the network has no scales, or a layer was named that cannot be read.
    """

    def __init__(
        self,
        model: nn.Module,
        images: Tensor,
        statistic: str | Statistic = "smoe_scale",
        layers: Layers = "auto",
    ) -> None:
        self.model = model
        if layers == "auto":
            self.scales = find_scales(model, images)
        else:
            self.scales = named_scales(model, [layers] if isinstance(layers, (str, nn.Module)) else layers, images)
        self.written = False
        self._taps = ScaleTaps(model, self.scales, statistic)
        self._rows: list[int] | None = None

    def start(self, images: Tensor, rows: Sequence[int] | None = None, *, defer: bool = False) -> None:
        """Record the next pass: all rows, or these. There is nothing to be deferred."""
        self._rows = None if rows is None else sorted(rows)
        # One length of the batch, one compiled graph.
        self._taps.max_images = None if self._rows is None else max(self._rows, default=0) + 1
        self._taps.start()

    def take(self) -> PassMaps:
        """The maps of the recorded pass.

        Raises:
            NoPassError: If no scale was reached: the network was not run, or it had been compiled and run before.
            TapError: If one was not.
        """
        maps = self._taps.take()
        rows = list(range(maps[0].shape[0])) if self._rows is None else self._rows
        return PassMaps(tuple(rows), [rows_of(map_, rows) for map_ in maps])

    def stop(self) -> None:
        """Record no more until the next ``start``; the hooks stay."""
        self._taps.recording = False

    def close(self) -> None:
        """Take off the hooks. A second call does nothing."""
        self._taps.close()


class _LaterPass:
    """Taps on known scales, begun anew with each pass through the entrance."""

    def __init__(
        self,
        model: nn.Module,
        scales: Sequence[Scale],
        entrance: str,
        statistic: Statistic,
        images: BatchImages,
        rows: Sequence[int] | None,
    ) -> None:
        self.images = images
        self._wanted = None if rows is None else frozenset(rows)
        self._name = type(model).__name__
        module = model.get_submodule(entrance)
        # Behind the taps' own hooks, so that a scale at the entrance itself has been read when the pass is over.
        self._taps = ScaleTaps(model, scales, statistic)
        self._open: Entrance | None = None
        self._passes: list[tuple[Entrance, list[Tensor]]] = []
        self._error: Exception | None = None
        self._entered = False
        self._handles: list[RemovableHandle] = [
            Hook.on(module.register_forward_pre_hook, self._enter, with_kwargs=True),
            Hook.on(module.register_forward_hook, self._leave),
        ]

    def result(self) -> PassMaps:
        if not self._passes:
            if self._error is not None:
                raise TapError(f"Reading the activations failed: {self._error}") from self._error
            raise (TapError if self._entered else NoPassError)(
                f"The images passed through {self._name} in none of this step's passes."
            )
        chosen = choose_passes([entrance for entrance, _ in self._passes], self.images.count)
        return joined([(entrance, self._passes[position][1]) for position, entrance in chosen], self._wanted)

    def close(self) -> None:
        self._taps.close()
        for handle in self._handles:
            handle.remove()

    def _enter(self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        self._entered = True
        # Where the module is entered once more before it is left, as by Lightning's detour of a step through `forward`
        # under DDP, the inner pass is meant.
        try:
            images = entering_images((args, kwargs), self.images.ndim)
            self._open = None if images is None else Entrance.of(module, images, self.images)
            rows = [] if self._open is None else self._open.read_rows(self._wanted)
            if rows and self._open is not None:
                height, width = self._open.size[-2:]
                self._taps.start(rows=rows, size=(height, width))
            else:
                self._open = None
        except Exception as error:  # reported by result()
            self._error, self._open = error, None

    def _leave(self, _module: nn.Module, _args: tuple[Any, ...], _output: object) -> None:
        entrance, self._open = self._open, None
        if entrance is None:
            return
        try:
            self._passes.append((entrance, self._taps.take()))
        except Exception as error:  # reported by result()
            self._error = error
