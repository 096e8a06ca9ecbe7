"""Which tensors of a forward pass come from something else than its images: text, a table, a time step."""

from __future__ import annotations

import math
import weakref
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from enum import IntEnum

from torch import Tensor, nn

Shape = tuple[int, ...]

# The most class and register tokens that image tokens have before them.
_MAX_PREFIX = 16


class Beside(IntEnum):
    """Whether a tensor comes from something beside the images.

    ``PRESUMED`` is what its type or its shape tells alone, where a function between two modules broke the trail.
    """

    NO = 0
    PRESUMED = 1
    CERTAIN = 2


@dataclass
class Origin:
    """What a call got, and gave, of the images and of what is beside them.

    Attributes:
        entered: Of the first tensor that entered.
        left: Of the first tensor that came out.
        wholly: Of all that entered; where no tensor did, of the call that it was made in.
        of_images: Whether a tensor of the images' own shape entered that is not beside them.
        text: The lengths of sequences ``[B, n, …]`` beside the images that entered.
        positions: The numbers of positions of the other tensors that entered.
    """

    entered: Beside = Beside.NO
    left: Beside = Beside.NO
    wholly: Beside = Beside.NO
    of_images: bool = False
    text: set[int] = field(default_factory=set)
    positions: set[int] = field(default_factory=set)


class Origins:
    """Follows what is beside the images through a pass, from call to call.

    Beside the images are the other tensors that the pass was begun with, and those that modules hold, as tokens that a
    wrapper adds; and what calls make of nothing but these. They are known again by their memory, so that views of them
    are, too. Of a tensor that a function made, a sequence of ids ``[B, n]`` and a sequence of vectors as long and as
    wide as one beside the images are presumed to be beside, unless a tensor of the images has as many positions.
    Everything else counts as coming from the images, as do pictures: depth, masks, a second view.
    """

    def __init__(self) -> None:
        self._known: dict[int, tuple[weakref.ref[Tensor], int | None, Beside]] = {}
        self._image: Shape = ()
        self._shapes: set[Shape] = set()
        self._positions: set[int] = set()

    def begin(self, model: nn.Module, images: Tensor, others: Iterable[Tensor] = ()) -> None:
        """Begin a pass.

        Args:
            model: The network, whose modules may hold tensors beside the images.
            images: The images.
            others: The other tensors that the pass was begun with.
        """
        self._image = tuple(images.shape[1:])
        self._positions = {math.prod(self._image), *_positions_of((1, *self._image))}
        self._shapes = set()
        given = [(tensor, True) for tensor in others]
        for tensor, is_given in (*given, *((tensor, False) for tensor in _held(model))):
            if tensor is images or self._is_picture(tensor) or self._look_up(tensor) is not None:
                continue
            self._note(tensor, Beside.CERTAIN)
            # A table of positions has the shape of the images' own tokens.
            if is_given and tensor.shape[:1] == images.shape[:1]:
                self._note_shape((1, *tensor.shape[1:]), Beside.CERTAIN)
        self._note(images, Beside.NO)

    def enter(self, tensors: Sequence[tuple[Tensor, Shape]], parent: Origin | None) -> Origin:
        """What a call gets, of its tensors with their shapes for one image, see `shape_of`.

        Args:
            tensors: The tensors that enter, each with its shape.
            parent: Of the call that it is made in.
        """
        inherited = Beside.NO if parent is None else parent.wholly
        found = [self._of(tensor, shape, inherited) for tensor, shape in tensors]
        origin = Origin(found[0] if found else inherited, wholly=min(found, default=inherited))
        for number, (beside, (tensor, shape)) in enumerate(zip(found, tensors, strict=True)):
            if beside is Beside.NO:
                origin.of_images = origin.of_images or shape == (1, *self._image)
                origin.positions |= _positions_of(shape)
            elif len(shape) == 3 or (number == 0 and _are_ids(tensor, shape)):
                origin.text.add(shape[1])
        return origin

    def leave(self, origin: Origin, tensors: Sequence[tuple[Tensor, Shape]]) -> None:
        """Note what comes out of a call, of the tensors with their shapes."""
        for number, (tensor, shape) in enumerate(tensors):
            beside = origin.wholly
            if beside is Beside.NO and (origin.text or origin.entered is not Beside.NO):
                beside = self._of_both(origin, tensor, shape)
            self._note(tensor, beside)
            self._note_shape(shape, beside)
            if number == 0:
                origin.left = beside

    def _of_both(self, origin: Origin, tensor: Tensor, shape: Shape) -> Beside:
        """Of a tensor made by a call that both entered: text that attends to an image stays text."""
        known = self._look_up(tensor)
        if known is not None:
            return known
        as_text = len(shape) == 3 and shape[1] in origin.text and not origin.of_images
        return Beside.PRESUMED if as_text and not _fits(shape[1], origin.positions) else Beside.NO

    def _of(self, tensor: Tensor, shape: Shape, inherited: Beside) -> Beside:
        known = self._look_up(tensor)
        if known is not None:
            return known
        if inherited is not Beside.NO:
            return inherited
        if _are_ids(tensor, shape):
            return Beside.NO if shape[1] in self._positions else Beside.PRESUMED
        if len(shape) == 3 and shape[0] == 1 and tensor.is_floating_point():
            # With or without a class token before it.
            like = any((1, shape[1] - before, shape[2]) in self._shapes for before in (0, 1))
            return Beside.PRESUMED if like and not _fits(shape[1], self._positions) else Beside.NO
        return Beside.NO

    def _is_picture(self, tensor: Tensor) -> bool:
        """Whether a tensor may show what the images show: depth, a mask, another view, another size of them."""
        if tensor.ndim < 3:
            return False
        height, width = self._image[-2:]
        if tuple(tensor.shape[-2:]) == (height, width):
            return True
        h, w = tensor.shape[-2:]
        return tensor.ndim > len(self._image) and abs(h * width - w * height) < max(height, width)

    def _note(self, tensor: Tensor, beside: Beside) -> None:
        memory = _memory_of(tensor)
        if memory:
            self._known[memory] = weakref.ref(tensor), _version_of(tensor), beside

    def _note_shape(self, shape: Shape, beside: Beside) -> None:
        if shape[:1] != (1,):
            return
        if beside is Beside.NO:
            self._positions |= _positions_of(shape)
        elif len(shape) == 3:
            self._shapes.add(shape)

    def _look_up(self, tensor: Tensor) -> Beside | None:
        """What is known of a tensor, or of the one it is a view of; ``None`` if nothing is."""
        reference, version, beside = self._known.get(_memory_of(tensor), (None, None, Beside.NO))
        if reference is None or reference() is None:
            return None
        # What was written to since may hold something else.
        return beside if beside is Beside.NO or version == _version_of(tensor) else None


def _held(model: nn.Module) -> Iterator[Tensor]:
    """The buffers of modules and the tensors among their attributes, but no weights."""
    for module in model.modules():
        for value in (*module._buffers.values(), *vars(module).values()):
            if isinstance(value, Tensor) and not isinstance(value, nn.Parameter) and value.ndim > 1:
                yield value


def _are_ids(tensor: Tensor, shape: Shape) -> bool:
    """Whether a tensor is a sequence of whole numbers for each image."""
    whole = not (tensor.is_floating_point() or tensor.is_complex()) and tensor.element_size() > 1
    return whole and len(shape) == 2 and shape[0] == 1


def _positions_of(shape: Shape) -> set[int]:
    """The numbers of positions that a tensor may have, whatever its layout."""
    if len(shape) < 3 or shape[0] != 1 or (len(shape) > 3 and math.prod(shape[2:]) == 1):
        return set()
    return {shape[1]} if len(shape) == 3 else {math.prod(shape[2:]), math.prod(shape[1:-1])}


def _fits(count: int, positions: Iterable[int]) -> bool:
    """Whether so many tokens are, up to class and register tokens, so many positions."""
    return any(0 <= count - each <= _MAX_PREFIX for each in positions if each > 1)


def _memory_of(tensor: Tensor) -> int:
    """Where a tensor's memory begins; 0 if it has none of its own."""
    try:
        return tensor.untyped_storage().data_ptr()
    except (NotImplementedError, RuntimeError):  # as inside `torch.func.grad`
        return 0


def _version_of(tensor: Tensor) -> int | None:
    # Tensors of inference mode do not count how often they are written to.
    return None if tensor.is_inference() else tensor._version
