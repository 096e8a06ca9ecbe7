"""The film of a run: its pictures as PNG files, one folder per view, bounded in size."""

from __future__ import annotations

import warnings
from collections.abc import Iterable
from pathlib import Path

import numpy as np
import numpy.typing as npt
from pytorch_lightning.utilities import rank_zero_info

from lightning_saliency.files import Location, RemotePath, location, safe_names, write_atomically
from lightning_saliency.pictures.frames import (
    Frame,
    every_second,
    file_size,
    frame_name,
    frames_in,
    move_file,
)
from lightning_saliency.pictures.tensors import png_bytes

_BYTES_PER_MEGABYTE = 1_000_000
_MAX_FAILURES = 3


class Film:
    """The pictures of a run as PNG files, one folder per view, bounded in size.

    ``<folder>/<view>/epoch=0003-step=0000150.png``, and ``start-step=0000000.png`` for the start of the run: the
    names hold all information, there is no index file. Each file is written under a temporary name and then renamed, so
    that the folder holds complete pictures only, also during the run. A film on an existing folder goes on where that
    one ended.

    Where the files grow beyond the bound, every view is thinned out to every second frame, its first and its latest
    kept, until they fit. Where frames lie unevenly, those closest together go first: the film always covers the whole
    run, and after many thinnings the early epochs are as densely kept as the late ones (within a factor of two or so).
    Only files with a frame's name are ever counted or deleted.

    Args:
        folder: Where the views' folders go; created with the first picture. A path, or the URL of a remote store that
            fsspec knows, such as ``s3://bucket/run`` (its package must be installed, as for Lightning's checkpoints).
        max_megabytes: The bound on all frames together, in 10⁶ bytes. The first and the latest frame of each view are
            kept even if they alone exceed it; a warning then says so once.
        views: The names of the views to come, as far as they are known: folders that they would share, also where
            capitals do not count, are told apart by a hash.

    Raises:
        ValueError: If ``max_megabytes`` is not positive.

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     film = Film(Path(folder))
        ...     for epoch in (-1, 0, 1):
        ...         path = film.add("lovi", np.zeros((8, 8, 3), np.uint8), epoch=epoch, step=50 * (epoch + 1))
        ...     print(film.views(), [frame.path.name for frame in film.frames("lovi")])
        ['lovi'] ['start-step=0000000.png', 'epoch=0000-step=0000050.png', 'epoch=0001-step=0000100.png']
    """

    def __init__(self, folder: str | Path | RemotePath, max_megabytes: float = 64.0, views: Iterable[str] = ()) -> None:
        if not max_megabytes > 0:
            raise ValueError(
                f"Got max_megabytes={max_megabytes}. Allowed are positive numbers; give the disk space for the film."
            )
        self.folder = location(folder)
        self.max_megabytes = max_megabytes
        self._names = safe_names(views)
        self._sizes: dict[Location, int] = {}
        # Frames in a row that could not be kept.
        self._failed: list[str] = []
        self._said_failed = False
        self._said_thinned = False
        self._said_too_small = False

    def add(self, view: str, picture: npt.NDArray[np.uint8], *, epoch: int, step: int) -> Location | None:
        """Keep a picture; one of the same epoch and step is replaced.

        Args:
            view: Its view's name, such as ``"lovi"``; it may hold anything, see `lightning_saliency.files.safe_names`
                for the name of its folder.
            picture: ``[H, W, 3]`` uint8, RGB.
            epoch: From 0; -1 for the network at the start of the run.
            step: The optimiser steps made so far, from 0.

        Returns:
            The file, or ``None`` where it could not be written (no permission, no space left, no connection): a warning
            says so the first time. It is tried again at each frame; after three frames in a row the film is off.

        Raises:
            ValueError: If an argument is out of its range.
        """
        if picture.dtype != np.uint8 or picture.ndim != 3 or picture.shape[2] != 3 or picture.size == 0:
            raise ValueError(
                f"Got a picture {list(picture.shape)} of {picture.dtype}. Allowed are uint8 [H, W, 3] of at least one "
                "pixel; scale floats in [0, 1] by 255, round, convert to uint8, put the channels last."
            )
        name = frame_name(epoch, step)
        if len(self._failed) == _MAX_FAILURES and name not in self._failed:
            return None
        try:
            path = self._folder(view) / name
            _write(path, picture)
            self._sizes.pop(path, None)
            self._thin_out(path)
        # A remote store's package raises anything; a picture less must not end a training run.
        except Exception as error:
            if name not in self._failed:
                self._failed.append(name)
            if not self._said_failed:
                self._said_failed = True
                warnings.warn(
                    f"The film in {self.folder} could not keep {name} of {view!r} ({type(error).__name__}: {error}). "
                    "Training goes on; pictures in loggers are not affected. Free some space or choose a folder that "
                    f"can be written to. It is tried again until {_MAX_FAILURES} frames in a row could not be kept.",
                    RuntimeWarning,
                    stacklevel=2,
                )
            return None
        self._failed.clear()
        return path

    def frames(self, view: str) -> list[Frame]:
        """The frames of a view, by step; empty where there are none."""
        return frames_in(self._folder(view))

    def views(self) -> list[str]:
        """The names of the folders that hold frames, sorted."""
        if not self.folder.is_dir():
            return []
        return sorted(path.name for path in self.folder.iterdir() if frames_in(path))

    def rewind(self, step: int) -> None:
        """Begin at a step: later frames, of another run or of one that was stopped after its checkpoint, go aside.

        They are kept in ``<folder>/rewound/<view>/`` and belong to the film no more.

        Args:
            step: The optimiser steps made so far.
        """
        for view in self.views():
            for frame in frames_in(self.folder / view):
                if frame.step > step:
                    move_file(frame.path, self.folder / "rewound" / view / frame.path.name)

    def _folder(self, view: str) -> Location:
        if view not in self._names:
            known = set(self._names.values())
            # A folder's own name is a name of its view, too.
            self._names[view] = view if view in known else safe_names([*self._names, view])[view]
        return self.folder / self._names[view]

    def _thin_out(self, newest: Location) -> None:
        limit = self.max_megabytes * _BYTES_PER_MEGABYTE
        films = [self.frames(view) for view in self.views()]
        # A remote store is asked for each file's size once.
        for frames in films:
            for frame in frames:
                if frame.path not in self._sizes:
                    self._sizes[frame.path] = file_size(frame.path)
        sizes = {frame.path: self._sizes[frame.path] for frames in films for frame in frames}
        while sum(sizes.values()) > limit:
            victims = {frame.path for frames in films for frame in every_second(frames, (newest,))}
            if not victims:
                self._say_too_small(sum(sizes.values()), len(films))
                return
            for path in victims:
                path.unlink(missing_ok=True)
                del sizes[path]
            films = [[frame for frame in frames if frame.path not in victims] for frames in films]
            if not self._said_thinned:
                self._said_thinned = True
                rank_zero_info(
                    f"The film in {self.folder} has reached its {self.max_megabytes:g} MB: from now on, every second "
                    "frame goes whenever it is full, the first and the latest stay. A larger max_megabytes keeps more."
                )

    def _say_too_small(self, size: int, views: int) -> None:
        if not self._said_too_small:
            self._said_too_small = True
            warnings.warn(
                f"The film in {self.folder} takes {size / _BYTES_PER_MEGABYTE:.3g} MB with only the first and the "
                f"latest frames of its views ({views} in all), more than max_megabytes={self.max_megabytes:g}: these "
                "are kept nevertheless. Raise max_megabytes, or make fewer or smaller pictures.",
                RuntimeWarning,
                stacklevel=4,
            )


def _write(path: Location, picture: npt.NDArray[np.uint8]) -> None:
    if isinstance(path, Path):
        for leftover in path.parent.glob(f".{path.name}.*.tmp"):  # of this frame, left by a run that was killed
            leftover.unlink(missing_ok=True)
    write_atomically(path, png_bytes(picture))
