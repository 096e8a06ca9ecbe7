"""The files of a `SaliencyStore`: their names, their allocation, and writing exact ranges of their bytes."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from lightning_saliency.files import write_atomically

Piece = tuple[int, Any]


def maps_path(path: str | Path) -> Path:
    """The file of the maps."""
    path = Path(path)
    return path if path.suffix == ".npy" else path.with_name(path.name + ".npy")


def sidecar_path(path: Path) -> Path:
    """The file that says what the maps are."""
    return path.with_suffix(".json")


def marks_path(path: Path) -> Path:
    """The file with one byte per map."""
    return path.with_suffix(".written")


def write_pieces(path: Path, pieces: Iterable[Piece]) -> None:
    """Write ranges of a file's bytes and wait until they are on the disk.

    A memory map would write back whole pages, and on a network file system with them what others wrote there meanwhile.

    Args:
        path: An existing file.
        pieces: Position of each range in the file, and its bytes.
    """
    with path.open("r+b", buffering=0) as file:
        for start, content in pieces:
            file.seek(start)
            left = memoryview(content).cast("B")
            while left:
                left = left[file.write(left) :]
        getattr(os, "fdatasync", os.fsync)(file.fileno())


def write_json(path: Path, content: Mapping[str, Any]) -> None:
    """Write a JSON file in one step."""
    write_atomically(path, json.dumps(content, indent=2) + "\n")


def allocate_maps(path: Path, shape: tuple[int, ...]) -> None:
    """Make an ``.npy`` file of zeros, uint8."""
    np.lib.format.open_memmap(path, mode="w+", dtype=np.uint8, shape=shape)
    allocate(path, path.stat().st_size)


def allocate(path: Path, length: int) -> None:
    """Make a file of zeros and reserve its disk space, so that a full disk is noticed before any map is made."""
    with path.open("ab") as file:
        if hasattr(os, "posix_fallocate"):
            os.posix_fallocate(file.fileno(), 0, length)
        else:
            file.truncate(length)
