"""What a run keeps for its page: one small file a frame, each photo once, and the values that were logged."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from lightning_saliency.files import Location, RemotePath, location, reading, write_atomically
from lightning_saliency.pictures.frames import Frame, every_second, file_size, frame_name, frames_in, move_file
from lightning_saliency.pictures.page.records import AlertRecord, FrameRecord

_VALUES, _ALERTS = "values.json", "alerts.json"
_MOST_ROWS = 2000
_BYTES_PER_MEGABYTE = 1_000_000
_PHOTO = re.compile(r"photo-[0-9a-f]+\.(png|jpg)")


class FilmRecords:
    """The frames of one run's page, in one folder, bounded in size.

    ``<folder>/epoch=0003-step=0000150.json`` holds a frame, ``photo-….jpg`` a photo, ``values.json`` the values that
    were logged, ``alerts.json`` the warnings of a shortcut. Every file is written whole, here or on a remote store, so
    that a page can be made at any time. Where frames and photos grow beyond the bound, every second frame goes, and the
    photos that no other frame shows; the first and the latest frame stay.

    Args:
        folder: Where they lie; made with the first frame. A path, or the URL of a remote store.
        max_megabytes: The bound on the frames and their photos together, in 10⁶ bytes.
    """

    def __init__(self, folder: str | Path | RemotePath, max_megabytes: float = 64.0) -> None:
        self.folder = location(folder)
        self.max_megabytes = max_megabytes
        # The sizes of the photos that are there; ``None`` before they were looked for.
        self._photos: dict[str, int] | None = None
        self._shown: dict[Location, set[str]] = {}
        self._rows: list[dict[str, Any]] | None = None
        self._sizes: dict[Location, int] = {}

    def add(self, record: FrameRecord, photos: Mapping[str, bytes]) -> Location:
        """Keep a frame; one of the same epoch and step is replaced.

        Args:
            record: The frame.
            photos: Name of the file -> content, of all of its images; one that is there already is not written again.

        Returns:
            The frame's file.

        Raises:
            OSError: If it cannot be written. A remote store's package raises anything.
        """
        known = self._known_photos()
        for name, content in photos.items():
            if name not in known:
                write_atomically(self.folder / name, content)
                known[name] = len(content)
        path = write_atomically(self.folder / frame_name(record.epoch, record.step, ".json"), record.to_json())
        self._sizes.pop(path, None)
        self._shown[path] = {image.photo for image in record.images}
        self._thin_out(path)
        return path

    def log(self, epoch: int, step: int, values: Mapping[str, float], *, validated: bool = True) -> None:
        """Keep values that were logged, those of one step, and those of an epoch and its validation, put together.

        Args:
            epoch: From 0; -1 at the start of the run.
            step: The optimiser steps made so far.
            values: By name; those that are not finite are left out.
            validated: Whether they are new. Otherwise, those that are equal to the latest are taken for old ones.

        Raises:
            OSError: If they cannot be written. A remote store's package raises anything.
        """
        rows = self._known_rows()
        good = {name: float(f"{value:.6g}") for name, value in values.items() if math.isfinite(value)}
        # Lightning counts the last step of an epoch after its validation.
        if rows and rows[-1]["step"] in (step, step - 1 if not validated else step):
            rows[-1]["values"].update(good)
        else:
            if not validated:
                good = {name: value for name, value in good.items() if _latest(rows, name) != value}
            if not good:
                return
            rows.append({"epoch": epoch, "step": step, "values": good})
        if len(rows) > _MOST_ROWS:
            del rows[1:-1:2]
        write_atomically(self.folder / _VALUES, json.dumps(rows, separators=(",", ":")))

    def warn(self, alerts: Sequence[AlertRecord]) -> None:
        """Keep the warnings of a shortcut, in the place of those that were kept.

        Args:
            alerts: All of the run, the oldest first.

        Raises:
            OSError: If they cannot be written. A remote store's package raises anything.
        """
        # Equal ones are not written again: this is called at each frame.
        if list(alerts) != self.alerts():
            text = json.dumps([asdict(alert) for alert in alerts])
            write_atomically(self.folder / _ALERTS, text)

    def alerts(self) -> list[AlertRecord]:
        """The warnings of a shortcut, the oldest first.

        Raises:
            ValueError: If the file is damaged.
        """
        path = self.folder / _ALERTS
        if not path.exists():
            return []
        with reading(path, "file of a film's warnings", "Delete it."):
            return [
                AlertRecord(
                    int(alert["epoch"]),
                    int(alert["step"]),
                    str(alert["text"]),
                    None if alert["cell"] is None else (int(alert["cell"][0]), int(alert["cell"][1])),
                    None if alert["lowered"] is None else int(alert["lowered"]),
                )
                for alert in json.loads(path.read_bytes())
            ]

    def rewind(self, step: int) -> None:
        """Begin at a step: later frames go aside into ``rewound/``, later values are forgotten."""
        for frame in self.frames():
            if frame.step > step:
                move_file(frame.path, self.folder / "rewound" / frame.path.name)
        rows = self._known_rows()
        if any(row["step"] > step for row in rows):
            self._rows = [row for row in rows if row["step"] <= step]
            write_atomically(self.folder / _VALUES, json.dumps(self._rows, separators=(",", ":")))

    def frames(self) -> list[Frame]:
        """The files of the frames, by step."""
        return frames_in(self.folder, ".json")

    def read(self, frame: Frame) -> FrameRecord:
        """One frame.

        Raises:
            ValueError: If the file is damaged, or of another version of this package.
        """
        with reading(frame.path, "frame of a film", "Delete it."):
            return FrameRecord.from_json(frame.path.read_bytes().decode())

    def photo(self, name: str) -> bytes:
        """A photo's file; empty where it is not there."""
        path = self.folder / name
        return path.read_bytes() if path.exists() else b""

    def values(self) -> list[dict[str, Any]]:
        """What was logged: rows with ``epoch``, ``step`` and ``values``, by step.

        Raises:
            ValueError: If the file is damaged.
        """
        return list(self._known_rows())

    def _known_rows(self) -> list[dict[str, Any]]:
        if self._rows is None:
            path, rows = self.folder / _VALUES, []
            if path.exists():
                with reading(path, "file of a film's values", "Delete it."):
                    rows = [
                        {"epoch": int(row["epoch"]), "step": int(row["step"]), "values": dict(row["values"])}
                        for row in json.loads(path.read_bytes())
                    ]
            self._rows = rows
        return self._rows

    def _known_photos(self) -> dict[str, int]:
        if self._photos is None:
            there = self.folder.iterdir() if self.folder.is_dir() else ()
            self._photos = {path.name: file_size(path) for path in there if _PHOTO.fullmatch(path.name)}
        return self._photos

    def _thin_out(self, newest: Location) -> None:
        frames, photos = self.frames(), self._known_photos()
        for frame in frames:
            if frame.path not in self._sizes:
                self._sizes[frame.path] = file_size(frame.path)
        while self._size_of(frames) + sum(photos.values()) > self.max_megabytes * _BYTES_PER_MEGABYTE:
            shown = set().union(*(self._photos_of(frame) for frame in frames))
            unused = [name for name in photos if name not in shown]
            for name in unused:
                (self.folder / name).unlink(missing_ok=True)
                del photos[name]
            if unused:
                continue
            victims = every_second(frames, (newest,))
            if not victims:
                return
            for victim in victims:
                victim.path.unlink(missing_ok=True)
            frames = [frame for frame in frames if frame not in victims]

    def _size_of(self, frames: Sequence[Frame]) -> int:
        return sum(self._sizes[frame.path] for frame in frames)

    def _photos_of(self, frame: Frame) -> set[str]:
        """The photos that a frame shows; a damaged one, which whoever makes the page is told of, shows none."""
        if frame.path not in self._shown:
            try:
                self._shown[frame.path] = {image["photo"] for image in json.loads(frame.path.read_bytes())["images"]}
            except (ValueError, KeyError, TypeError):
                return set()
        return self._shown[frame.path]


def _latest(rows: list[dict[str, Any]], name: str) -> float | None:
    return next((row["values"][name] for row in reversed(rows) if name in row["values"]), None)
