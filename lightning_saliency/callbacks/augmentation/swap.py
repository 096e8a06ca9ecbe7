"""Other pixels and labels in a batch for the length of one step."""

from __future__ import annotations

from collections.abc import Callable, MutableMapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor

from lightning_saliency.batches import follow
from lightning_saliency.batches.tree import Node, Path, dotted, plain
from lightning_saliency.callbacks.augmentation.batch import cannot_replace


class Swap:
    """Gives the batch other pixels, and other labels, for a while.

    Several swaps may lie over one another and go back in any order, as callbacks end in that in which they began.

    The tensors themselves, wherever in the batch they lie, are pointed at other memory, and later back. Neither the
    batch's structure matters (a tuple cannot be assigned to) nor who else holds the memory: a data set that hands out
    its own tensors, a view of all its images perhaps, keeps its pixels. Writing into the tensors would damage them.

    Example:
        >>> data = torch.zeros(4, 1, 1, 1)
        >>> batch, swap = (data[:2],), Swap()
        >>> swap.put([batch[0]], torch.ones(2, 1, 1, 1))
        >>> batch[0].sum().item(), data.sum().item()
        (2.0, 0.0)
        >>> swap.restore()
        >>> batch[0].sum().item()
        0.0
    """

    def __init__(self) -> None:
        self._undo: list[Callable[[], None]] = []

    def put(self, held: Sequence[Tensor], pixels: Tensor) -> None:
        """Show other pixels ``[B, C, H, W]`` of the same type and device in the place of the images.

        Args:
            held: The batch's tensors, one of all images or one an image, see ``BatchContent.held``.
            pixels: What they show.
        """
        self.restore()
        shown = [pixels] if held[0].ndim == pixels.ndim else list(pixels)
        for tensor, other in zip(held, shown, strict=True):
            self._point(tensor, other)

    def append(self, held: Tensor, pixels: Tensor, beside: Sequence[Node], rows: Tensor) -> None:
        """Show other pixels after the images, and what belongs to these images after what belongs to the others.

        Args:
            held: The batch's tensor of images, ``[B, C, H, W]``.
            pixels: ``[n, C, H, W]``.
            beside: The parts of the batch that hold something for each image, see ``BatchContent.rows``.
            rows: ``[n]`` int64, on the CPU: which of the images the pixels were made of.
        """
        self.restore()
        self._point(held, torch.cat([plain(held), pixels]))
        for node in beside:
            part = node.value
            if isinstance(part, Tensor):
                self._point(part, torch.cat([plain(part), plain(part)[rows.to(part.device)]]))
            else:
                longer = [*part, *(part[row] for row in rows.tolist())]
                self._lay(part, slice(None), list(part), longer, part.__setitem__)

    def label(self, batch: Any, path: Path, labels: Tensor) -> None:
        """Put other labels in the place of those at a path, until `restore`.

        Args:
            batch: The batch.
            path: Where its labels are.
            labels: As many, of the same type or as probabilities ``[B, N]`` or ``[B]``.

        Raises:
            BatchError: If the labels cannot be replaced there.
        """
        own = follow(batch, dotted(path))[0]
        if isinstance(own, Tensor) and own.dtype == labels.dtype:
            self._point(own, labels)
            return
        container = follow(batch, dotted(path[:-1]))[0] if len(path) > 1 else batch
        keys: Sequence[Any] = []
        if isinstance(container, (list, MutableMapping)):
            listed = range(len(container)) if isinstance(container, list) else list(container)
            keys = [key for key in listed if str(key) == str(path[-1])]
        if not keys:
            raise cannot_replace(container, own, labels)
        self._lay(container, keys[0], own, labels, container.__setitem__)

    def restore(self) -> None:
        """Show the images' own pixels and labels again; does nothing where they are shown."""
        while self._undo:
            self._undo.pop()()

    def _point(self, tensor: Tensor, other: Tensor) -> None:
        # Past what a subclass of tensors (tv_tensors, MONAI's) makes of it.
        with torch._C.DisableTorchFunctionSubclass():
            before = tensor.detach()
        self._lay(tensor, None, before, other, partial(_point_to, tensor))

    def _lay(self, holder: Any, place: Any, before: Any, value: Any, put: Callable[[Any, Any], None]) -> None:
        """Put a value at a place of a holder, over what others have put there; to be taken off by `restore`."""
        layer = _Layer(holder, before)
        _LAYERS.setdefault((id(holder), str(place)), []).append(layer)
        self._undo.append(partial(_take_off, layer, place, put))
        put(place, value)


def _point_to(tensor: Tensor, place: None, other: Tensor) -> None:
    with torch._C.DisableTorchFunctionSubclass():
        tensor.data = other


@dataclass(eq=False)
class _Layer:
    """What a swap has put somewhere: in which object, and what was there before."""

    holder: Any
    before: Any


#: The layers over each place of each object, the lowest first. They hold the object, so that its id stays its own.
_LAYERS: dict[tuple[int, str], list[_Layer]] = {}


def _take_off(layer: _Layer, place: Any, put: Callable[[Any, Any], None]) -> None:
    """Show what was there before; where another layer lies above, it will be what that one goes back to."""
    key = (id(layer.holder), str(place))
    layers = _LAYERS[key]
    at = layers.index(layer)
    if at + 1 < len(layers):
        layers[at + 1].before = layer.before
    else:
        put(place, layer.before)
    del layers[at]
    if not layers:
        del _LAYERS[key]
