"""Files of a study: its tables and pictures, CSV, JSON without infinite numbers, and the error of stale results."""

from __future__ import annotations

import csv
import io
import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from lightning_saliency.files import OwnFiles, file_of_this_machine
from lightning_saliency.pictures.tensors import Picture, png_bytes

#: What a file is made of: a text, the bytes of a file, a figure, or a picture ``[H, W, 3]`` uint8.
Content = str | bytes | Figure | Picture

_DOTS_PER_INCH = 130


class StaleResultsError(ValueError):
    """A result file was written for other weights, options or data than are asked for now."""


def write_results(folder: Path, files: Mapping[str, Content]) -> list[Path]:
    """Write a study's tables, pages and pictures by name of file, each atomically.

    Args:
        folder: Where they go.
        files: Name -> content; figures and pictures are written as PNG.

    Returns:
        The files.

    Raises:
        ValueError: If a file is there that was not written so, or was changed since; nothing is written then.
    """
    own = OwnFiles(folder)
    own.check(*files)
    return [own.write(name, _as_file(content)) for name, content in files.items()]


def result_folder(given: str | Path | None, own: Path | None) -> Path:
    """The folder that was given, else the study's own.

    Raises:
        ValueError: If there is neither.
    """
    folder = own if given is None else file_of_this_machine(given, "folder")
    if folder is None:
        raise ValueError("Got no folder, and the result is of no study's. Give one.")
    return folder


def page_name(folder: Path, own: str, other: str, others_results: str) -> str:
    """The name of a study's page in a folder that it may share with one other study: ``report.html`` is the first's.

    Args:
        folder: The folder.
        own: The page's name where ``report.html`` is the other study's.
        other: The name of the other study's page where ``report.html`` is this one's.
        others_results: A file that only the other study writes.
    """
    shared = (folder / others_results).exists() and not (folder / other).exists()
    return own if shared else "report.html"


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


def _as_file(content: Content) -> str | bytes:
    if isinstance(content, (str, bytes)):
        return content
    if isinstance(content, Figure):
        picture = io.BytesIO()
        FigureCanvasAgg(content)
        content.savefig(picture, format="png", dpi=_DOTS_PER_INCH)
        return picture.getvalue()
    return png_bytes(content)
