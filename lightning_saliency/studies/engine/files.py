"""Files of a study: their names, CSV, JSON without infinite numbers, and the error of stale results."""

from __future__ import annotations

import csv
import io
import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from lightning_saliency.files import write_atomically


class StaleResultsError(ValueError):
    """A result file was written for other weights, options or data than are asked for now."""


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
