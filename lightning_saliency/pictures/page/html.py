"""The page: frames, photos and values of one run or of two in one HTML file that needs nothing else."""

from __future__ import annotations

import base64
import json
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import date
from functools import lru_cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, Literal

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from lightning_saliency.files import Location, RemotePath, location, write_atomically
from lightning_saliency.functional.visualization import color_table
from lightning_saliency.pictures.frames import Frame, evenly_spaced
from lightning_saliency.pictures.page.find import RECORDS, find_run
from lightning_saliency.pictures.page.records import MAP_SIDE, AlertRecord, FrameRecord
from lightning_saliency.pictures.page.store import FilmRecords

_BYTES_PER_MEGABYTE = 1_000_000
#: What the maps of a page that would be too large are made smaller to, one after the other.
_SIDES = (MAP_SIDE, 48, 40, 32, 28)
_TRIED = 6


def film(
    run: str | Path | RemotePath,
    other: str | Path | RemotePath | None = None,
    output: str | Path | RemotePath | None = None,
    *,
    name: str | None = None,
    max_megabytes: float = 20.0,
) -> Location:
    """Make the page of a run, or of two side by side: one HTML file that needs no network and no server.

    It holds what `SaliencyMonitor` kept of each frame: a slider over the epochs, each image with its maps, label and
    prediction, the values that were logged. It can be made at any time, also while the run goes on.

    Args:
        run: The run's folder, here or on a remote store; of a folder of runs, the latest is taken.
        other: A second run to compare with.
        output: The page; by default ``film.html`` in the monitor's folder of the (first) run, or ``film_of_two.html``.
        name: The monitor's name, where a run has several.
        max_megabytes: The largest page, in 10⁶ bytes. Larger ones get smaller maps, then fewer frames; the first and
            the latest stay.

    Returns:
        The page's file.

    Raises:
        FileNotFoundError: If there is no such folder.
        ValueError: If a run has no frames, has several films and no name is given, or a file of it is damaged.
        OSError: If the page cannot be written.
    """
    folders = [find_run(run, name)] + ([] if other is None else [find_run(other, name)])
    share = max_megabytes / len(folders)
    films = [read_film(folder, share) for folder in folders]
    default = "film.html" if other is None else "film_of_two.html"
    place = folders[0] / default if output is None else location(output)
    return write_atomically(place, page_text(films))


@dataclass(frozen=True)
class PageRun:
    """One run on the page.

    Args:
        name: What it is called.
        frames: Its frames as JSON, by step.
        photos: Name of the file -> ``data:`` URI.
        values: What was logged, see ``FilmRecords.values``.
        left_out: Number of frames that are not among them.
        alerts: The warnings of a shortcut.
        monitor: The monitor's name, with which its values begin.
    """

    name: str
    frames: Sequence[str]
    photos: dict[str, str]
    values: Sequence[dict[str, Any]]
    left_out: int
    alerts: Sequence[AlertRecord] = ()
    monitor: str = "saliency"


def read_film(folder: Location, max_megabytes: float) -> PageRun:
    """The film in a monitor's folder.

    Args:
        folder: See `find_run`.
        max_megabytes: The most that it takes, in 10⁶ bytes.

    Raises:
        ValueError: If a file is damaged.
    """
    store = FilmRecords(folder / RECORDS)
    found = store.frames()
    records = {frame: store.read(frame) for frame in found}
    photos = {name: _uri(name, store.photo(name)) for name in _photos(records.values())}
    frames, texts = _bounded(found, records, photos, max_megabytes * _BYTES_PER_MEGABYTE)
    kept = _photos(records[frame] for frame in frames)
    return PageRun(
        name=_title(folder),
        frames=texts,
        photos={name: photos[name] for name in kept if photos[name]},
        values=store.values(),
        left_out=len(found) - len(frames),
        alerts=store.alerts(),
        monitor=folder.name,
    )


def page_text(films: Sequence[PageRun]) -> str:
    """The HTML of one run's film or two runs' films."""
    # The frames are JSON already.
    runs = [
        "{"
        + f'"name":{json.dumps(one.name)},"monitor":{json.dumps(one.monitor)},"left_out":{one.left_out},'
        + f'"photos":{json.dumps(one.photos)},'
        + f'"values":{json.dumps(one.values)},"frames":[{",".join(one.frames)}]'
        + "}"
        for one in films
    ]
    colors = json.dumps({"heat": _colors("heat"), "hue": _colors("hue"), "safe": _colors("safe")})
    title = " and ".join(one.name for one in films)
    environment = Environment(
        loader=PackageLoader("lightning_saliency.pictures.page"), autoescape=True, undefined=StrictUndefined
    )

    def source(name: str) -> Markup:
        text, _, _ = environment.loader.get_source(environment, name)  # type: ignore[union-attr]  # it was just given
        return Markup(text)

    # "<" would end the element that it stands in.
    data = f'{{"colors":{colors},"runs":[{",".join(runs)}]}}'.replace("<", "\\u003c")
    return environment.get_template("film.html.j2").render(
        title=title,
        style=source("film.css"),
        scripts=[source(name) for name in ("maps.js", "film.js")],
        data=Markup(data),
        version=_version(),
        date=date.today().isoformat(),
        two=len(films) > 1,
        runs=films,
    )


def _version() -> str:
    try:
        return version("lightning-saliency")
    except PackageNotFoundError:  # used from its source, without being installed
        return ""


def _bounded(
    found: list[Frame], records: dict[Frame, FrameRecord], photos: dict[str, str], limit: float
) -> tuple[list[Frame], list[str]]:
    frames = found
    for side in _SIDES:
        # A few frames tell whether all of them can be small enough.
        some = evenly_spaced(frames, _TRIED)
        share = len(frames) / len(some) * sum(len(records[frame].to_json(side)) for frame in some)
        if share + _size([], frames, records, photos) > limit and side != _SIDES[-1]:
            continue
        texts = [records[frame].to_json(side) for frame in frames]
        if _size(texts, frames, records, photos) <= limit:
            return frames, texts
    while len(frames) > 2 and _size(texts, frames, records, photos) > limit:
        by_frame = dict(zip(frames, texts, strict=True))
        frames = evenly_spaced(frames, max(2, len(frames) * 4 // 5))
        texts = [by_frame[frame] for frame in frames]
    return frames, texts


def _size(texts: list[str], frames: list[Frame], records: dict[Frame, FrameRecord], photos: dict[str, str]) -> int:
    return sum(map(len, texts)) + sum(len(photos[name]) for name in _photos(records[frame] for frame in frames))


def _photos(records: Any) -> list[str]:
    return list(dict.fromkeys(image.photo for record in records for image in record.images))


def _uri(name: str, content: bytes) -> str:
    if not content:
        return ""
    kind = "jpeg" if name.endswith(".jpg") else "png"
    return f"data:image/{kind};base64,{base64.b64encode(content).decode()}"


def _title(folder: Location) -> str:
    """The last parts of the folder: ``digit_scenes/version_0``, and the monitor's name if it is one of its own."""
    whole = folder if isinstance(folder, RemotePath) else folder.resolve()
    parts = [part for part in str(whole).replace("\\", "/").split("/") if part]
    shown = parts[-3:-1] if parts[-1] == "saliency" else parts[-3:]
    return "/".join(shown) or str(folder)


@lru_cache
def _colors(name: Literal["heat", "hue", "safe"]) -> str:
    return base64.b64encode(bytes(round(255 * part) for color in color_table(name) for part in color)).decode()
