"""Which parts of a batch may be labels, and labels as tensors."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from lightning_saliency.batches.names import rank, role
from lightning_saliency.batches.tree import Node, is_dense, plain


def groups_of_labels(scopes: Sequence[Sequence[Node]]) -> list[list[Node]]:
    """Parts of a batch that may be labels, as far as their names and places tell; the likeliest group first.

    Args:
        scopes: What is beside the images, in their container, in the one round it, and so on.
    """
    others = ([node for node in scope if _says_nothing(node) and not _within_labels(node)] for scope in scopes)
    return [*_likely(scopes), *others]


def looks_labelled(scopes: Sequence[Sequence[Node]], count: int) -> bool:
    """Whether there is a tensor among the likely parts that has the form of labels of that many images."""
    return any(
        is_vector(node.value, count)
        or (isinstance(node.value, Tensor) and node.value.ndim in (1, 2) and len(node.value) == count)
        for group in _likely(scopes)
        for node in group
    )


def _likely(scopes: Sequence[Sequence[Node]]) -> list[list[Node]]:
    groups: list[list[Node]] = []
    for scope in scopes:
        named = [node for node in scope if role(node.name) == "label"]
        within = [node for node in scope if _says_nothing(node) and _within_labels(node)]
        groups += [sorted(named, key=lambda node: rank(node.name)), [node for node in scope if not node.name], within]
    return groups


def _says_nothing(node: Node) -> bool:
    return bool(node.name) and role(node.name) is None


def _within_labels(node: Node) -> bool:
    return any(isinstance(part, str) and role(part) == "label" for part in node.inside)


def is_vector(value: Any, count: int) -> bool:
    """Whether this is a whole number (or yes and no) for each image."""
    return as_vector(value, count) is not None


def as_vector(value: Any, count: int) -> Tensor | None:
    """Whole numbers ``[B]`` or ``[B, 1]``, or a list or array of them, as ``[B]`` int64; ``None`` for others.

    Example:
        >>> as_vector([3, 1], 2), as_vector(torch.tensor([[3], [1]]), 2), as_vector([0.5, 1.0], 2)
        (tensor([3, 1]), tensor([3, 1]), None)
    """
    if isinstance(value, (list, tuple)) and len(value) == count and all(map(_is_whole, value)):
        return torch.tensor([int(item) for item in value])
    if isinstance(value, np.ndarray) and value.dtype.kind in "iub":
        value = torch.from_numpy(value.astype(np.int64))
    if not isinstance(value, Tensor) or value.is_floating_point() or value.is_complex() or not is_dense(value):
        return None
    if value.shape not in ((count,), (count, 1)) or (value.ndim == 2 and value.dtype == torch.bool):
        return None
    return plain(value).reshape(count).long() if value.ndim == 2 else plain(value).long()


def vectors(nodes: Sequence[Node], count: int) -> list[Tensor]:
    """Those of some parts of a batch that hold a whole number for each image."""
    found = (as_vector(node.value, count) for node in nodes)
    return [vector for vector in found if vector is not None]


def _is_whole(item: Any) -> bool:
    if isinstance(item, Tensor):
        return item.ndim == 0 and not item.is_floating_point() and not item.is_complex()
    return isinstance(item, (int, np.integer, np.bool_))


def tensor_of(value: Any, count: int) -> Tensor | None:
    """A part of a batch that may be the labels of so many images as a plain tensor ``[B, …]``; ``None`` for others."""
    vector = None if isinstance(value, Tensor) else as_vector(value, count)
    if vector is not None:
        return vector
    if not isinstance(value, Tensor) or not is_dense(value) or value.ndim == 0:
        return None
    return plain(value) if len(value) == count else None
