"""The files of a `SaliencyStore`: their names, making them whole or not at all, writing exact ranges of their bytes."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

Piece = tuple[int, Any]


def maps_path(path: str | Path) -> Path:
    """The file of the maps."""
    path = Path(path)
    return path if path.suffix == ".npy" else path.with_name(path.name + ".npy")


def sidecar_path(path: Path) -> Path:
    """The file that says what the maps are."""
    return path.with_suffix(".json")


def marks_path(path: Path) -> Path:
    """The file of one byte a map."""
    return path.with_suffix(".written")


def write_pieces(path: Path, pieces: Iterable[Piece]) -> None:
    """Write ranges of a file's bytes, and no byte beside them; they are on the disk when this returns.

    A memory map would write back whole pages, and on a network file system with them what others wrote there meanwhile.

    Args:
        path: A file that is there.
        pieces: Where each begins, and its bytes.
    """
    with path.open("r+b", buffering=0) as file:
        for start, content in pieces:
            file.seek(start)
            left = memoryview(content).cast("B")
            while left:
                left = left[file.write(left) :]
        getattr(os, "fdatasync", os.fsync)(file.fileno())


def replace_file(path: Path, write: Callable[[Path], None]) -> None:
    """Make a file such that it is there whole or, whatever happens, as it was before."""
    temporary = path.with_name(f"{path.name}.{os.getpid()}.tmp")
    try:
        write(temporary)
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def write_json(path: Path, content: Mapping[str, Any]) -> None:
    """Write a JSON file through to the disk."""
    with path.open("w", encoding="utf-8") as file:
        json.dump(content, file, indent=2)
        file.write("\n")
        file.flush()
        os.fsync(file.fileno())


def allocate_maps(path: Path, shape: tuple[int, ...]) -> None:
    """An ``.npy`` file of zeros, uint8."""
    np.lib.format.open_memmap(path, mode="w+", dtype=np.uint8, shape=shape)
    allocate(path, path.stat().st_size)


def allocate(path: Path, length: int) -> None:
    """A file of zeros whose place on the disk is taken: that a disk is too small shows before any map is made."""
    with path.open("ab") as file:
        if hasattr(os, "posix_fallocate"):
            os.posix_fallocate(file.fileno(), 0, length)
        else:
            file.truncate(length)
