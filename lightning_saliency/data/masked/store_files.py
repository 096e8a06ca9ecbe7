"""The files of a `SaliencyStore`: their names, their allocation, reading them, and writing exact ranges of bytes."""

from __future__ import annotations

import json
import os
import warnings
import zlib
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from lightning_saliency.files import file_of_this_machine, read_json, write_atomically

#: The format of the files, in the sidecar.
FORMAT = 2

Piece = tuple[int, Any]
Bytes = np.memmap[Any, np.dtype[np.uint8]]


class SaliencyStoreError(ValueError):
    """A store is missing, incomplete, damaged, or holds other maps."""


def maps_path(path: str | Path) -> Path:
    """The file of the maps."""
    path = file_of_this_machine(path, "store")
    return path if path.suffix == ".npy" else path.with_name(path.name + ".npy")


def sidecar_path(path: Path) -> Path:
    """The file that says what the maps are."""
    return path.with_suffix(".json")


def marks_path(path: Path) -> Path:
    """The file with one byte per map."""
    return path.with_suffix(".written")


def checksums(maps: npt.NDArray[np.uint8]) -> npt.NDArray[np.uint8]:
    """A byte from 1 to 255 for each map ``[n, h, w]``, which tells one that was changed in 254 of 255 cases."""
    return np.array([1 + zlib.crc32(map_.tobytes()) % 255 for map_ in maps], np.uint8)


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


def read_sidecar(path: Path) -> dict[str, Any]:
    """What the sidecar of a store says, checked.

    Raises:
        SaliencyStoreError: If it is missing, or no sidecar.
    """
    file = sidecar_path(path)
    if not file.is_file():
        raise SaliencyStoreError(
            f"There is no store {path}: {file.name} is missing. Paths are relative to where you are; "
            "SaliencyWriter writes stores."
        )
    try:
        content = read_json(file, "sidecar of a store", "It is damaged; delete the store and write it anew.")
    except ValueError as error:
        raise SaliencyStoreError(str(error)) from error
    needed = {"format", "count", "size", "fingerprints"}
    if not isinstance(content, dict) or not needed <= content.keys() or content["format"] != FORMAT:
        raise SaliencyStoreError(
            f"{file} is no sidecar of a store, or of another version's. Move it away and write the store anew."
        )
    count, size, parts = content["count"], content["size"], content["fingerprints"]
    numbers = [count, *size] if isinstance(size, list) else []
    if len(numbers) != 3 or any(type(number) is not int or number < 1 for number in numbers):
        raise SaliencyStoreError(
            f"{file} says count={count!r} and size={size!r}. Allowed are a number from 1 and [h, w]; delete the store "
            "and write it anew."
        )
    if not isinstance(parts, dict) or not all(isinstance(value, str) for value in parts.values()):
        raise SaliencyStoreError(
            f"{file} says fingerprints={parts!r}. Allowed is a text for each part; delete the store and write it anew."
        )
    return content


def check_nothing_foreign(path: Path, shape: tuple[int, ...], there: Sequence[Path]) -> None:
    """Of a store that is begun anew because a file of it was lost: refuse what is not its own, and say what is lost."""
    for file in there:
        if file == path:
            mapped_maps(path, shape)
        else:
            mapped_marks(path, shape[0])
    lost = there and (there[0] == path or bool(mapped_marks(path, shape[0]).any()))
    if lost:
        gone = marks_path(path) if there[0] == path else path
        warnings.warn(
            f"{gone} of a store that was begun is lost, and so are the maps written before. All {shape[0]} are missing "
            "now.",
            RuntimeWarning,
            stacklevel=3,
        )


def check_same(path: Path, found: Mapping[str, Any], wanted: Mapping[str, Any]) -> None:
    """Raise if the sidecar of a store says something else than is asked for."""
    old = {"number of images": found["count"], "size of maps": found["size"], **found["fingerprints"]}
    new = {"number of images": wanted["count"], "size of maps": wanted["size"], **wanted["fingerprints"]}
    changed = [part for part in {**old, **new} if old.get(part) != new.get(part)]
    if changed:
        raise SaliencyStoreError(
            f"The store {path} was begun for other {', '.join(changed)} than are asked for now. Go on with what it was "
            "begun for, delete it, or choose another path."
        )


def mapped_maps(path: Path, shape: tuple[int, ...]) -> Bytes:
    """The maps of a store, mapped for reading."""
    try:
        # Mapped for reading: for writing, NumPy would lengthen a truncated file. Pickled arrays are refused.
        maps: Bytes = np.lib.format.open_memmap(path, mode="r")
    # NumPy reads the header as Python: of a damaged one it raises what Python does.
    except Exception as error:
        raise SaliencyStoreError(
            f"The maps {path} are missing, truncated or damaged ({error}). Delete the store and write it anew."
        ) from error
    if maps.shape != shape or maps.dtype != np.uint8:
        raise SaliencyStoreError(
            f"{path} holds {maps.dtype} {list(maps.shape)}, but its sidecar says uint8 {list(shape)}. They do not "
            "belong together; delete the store and write it anew."
        )
    return maps


def mapped_marks(path: Path, count: int) -> Bytes:
    """The marks of a store, mapped for reading."""
    marks = marks_path(path)
    if not marks.is_file() or marks.stat().st_size != count:
        raise SaliencyStoreError(
            f"Got {marks} missing or cut short. Allowed is a file of {count} bytes; delete the store and write it anew."
        )
    return np.memmap(marks, dtype=np.uint8, mode="r", shape=(count,))
