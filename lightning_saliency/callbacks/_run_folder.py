"""Where a run keeps its files: its logger's folder, or a numbered one of its own, here or on a remote store."""

from __future__ import annotations

import re
import uuid
from contextlib import suppress
from pathlib import Path
from weakref import WeakKeyDictionary

import pytorch_lightning as pl

from lightning_saliency.files import Location, RemotePath, location

# Marks a root whose first run has begun.
_FIRST = ".saliency_run"
_VERSION = re.compile(r"version_(\d+)")
# All that watches one run shares its folder; a trainer that is gone is forgotten.
_FOLDERS: WeakKeyDictionary[pl.Trainer, Location] = WeakKeyDictionary()
# Where the process was when a run began: a script may go to another folder in mid-run.
_BEGUN_IN: WeakKeyDictionary[pl.Trainer, Path] = WeakKeyDictionary()


def begin_here(trainer: pl.Trainer) -> None:
    """Let relative folders of this run be below the present one from now on; the first call counts."""
    with suppress(OSError):  # the folder was removed
        _BEGUN_IN.setdefault(trainer, Path.cwd())


def run_folder(trainer: pl.Trainer, resumed: str | None = None) -> Location | None:
    """Where this run keeps its files. To be called on global rank zero, when the first file is to be written.

    The folder of the first logger that has one. Without such a logger the trainer's root for the first run in it, and
    ``<root>/version_N`` for later ones, N being the next number from 1: one for each trainer, whether it fits,
    validates or tests. Of a root such as ``s3://bucket/runs`` it is a place there. A relative folder is one below the
    folder in which the run began, see `begin_here`.

    Args:
        trainer: The run.
        resumed: The version of a checkpoint that the run goes on from; its folder is taken.

    Returns:
        The folder; ``None`` for ``fast_dev_run``, which leaves nothing behind.
    """
    if trainer.fast_dev_run:  # type: ignore[attr-defined]  # Lightning sets it without declaring it
        return None
    for logger in trainer.loggers:
        folder = getattr(logger, "log_dir", None)
        if folder is not None:
            return _absolute(trainer, location(folder))
        if logger.save_dir is not None and logger.version is not None:
            version = logger.version if isinstance(logger.version, str) else f"version_{logger.version}"
            place = _absolute(trainer, location(logger.save_dir))
            for part in re.split(r"[\\/]+", f"{logger.name}/{version}"):
                if part not in ("", ".", ".."):
                    place = place / part.replace("\0", "_")
            return place
    if trainer not in _FOLDERS:
        root = _absolute(trainer, location(trainer.default_root_dir))
        if resumed is not None and (match := _VERSION.fullmatch(resumed)):
            _FOLDERS[trainer] = _folder(root, int(match[1]))
        else:
            _FOLDERS[trainer] = _next_folder(root)
    return _FOLDERS[trainer]


def version_of(trainer: pl.Trainer) -> str | None:
    """The name by which a checkpoint finds this run's folder again; ``None`` where a logger's folder is used."""
    folder = _FOLDERS.get(trainer)
    if folder is None:
        return None
    return folder.name if folder != _absolute(trainer, location(trainer.default_root_dir)) else "version_0"


def _absolute(trainer: pl.Trainer, folder: Location) -> Location:
    if isinstance(folder, RemotePath) or folder.is_absolute():
        return folder
    begun = _BEGUN_IN.get(trainer)
    return folder if begun is None else begun / folder


def _folder(root: Location, number: int) -> Location:
    return root / f"version_{number}" if number else root


def _next_folder(root: Location) -> Location:
    """The next folder that no other run has, also where several begin at once."""
    if _claim(root / _FIRST):
        return root
    numbers = [int(match[1]) for path in root.iterdir() if (match := _VERSION.fullmatch(path.name))]
    number = max(numbers, default=0) + 1
    while not _claim(_folder(root, number)):
        number += 1
    return _folder(root, number)


def _claim(folder: Location) -> bool:
    """Make a folder, and say whether it is this run's."""
    if not isinstance(folder, RemotePath):
        try:
            folder.mkdir(parents=True)
        except FileExistsError:
            return False
        return True
    if _marks(folder):
        return False
    # Object stores know no folders, and do not say who was first: of those who come at once the least mark has it.
    mark = folder / f"run-{uuid.uuid4().hex}"
    mark.write_bytes(b"")
    return min(_marks(folder)) == mark.name


def _marks(folder: Location) -> list[str]:
    return [path.name for path in folder.iterdir() if path.name.startswith("run-")] if folder.is_dir() else []
