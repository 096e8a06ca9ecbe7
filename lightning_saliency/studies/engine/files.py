"""Result files of a study's cells: appended to chunk by chunk, resumed after a kill, refused when they are stale."""

from __future__ import annotations

import csv
import io
import json
import math
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from lightning_saliency.files import write_atomically
from lightning_saliency.networks import weights_fingerprint

__all__ = ["CellFile", "Rows", "StaleResultsError", "weights_fingerprint", "write_atomically"]

Rows = list[dict[str, Any]]
_FORMAT = 1


class StaleResultsError(ValueError):
    """A result file was written for other weights, options or data than are asked for now."""


class CellFile:
    """The results of one cell, one line a finished chunk, below a line that says what they are results of.

    A chunk is written with one ``write`` and flushed to the disk. What a kill left of a line is recognised by its
    missing end and taken off when the file is opened again: a killed run loses no chunk but the one it was working on.

    Args:
        path: The file. Its folder is made.
        fingerprint: What the results depend on, by part (``{"weights": ..., "options": ...}``), as JSON.

    Attributes:
        chunks: Number of the chunk -> its rows, of what is on disk.

    Raises:
        StaleResultsError: If the file holds results of something else.
        ValueError: If it holds no results at all.
    """

    def __init__(self, path: Path, fingerprint: Mapping[str, Any]) -> None:
        self.path = path
        self.chunks: dict[int, Rows] = {}
        header = {"format": _FORMAT, "fingerprint": json.loads(json.dumps(fingerprint))}
        lines = _whole_lines(path) if path.exists() else []
        if not lines:
            path.parent.mkdir(parents=True, exist_ok=True)
            write_atomically(path, json.dumps(header) + "\n")
            return
        self._check(lines[0], header)
        for line in lines[1:]:
            content = json.loads(line)
            self.chunks[content["chunk"]] = content["rows"]

    def append(self, chunk: int, rows: Rows) -> None:
        """Add a finished chunk; ``rows`` must hold plain, finite values."""
        line = json.dumps({"chunk": chunk, "rows": rows}, allow_nan=False) + "\n"
        with self.path.open("a", encoding="utf-8") as file:
            file.write(line)
            file.flush()
            os.fsync(file.fileno())
        self.chunks[chunk] = rows

    def _check(self, first: str, header: Mapping[str, Any]) -> None:
        try:
            found = json.loads(first)
        except json.JSONDecodeError as error:
            raise ValueError(f"{self.path} is no file of results: {error}. Move it away.") from error
        if found == header:
            return
        if not isinstance(found, dict) or found.get("format") != _FORMAT:
            raise StaleResultsError(
                f"{self.path} was written by another version. Move it away or choose another folder."
            )
        old, new = found["fingerprint"], header["fingerprint"]
        changed = [part for part in {**old, **new} if old.get(part) != new.get(part)]
        raise StaleResultsError(
            f"{self.path} holds results of other {', '.join(changed)} than are asked for now. Continue with what it "
            "was begun with, delete it, or choose another output folder."
        )


def _whole_lines(path: Path) -> list[str]:
    """The lines that were written to their end; what is left of another is taken off the file."""
    content = path.read_bytes()
    whole = content[: content.rfind(b"\n") + 1]
    if len(whole) < len(content):
        with path.open("r+b") as file:
            file.truncate(len(whole))
    return whole.decode("utf-8").splitlines()


def write_texts(folder: Path, texts: Mapping[str, str]) -> list[Path]:
    """Write texts by name of file, each atomically; returns the files."""
    for name, text in texts.items():
        write_atomically(folder / name, text)
    return [folder / name for name in texts]


def result_folder(given: str | Path | None, own: Path | None) -> Path:
    """The folder that was given, else the study's own.

    Raises:
        ValueError: If there is neither.
    """
    folder = own if given is None else Path(given)
    if folder is None:
        raise ValueError("Got no folder, and the result is of no study's. Give one.")
    return folder


def as_csv(lines: Sequence[Sequence[Any]]) -> str:
    """Lines of values, the headings first, as CSV."""
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows(lines)
    return text.getvalue()


def finite_or_none(values: Any) -> Any:
    """Plain values in which ``None`` stands for infinite ones and NaN."""
    if isinstance(values, Mapping):
        return {key: finite_or_none(value) for key, value in values.items()}
    if isinstance(values, (list, tuple)):
        return [finite_or_none(value) for value in values]
    return None if isinstance(values, float) and not math.isfinite(values) else values


def as_json(values: Any) -> str:
    """Plain values as JSON, which has no word for infinite ones and NaN: they become ``null``."""
    return json.dumps(finite_or_none(values), indent=1, allow_nan=False) + "\n"


def file_name(name: str) -> str:
    """A network's or explainer's name as part of a file's name."""
    return "".join(letter if letter.isalnum() or letter in "-_." else "_" for letter in name)
