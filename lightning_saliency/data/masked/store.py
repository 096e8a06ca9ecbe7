"""Saliency maps of a whole data set on disk: memory-mapped bytes, a JSON sidecar, and nothing that is unpickled."""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from lightning_saliency.checks import check_no_nan
from lightning_saliency.data.masked.store_files import (
    FORMAT,
    Bytes,
    Piece,
    SaliencyStoreError,
    allocate,
    allocate_maps,
    check_nothing_foreign,
    check_same,
    checksums,
    mapped_maps,
    mapped_marks,
    maps_path,
    marks_path,
    read_sidecar,
    sidecar_path,
    write_json,
    write_pieces,
)
from lightning_saliency.files import replacing

_LEVELS = 256
# Maps that are looked at when a store is opened, evenly spaced; each is looked at when it is read, too.
_LOOKED_AT = 64
# Maps that are read at once when all are looked at.
_CHUNK = 1024


class SaliencyStore:
    """One saliency map for each of N images, as ranks in one byte per pixel.

    Masking by rank (ROAR, KAR) needs the order of a map's pixels only, so a map is kept as `rank_levels`: its pixels'
    ranks in 256 levels, at the maps' own resolution, for example 56² for images of 224².

    A store is three files in one folder: ``name.npy`` with the maps, ``[N, h, w]`` uint8, which NumPy opens too;
    ``name.written`` with one byte a map, its checksum, set once the map has reached the disk; ``name.json`` with the
    shape and the fingerprints. Several processes may write disjoint rows of one store, on several machines too: no byte
    is written but those of the rows. A process that is killed loses no more than the maps it was just writing.

    A store is complete when every map is there. Each map is compared with its checksum when it is read, so that one of
    a file that was lost, cut short, made anew or changed is never handed out.

    Use ``create`` to write and ``open`` to read; indexing reads maps: ``store[3]`` is ``[h, w]``, ``store[[3, 1]]`` is
    ``[2, h, w]``, both uint8 tensors of their own memory. A store can be sent to other processes; it is opened there.

    Attributes:
        path: The file of the maps.
        size: ``(h, w)`` of the maps.
        fingerprints: What the maps depend on, by part, such as ``{"weights": ..., "explainer": ..., "data": ...}``.

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     store = SaliencyStore.create(folder + "/train", count=3, size=(2, 2), fingerprints={"weights": "a1"})
        ...     store.write([0, 2], torch.rand(2, 2, 2))
        ...     print(store.missing(), store.complete)
        ...     store.write([1], torch.tensor([[[0.1, 0.3], [0.3, 0.9]]]))
        ...     print(SaliencyStore.open(folder + "/train", {"weights": "a1"})[1])
        tensor([1]) False
        tensor([[  0,  64],
                [ 64, 192]], dtype=torch.uint8)
    """

    def __init__(self, path: Path, content: Mapping[str, Any], writable: bool) -> None:
        """Use ``create`` or ``open``."""
        self.path = path
        self.size: tuple[int, int] = (int(content["size"][0]), int(content["size"][1]))
        self.fingerprints: dict[str, str] = dict(content["fingerprints"])
        self._count = int(content["count"])
        self._writable = writable
        self._maps: Bytes = mapped_maps(path, (self._count, *self.size))
        self._written: Bytes = mapped_marks(path, self._count)

    @classmethod
    def create(
        cls, path: str | Path, count: int, size: tuple[int, int], fingerprints: Mapping[str, str]
    ) -> SaliencyStore:
        """Create a store to write to, or continue one that was begun for the same maps.

        Where several processes write one store, let one of them create it before the others do.

        Args:
            path: The maps' file; ``.npy`` is added where it is missing. Its folder is made.
            count: N, the number of images, at least 1.
            size: ``(h, w)`` of the maps in pixels.
            fingerprints: What the maps depend on, by part.

        Raises:
            SaliencyStoreError: If the path holds other maps, or files that are not a store.
            OSError: If the disk is too small.
            ValueError: If the count or the size is not positive.

        Warns:
            RuntimeWarning: If a store is continued of which a file was lost or changed: those maps are missing then.
        """
        path = maps_path(path)
        if count < 1 or len(size) != 2 or min(size) < 1:
            raise ValueError(
                f"Got count={count} and size={tuple(size)}. Allowed are numbers from 1; give N and (h, w)."
            )
        wanted = {"format": FORMAT, "count": count, "size": list(size), "fingerprints": dict(fingerprints)}
        there = [file for file in (path, marks_path(path)) if file.exists()]
        if sidecar_path(path).exists():
            check_same(path, read_sidecar(path), wanted)
        else:
            if there:
                raise SaliencyStoreError(
                    f"Got {there[0]}, which has no {sidecar_path(path).name} and so is no store. Move it away, or "
                    "choose another path."
                )
            path.parent.mkdir(parents=True, exist_ok=True)
            write_json(sidecar_path(path), wanted)
        # The sidecar is written first, so that files left by a killed run are recognised as part of this store.
        if len(there) < 2:
            check_nothing_foreign(path, (count, *size), there)
            # The marks first: none may say that a map is there which is not yet.
            with replacing(marks_path(path)) as file:
                allocate(file, count)
            with replacing(path) as file:
                allocate_maps(file, (count, *size))
        store = cls(path, wanted, writable=True)
        if len(store._damaged(_evenly(count))):
            store._forget_damaged()
        return store

    @classmethod
    def open(cls, path: str | Path, fingerprints: Mapping[str, str] | None = None) -> SaliencyStore:
        """A finished store, for reading.

        Args:
            path: The maps' file, with or without ``.npy``.
            fingerprints: Parts that must be the same as when the maps were written; parts not named here are not
                compared.

        Raises:
            SaliencyStoreError: If there is no such store, or it is incomplete, damaged or of other maps.
        """
        path = maps_path(path)
        content = read_sidecar(path)
        found = content["fingerprints"]
        changed = [part for part, value in (fingerprints or {}).items() if found.get(part) != value]
        if changed:
            raise SaliencyStoreError(
                f"The store {path} holds maps of other {', '.join(changed)} than are asked for. Give the store that "
                "was written for them, or write a new one."
            )
        store = cls(path, content, writable=False)
        missing = len(store.missing())
        if missing:
            raise SaliencyStoreError(
                f"The store {path} is incomplete: {missing} of its {len(store)} maps are missing. Run what writes it "
                "again; it goes on where it stopped."
            )
        store._check(_evenly(len(store)))
        return store

    def __len__(self) -> int:
        return self._count

    def __getitem__(self, indices: int | slice | Sequence[int] | Tensor) -> Tensor:
        """The maps at some rows, ``[..., h, w]`` uint8."""
        where = indices.cpu().numpy() if isinstance(indices, Tensor) else indices
        if isinstance(where, (list, tuple, range)):
            where = np.asarray(where, dtype=np.int64)
        found = np.array(self._maps[where])
        marks = np.array(self._written[where]).reshape(-1)
        wrong = (marks != 0) & (checksums(found.reshape(-1, *self.size)) != marks)
        if wrong.any():
            rows = np.atleast_1d(np.arange(self._count)[where]).reshape(-1)[wrong]
            raise self._error_of(rows)
        return torch.from_numpy(found)

    def __reduce__(self) -> tuple[Any, ...]:
        if not self._writable:
            return SaliencyStore.open, (self.path, self.fingerprints)
        return SaliencyStore.create, (self.path, self._count, self.size, self.fingerprints)

    def write(self, indices: Sequence[int] | Tensor, maps: Tensor) -> None:
        """Keep the maps of some images, as `rank_levels`; they are on the disk when this returns.

        Args:
            indices: B rows, each from 0 to N - 1.
            maps: ``[B, h, w]``, any real dtype and range, no NaN.

        Raises:
            SaliencyStoreError: If the store was opened for reading.
            ValueError: If shapes do not fit, an index is out of range, or a map holds NaN.
        """
        if not self._writable:
            raise SaliencyStoreError(
                f"The store {self.path} was opened for reading. Use SaliencyStore.create to write."
            )
        rows = torch.as_tensor(indices, dtype=torch.int64).cpu().reshape(-1)
        if maps.shape != (len(rows), *self.size):
            raise ValueError(
                f"Got maps {list(maps.shape)} for {len(rows)} rows of {self.path}. Allowed is "
                f"{[len(rows), *self.size]}; resize the maps first."
            )
        if len(rows) == 0:
            return
        if int(rows.min()) < 0 or int(rows.max()) >= self._count:
            raise ValueError(
                f"Got rows from {int(rows.min())} to {int(rows.max())}. Allowed are 0 to {self._count - 1} in "
                f"{self.path}; give the images' positions in their data set."
            )
        pixels = self.size[0] * self.size[1]
        levels = rank_levels(maps).cpu().contiguous()
        marks = checksums(levels.numpy())
        # A map that is written anew is missing until it is there.
        changed = self._written[rows.numpy()] != 0
        changed &= self._written[rows.numpy()] != marks
        if changed.any():
            write_pieces(marks_path(self.path), _pieces(rows[changed], np.zeros(int(changed.sum()), np.uint8), 1, 0))
        write_pieces(self.path, _pieces(rows, levels.view(-1).numpy(), pixels, self._maps.offset))
        write_pieces(marks_path(self.path), _pieces(rows, marks, 1, 0))

    def missing(self) -> Tensor:
        """The rows that have not been written yet, ``[M]`` int64, ascending."""
        return torch.from_numpy(np.flatnonzero(self._written == 0).astype(np.int64))

    def has(self, indices: Sequence[int] | Tensor) -> bool:
        """Whether all of these rows have been written, and are as they were written."""
        rows = torch.as_tensor(indices, dtype=torch.int64).cpu().numpy()
        return bool(self._written[rows].all()) and not len(self._damaged(rows))

    def finish(self) -> bool:
        """Whether every map is there as it was written; all are read, and damaged ones are missing from now on.

        Of a store that was opened for reading the files stay as they are.

        Where processes on several machines write one store, call it once all are done.

        Warns:
            RuntimeWarning: If maps are damaged.
        """
        # Files are opened anew: on a network file system, one that is mapped may be older than what others wrote.
        self._maps = mapped_maps(self.path, (self._count, *self.size))
        self._written = mapped_marks(self.path, self._count)
        return not self._forget_damaged() and self.complete

    @property
    def complete(self) -> bool:
        """Whether every map is there."""
        return bool(np.fromfile(marks_path(self.path), np.uint8).all())

    def _damaged(self, rows: Any) -> Any:
        """Those of some rows whose maps are not what was written."""
        return rows[(self._written[rows] != 0) & (checksums(self._maps[rows]) != self._written[rows])]

    def _check(self, rows: Any) -> None:
        damaged = self._damaged(rows)
        if len(damaged):
            raise self._error_of(damaged)

    def _error_of(self, rows: Any) -> SaliencyStoreError:
        return SaliencyStoreError(
            f"The store {self.path} is damaged: {len(rows)} maps are not as they were written, such as that of row "
            f"{int(rows[0])}. Run what writes it again, which makes those maps anew; or delete it."
        )

    def _forget_damaged(self) -> int:
        """The number of damaged maps, which are missing from now on."""
        chunks = np.array_split(np.arange(self._count), max(1, -(-self._count // _CHUNK)))
        damaged = np.concatenate([self._damaged(chunk) for chunk in chunks])
        if len(damaged) and self._writable:
            warnings.warn(
                f"{len(damaged)} of the {self._count} maps in {self.path} are not as they were written: the file was "
                "lost, cut short or changed. They count as missing.",
                RuntimeWarning,
                stacklevel=3,
            )
            rows = torch.from_numpy(damaged)
            write_pieces(marks_path(self.path), _pieces(rows, np.zeros(len(damaged), np.uint8), 1, 0))
        return len(damaged)


def rank_levels(maps: Tensor) -> Tensor:
    """The rank of each pixel within its map, in 256 levels: ⌊256 · #{pixels with a smaller value} / (h·w)⌋.

    Equal values get equal levels, and a larger value never a lower one; a constant map is all zeros.

    Args:
        maps: ``[..., h, w]``, any real dtype and range, no NaN.

    Returns:
        ``[..., h, w]`` uint8.

    Raises:
        ValueError: If a map holds NaN.

    Example:
        >>> rank_levels(torch.tensor([[0.1, 0.7], [0.1, 9.0]]))
        tensor([[  0, 128],
                [  0, 192]], dtype=torch.uint8)
    """
    check_no_nan(maps)
    values, order = maps.detach().flatten(-2).sort(-1)
    count = values.shape[-1]
    if count == 0 or values.numel() == 0:
        return torch.zeros(maps.shape, dtype=torch.uint8, device=maps.device)
    # In sorted order, the number of lesser values is the place where a run of equals begins.
    places = torch.arange(count, device=maps.device).expand_as(values)
    begins = torch.ones_like(values, dtype=torch.bool)
    begins[..., 1:] = values[..., 1:] != values[..., :-1]
    less = torch.where(begins, places, 0).cummax(-1).values
    levels = (less * _LEVELS).div_(count, rounding_mode="floor").to(torch.uint8)
    return torch.empty_like(levels).scatter_(-1, order, levels).view(maps.shape)


def _pieces(rows: Tensor, content: Any, length: int, offset: int) -> Iterator[Piece]:
    """Position of each row's bytes in a file, with successive rows joined."""
    begins = [0, *(1 + np.flatnonzero(np.diff(rows.numpy()) != 1)).tolist()]
    for begin, end in zip(begins, [*begins[1:], len(rows)], strict=True):
        yield offset + int(rows[begin]) * length, content[begin * length : end * length]


def _evenly(count: int) -> Any:
    """Rows over the whole store."""
    return np.unique(np.linspace(0, count - 1, min(count, _LOOKED_AT)).round().astype(np.int64))
