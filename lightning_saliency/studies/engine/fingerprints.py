"""Hashes of the content of data and files, since names and paths do not show when it changes."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from lightning_saliency.batches import BatchReader

# Bytes at either end of a file that are looked at.
_END = 1 << 20


def images_fingerprint(images: Tensor, labels: Any = None) -> str:
    """A hash of images and labels.

    Each image is represented by the mean of each channel in each of its quarters, to one decimal, since two processors
    need not agree to the last bit.

    Args:
        images: ``[B, C, H, W]``.
        labels: The images' labels: a tensor, or anything with a distinct ``repr``.

    Example:
        >>> import torch
        >>> images = torch.zeros(1, 3, 4, 4)
        >>> images_fingerprint(images) == images_fingerprint(images + 1e-6)
        True
        >>> images_fingerprint(images) == images_fingerprint(images + 1)
        False
    """
    # Adding zero makes one of the two zeros that floating point has.
    means = (10 * F.adaptive_avg_pool2d(images.detach().cpu().double(), 2)).round().add(0.0).flatten(1).tolist()
    listed = labels.tolist() if isinstance(labels, Tensor) else labels
    return hashlib.sha256(f"{list(images.shape)} {means} {listed!r}".encode()).hexdigest()


def exact_fingerprint(images: Tensor, labels: Any = None) -> str:
    """A hash of every bit of images and labels, for images that are not made anew on another processor.

    Args:
        images: Of any shape.
        labels: Anything with a distinct ``repr``.

    Example:
        >>> import torch
        >>> images = torch.zeros(1, 3, 4, 4)
        >>> exact_fingerprint(images) == exact_fingerprint(images + 1e-6)
        False
    """
    values = images.detach().cpu().contiguous()
    digest = hashlib.sha256(f"{values.dtype} {list(values.shape)} {labels!r}".encode())
    digest.update(values.reshape(-1).view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


def batches_fingerprint(batches: Iterable[Any]) -> str:
    """A hash of the images and labels of batches, see `images_fingerprint`."""
    digest = hashlib.sha256()
    for batch in batches:
        content = BatchReader().read(batch)
        digest.update(images_fingerprint(content.images, content.labels()).encode())
    return digest.hexdigest()


def files_fingerprint(value: Any) -> dict[str, str]:
    """A hash of each file that is named inside nested mappings and lists: of its size, beginning and end.

    Args:
        value: Nested mappings and lists, such as the arguments of a class. ``path/file.py:function`` names the file.

    Returns:
        Place of the file's name, such as ``init_args.checkpoint`` -> hash.
    """
    return {name: _file_fingerprint(path) for name, path in _files(value)}


def _files(value: Any, name: str = "") -> Iterator[tuple[str, Path]]:
    if isinstance(value, Mapping):
        for key, inner in value.items():
            yield from _files(inner, f"{name}.{key}" if name else str(key))
    elif isinstance(value, (list, tuple)):
        for place, inner in enumerate(value):
            yield from _files(inner, f"{name}.{place}")
    elif isinstance(value, str) and len(value) < 4096:
        for text in (value, value.rpartition(":")[0]):
            if text and Path(text).is_file():
                yield name, Path(text)
                return


def _file_fingerprint(path: Path) -> str:
    size = path.stat().st_size
    digest = hashlib.sha256(str(size).encode())
    with path.open("rb") as file:
        digest.update(file.read(_END))
        file.seek(max(0, size - _END))
        digest.update(file.read(_END))
    return digest.hexdigest()
