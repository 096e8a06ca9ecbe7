"""A batch as a tree: dictionaries, sequences and records inside each other, with tensors at the ends."""

from __future__ import annotations

import dataclasses
import types
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import PurePath
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

#: Where something is in a batch: names of keys and fields (str) and positions in sequences (int).
Path = tuple[str | int, ...]

# Nothing that a loader collates is nested deeper; an object that refers to itself would have no end.
_DEPTH = 12
# So many objects belong to no batch: one of them refers to the whole data set.
_MOST_OBJECTS = 100_000
_SCALARS = (bool, int, float, complex, str, bytes, type(None), np.generic)
_CLOSED = (Tensor, nn.Module, np.ndarray, PurePath, torch.Generator, torch.dtype, torch.device, type, types.ModuleType)


class BatchError(ValueError):
    """A batch does not hold the expected tensors; the message describes its content."""


class NoImagesError(BatchError):
    """A batch holds no images at all, as those of a second loader of texts or features."""


@dataclass(frozen=True, eq=False)
class Node:
    """A part of a batch.

    Args:
        path: Where it is.
        value: What it is, a container or anything else. A list of samples, ``[{"image": a}, {"image": b}]``, is told as
            its columns, ``{"image": [a, b]}``.
        depth: Length of the path to the container that it is looked at from.
    """

    path: Path
    value: Any
    depth: int = 0

    @property
    def inside(self) -> Path:
        """The path from that container on."""
        return self.path[self.depth :]

    @property
    def name(self) -> str:
        """The last name on this path, ``""`` where there are positions alone."""
        return next((part for part in reversed(self.inside) if isinstance(part, str)), "")


class _Met:
    """The objects that were met, and how deep: what they hold is looked at once, or again where it is less deep.

    Objects may know each other, as an image and its annotations do; of those that do there are ways without end.
    """

    def __init__(self) -> None:
        self._met: dict[int, tuple[int, Any]] = {}

    def are_new(self, values: Sequence[Any], depth: int) -> bool:
        """Whether no object among these was met as deep, or less deep; other containers are always new.

        Raises:
            BatchError: If there are too many objects.
        """
        objects = [value for value in values if _is_object(value)]
        if any(self._met.get(id(each), (depth + 1,))[0] <= depth for each in objects):
            return False
        self._met.update((id(each), (depth, each)) for each in objects)
        if len(self._met) > _MOST_OBJECTS:
            raise BatchError(
                f"The batch refers to more than {_MOST_OBJECTS} objects. Allowed are batches whose objects hold what "
                "belongs to their images alone; leave out what refers to others, such as the data set."
            )
        return True


def walk(value: Any, path: Path = (), inside: tuple[int, ...] = (), met: _Met | None = None) -> Iterator[Node]:
    """Each part of a batch, containers before what is in them; objects that are met again are not entered again.

    Example:
        >>> [node.path for node in walk({"image": torch.zeros(1), "more": (1, [torch.ones(1)])})]
        [(), ('image',), ('more',), ('more', 0), ('more', 1), ('more', 1, 0)]
    """
    yield Node(path, value)
    met = _Met() if met is None else met
    if id(value) in inside or len(inside) >= _DEPTH or not met.are_new([value], len(inside)):
        return
    for name, item in _children(value, met, len(inside)) or ():
        yield from walk(item, (*path, name), (*inside, id(value)), met)


def children(value: Any) -> list[tuple[str | int, Any]] | None:
    """The parts of a container with their names or positions; ``None`` for what is none.

    Containers are mappings (``UserDict`` and all that have ``keys`` and ``[]``), named tuples, other sequences but of
    plain numbers and texts, and objects with public attributes, such as data classes.
    """
    return _children(value, _Met(), 0)


def _children(value: Any, met: _Met, depth: int) -> list[tuple[str | int, Any]] | None:
    named = fields(value)
    if named is not None:
        return list(named.items())
    if not _is_sequence(value):
        return None
    columns = as_columns(value)
    # Samples that are objects are entered here.
    if columns is None or not met.are_new(value, depth + 1):
        return list(enumerate(value))
    return list(columns.items())


def _is_sequence(value: Any) -> bool:
    """Whether this is a sequence of something else than plain numbers and texts."""
    if not isinstance(value, Sequence) or isinstance(value, (range, *_CLOSED, *_SCALARS)):
        return False
    return not all(isinstance(item, _SCALARS) for item in value)


def _is_mapping(value: Any) -> bool:
    return isinstance(value, Mapping) or (callable(getattr(value, "keys", None)) and hasattr(value, "__getitem__"))


def _is_object(value: Any) -> bool:
    """Whether this is no container but an object, which may have attributes."""
    return not (isinstance(value, (*_CLOSED, *_SCALARS, Sequence)) or _is_mapping(value) or callable(value))


def _everything_in(values: Sequence[Any]) -> Iterator[Any]:
    """Some samples and what is in them, in no order; each once."""
    left, met = [(value, 0) for value in values], dict[int, Any]()
    while left:
        value, depth = left.pop()
        yield value
        if id(value) not in met and depth < _DEPTH:
            met[id(value)] = value
            named = fields(value)
            inner = value if named is None and _is_sequence(value) else (named or {}).values()
            left += [(item, depth + 1) for item in inner]


def fields(value: Any) -> dict[str | int, Any] | None:
    """What a mapping, named tuple or record holds by name; ``None`` for everything else."""
    if isinstance(value, (*_CLOSED, *_SCALARS)):
        return None
    if _is_mapping(value):
        return {str(key): item for key in _keys(value) for item in _got(value, key)}
    names = getattr(value, "_fields", None)
    if isinstance(value, tuple):
        return dict(zip(names, value, strict=False)) if isinstance(names, tuple) else None
    if not _is_object(value):
        return None
    if dataclasses.is_dataclass(value):
        listed = [field.name for field in dataclasses.fields(value)]
    elif hasattr(value, "__attrs_attrs__"):
        listed = [attribute.name for attribute in type(value).__attrs_attrs__]
    else:
        slots = [slot for kind in type(value).__mro__ for slot in _slots(kind)]
        listed = [name for name in (*getattr(value, "__dict__", ()), *slots) if not name.startswith("_")]
    found: dict[str | int, Any] = {name: getattr(value, name) for name in map(str, listed) if hasattr(value, name)}
    return found or None


def _keys(mapping: Any) -> list[Any]:
    try:
        return list(mapping.keys())
    except Exception:  # something else that happens to have `keys`
        return []


def _slots(kind: type) -> Sequence[str]:
    slots = kind.__dict__.get("__slots__", ())
    return (slots,) if isinstance(slots, str) else tuple(slots)


def _got(mapping: Any, key: Any) -> list[Any]:
    try:
        return [mapping[key]]
    except Exception:  # a lazy mapping may have a key and fail to make its value: what is asked for and missing is said
        return []


def as_columns(samples: Sequence[Any]) -> dict[str | int, list[Any]] | None:
    """A list of samples, one an image, as columns; ``None`` where the list is something else.

    Samples are dictionaries or records of which none holds a whole batch of images, or tuples ``(image [C, H, W], …)``.

    Example:
        >>> as_columns([{"label": 3, "boxes": []}, {"label": 1, "area": 0.0}])
        {'label': [3, 1]}
    """
    if not len(samples):
        return None
    named = [fields(sample) for sample in samples]
    if all(sample is not None for sample in named):
        if any(is_batch_of_images(value) or is_batch_of_volumes(value) for value in _everything_in(samples)):
            return None
        rows = [sample for sample in named if sample is not None]
        shared = [name for name in rows[0] if all(name in row for row in rows)]
        return {name: [row[name] for row in rows] for name in shared} or None
    if any(type(sample) not in (tuple, list) or len(sample) != len(samples[0]) for sample in samples):
        return None
    if len(samples[0]) < 2 or any(all(map(is_one_image, sample)) for sample in samples):
        return None
    turned = [list(column) for column in zip(*samples, strict=True)]
    return dict(enumerate(turned)) if any(all(map(is_one_image, column)) for column in turned) else None


def is_batch_of_images(value: Any) -> bool:
    """Whether this may be images ``[B, C, H, W]`` or ``[B, H, W, C]``, floating point or uint8."""
    return _is_pixels(value, 4) and min(value.shape[1:]) > 0


def is_batch_of_volumes(value: Any) -> bool:
    """Whether this may be volumes or clips ``[B, C, T, H, W]`` or ``[B, T, H, W, C]``, floating point or uint8."""
    return _is_pixels(value, 5) and min(value.shape[1:]) > 0


def is_one_image(value: Any) -> bool:
    """Whether this may be an image ``[C, H, W]`` or ``[H, W, C]`` of one, three or four channels."""
    return _is_pixels(value, 3) and min(value.shape) > 0 and bool({value.shape[0], value.shape[2]} & {1, 3, 4})


def _is_pixels(value: Any, dimensions: int) -> bool:
    return (
        isinstance(value, Tensor)
        and is_dense(value)
        and value.ndim == dimensions
        and (value.is_floating_point() or value.dtype == torch.uint8)
    )


def is_dense(value: Tensor) -> bool:
    """Whether a tensor holds all its values in order: sparse and nested ones are no images, labels, masks or boxes.

    Example:
        >>> is_dense(torch.eye(2)), is_dense(torch.eye(2).to_sparse())
        (True, False)
    """
    return not value.is_nested and value.layout == torch.strided


def plain(value: Tensor) -> Tensor:
    """A tensor without the behaviour of its subclass (``tv_tensors``, MONAI's), sharing its memory; others as they are.

    Example:
        >>> from torchvision import tv_tensors
        >>> type(plain(tv_tensors.Image(torch.zeros(3, 2, 2)))).__name__
        'Tensor'
    """
    return value if type(value) in (Tensor, nn.Parameter) else value.as_subclass(Tensor)


def follow(batch: Any, key: str | int) -> tuple[Any, Path]:
    """What is in a batch at a dotted path of keys, positions and attributes, and where that is; ``None`` for nothing.

    Example:
        >>> follow({"a": [1, {"b": 7}]}, "a.-1.b")
        (7, ('a', 1, 'b'))
    """
    value, path = batch, ()  # type: tuple[Any, Path]
    for part in str(key).split("."):
        value, name = _step(value, part)
        path = (*path, name)
    return value, path


def _step(value: Any, part: str) -> tuple[Any, str | int]:
    place = int(part) if part.lstrip("-").isdigit() and part.count("-") < 2 else None
    if place is not None and isinstance(value, Sequence) and not isinstance(value, (str, bytes)):
        inside = -len(value) <= place < len(value)
        return (value[place], place % len(value)) if inside else (None, place)
    parts = dict(children(value) or ())
    for name in (part, place):
        if name is not None and name in parts:
            return parts[name], name
    return getattr(value, part, None), part


def dotted(path: Path) -> str | int:
    """A path as the option that names it."""
    return path[0] if len(path) == 1 else ".".join(map(str, path))


def describe(value: object, depth: int = 0) -> str:
    """A short description of a nested batch, for error messages."""
    if isinstance(value, Tensor):
        shape = "[nested]" if value.is_nested else list(value.shape)
        return f"{type(value).__name__}{shape} {str(value.dtype).removeprefix('torch.')}"
    if depth < 3 and not isinstance(value, _SCALARS):
        named = fields(value)
        if named is not None:
            inner = ", ".join(f"{name!r}: {describe(item, depth + 1)}" for name, item in list(named.items())[:8])
            return f"{'' if isinstance(value, Mapping) else type(value).__name__}{{{inner}}}"
        if isinstance(value, (tuple, list)):
            return f"{type(value).__name__}({', '.join(describe(item, depth + 1) for item in value[:8])})"
    return type(value).__name__
