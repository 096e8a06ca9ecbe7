"""Finding what a run keeps for its page."""

from __future__ import annotations

from pathlib import Path

from lightning_saliency.files import Location, RemotePath, location
from lightning_saliency.pictures.frames import frames_in

#: The folder of a run's frames, inside the monitor's.
RECORDS = "film"
#: A run is looked for so many folders deep: ``runs/digit_scenes/version_0``.
_DEPTH = 3


def find_run(run: str | Path | RemotePath, name: str | None = None) -> Location:
    """The monitor's folder in a run's.

    Args:
        run: A run's folder, or the monitor's in it, or one whose latest run is meant, such as ``runs/digit_scenes``. A
            path or a URL.
        name: The monitor's name, where a run has several.

    Returns:
        The folder that holds ``film/`` with the frames.

    Raises:
        FileNotFoundError: If there is no such folder.
        ValueError: If it has no frames, or several monitors' frames and no name is given.
    """
    place = location(run)
    if not place.is_dir():
        raise FileNotFoundError(f"Got the run {run}, where there is no folder. Give the folder of a run.")
    found, level = _monitors(place), [place]
    for _ in range(_DEPTH):
        if found:
            break
        level = [folder for above in level for folder in _folders(above)]
        found = max((_monitors(folder) for folder in reversed(level)), key=_newest, default=[])
    if name is not None:
        named = [folder for folder in found if folder.name == name]
        if not named:
            raise ValueError(
                f"Got name={name!r}. The films in {run} are {', '.join(folder.name for folder in found) or 'none'}; "
                "give one of them."
            )
        found = named
    if not found:
        raise ValueError(
            f"Got the run {run}, which holds no frames of a film. Allowed are folders of runs with SaliencyMonitor; "
            "give the folder that its logger names, or its saliency/ folder."
        )
    if len(found) > 1:
        raise ValueError(
            f"Got the run {run}, which has {len(found)} films: {', '.join(folder.name for folder in found)}. "
            "Give the name= of one."
        )
    return found[0]


def _monitors(folder: Location) -> list[Location]:
    if frames_in(folder / RECORDS, ".json"):
        return [folder]
    return [child for child in _folders(folder) if frames_in(child / RECORDS, ".json")]


def _folders(folder: Location) -> list[Location]:
    return sorted((path for path in folder.iterdir() if path.is_dir()), key=str)


def _newest(monitors: list[Location]) -> float:
    if not monitors:
        return -1.0
    folder = monitors[0] / RECORDS
    return folder.stat().st_mtime if isinstance(folder, Path) else 0.0
