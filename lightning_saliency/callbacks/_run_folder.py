"""Where a run keeps its files: its logger's folder, or a numbered one of its own, here or on a remote store."""

from __future__ import annotations

import re
import uuid
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from weakref import WeakKeyDictionary

import pytorch_lightning as pl
from pytorch_lightning.utilities import rank_zero_info

from lightning_saliency.files import Location, RemotePath, location

# Marks a root whose first run has begun.
_FIRST = ".saliency_run"
_VERSION = re.compile(r"version_(\d+)")
# Begins the name of the file that tells whose a folder is.
_MARK = ".run-"


@dataclass(frozen=True)
class RunVersion:
    """By what a checkpoint finds its run's folder again.

    Args:
        name: ``"version_N"``, N being 0 for the root itself.
        run: Tells the run from those of the same number in other roots.
    """

    name: str
    run: str


# All that watches one run shares its folder; a trainer that is gone is forgotten.
_FOLDERS: WeakKeyDictionary[pl.Trainer, tuple[Location, RunVersion]] = WeakKeyDictionary()
# Where the process was when a run began: a script may go to another folder in mid-run.
_BEGUN_IN: WeakKeyDictionary[pl.Trainer, Path] = WeakKeyDictionary()


def begin_here(trainer: pl.Trainer) -> None:
    """Let relative folders of this run be below the present one from now on; the first call counts."""
    with suppress(OSError):  # the folder was removed
        _BEGUN_IN.setdefault(trainer, Path.cwd())


def run_folder(trainer: pl.Trainer, resumed: RunVersion | None = None) -> Location | None:
    """Where this run keeps its files. To be called on global rank zero, when the first file is to be written.

    The folder of the first logger that has one. Without such a logger the trainer's root for the first run in it, and
    ``<root>/version_N`` for later ones, N being the next number from 1: one for each trainer, whether it fits,
    validates or tests. Of a root such as ``s3://bucket/runs`` it is a place there. A relative folder is one below the
    folder in which the run began, see `begin_here`.

    Args:
        trainer: The run.
        resumed: That of the checkpoint from which the run goes on; its folder is taken if it is in this root.

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
        number = None if resumed is None else _number_of(root, resumed)
        if resumed is not None and number is not None:
            _FOLDERS[trainer] = _folder(root, number), resumed
        else:
            number, run = _next_folder(root)
            _FOLDERS[trainer] = _folder(root, number), RunVersion(f"version_{number}", run)
            if resumed is not None:
                rank_zero_info(
                    f"The run of the checkpoint has no folder in {root}: its films go on in {_folder(root, number)}."
                )
    return _FOLDERS[trainer][0]


def version_of(trainer: pl.Trainer) -> RunVersion | None:
    """By what a checkpoint finds this run's folder again; ``None`` where a logger's folder is used."""
    return _FOLDERS[trainer][1] if trainer in _FOLDERS else None


def _absolute(trainer: pl.Trainer, folder: Location) -> Location:
    if isinstance(folder, RemotePath) or folder.is_absolute():
        return folder
    begun = _BEGUN_IN.get(trainer)
    return folder if begun is None else begun / folder


def _folder(root: Location, number: int) -> Location:
    return root / f"version_{number}" if number else root


def _claimed(root: Location, number: int) -> Location:
    """The folder that was made when a run began, and holds its mark."""
    return _folder(root, number) if number else root / _FIRST


def _number_of(root: Location, resumed: RunVersion) -> int | None:
    """The number of a run's folder in a root; ``None`` where it has none there."""
    match = _VERSION.fullmatch(resumed.name)
    if match is None or _MARK + resumed.run not in _marks(_claimed(root, int(match[1]))):
        return None
    return int(match[1])


def _next_folder(root: Location) -> tuple[int, str]:
    """The number of the next folder that no other run has, also where several begin at once, and the run's mark."""
    run = _claim(_claimed(root, 0))
    if run is not None:
        return 0, run
    numbers = [int(match[1]) for path in root.iterdir() if (match := _VERSION.fullmatch(path.name))]
    number = max(numbers, default=0) + 1
    while (run := _claim(_claimed(root, number))) is None:
        number += 1
    return number, run


def _claim(folder: Location) -> str | None:
    """Make a folder, and say what marks it as this run's; ``None`` where it is another's."""
    run = uuid.uuid4().hex
    if not isinstance(folder, RemotePath):
        try:
            folder.mkdir(parents=True)
        except FileExistsError:
            return None
    elif _marks(folder):
        return None
    (folder / f"{_MARK}{run}").write_bytes(b"")
    # Object stores know no folders, and do not say who was first: of those who come at once the least mark has it.
    return run if min(_marks(folder)) == f"{_MARK}{run}" else None


def _marks(folder: Location) -> list[str]:
    return [path.name for path in folder.iterdir() if path.name.startswith(_MARK)] if folder.is_dir() else []
