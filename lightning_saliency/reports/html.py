"""One self-contained HTML page: text, tables and pictures in a single file that needs nothing else."""

from __future__ import annotations

import base64
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from PIL import Image

from lightning_saliency.pictures.tensors import Picture
from lightning_saliency.reports.notices import Made
from lightning_saliency.reports.tables import Column, Estimate, TableData, printed

__all__ = ["ReportPicture", "Section", "data_uri", "render_page"]


@dataclass(frozen=True)
class ReportPicture:
    """A picture of a page.

    Args:
        content: A figure, ``[H, W, 3]`` uint8, or a PNG file's bytes.
        caption: Text below the picture, also its description for screen readers.
    """

    content: Figure | Picture | bytes
    caption: str

    @property
    def is_plot(self) -> bool:
        """Whether it holds lines and bars alone, whose colours may be turned for a dark page."""
        return isinstance(self.content, Figure) and not any(axes.images for axes in self.content.axes)


@dataclass(frozen=True)
class Section:
    """A part of a page: heading, text, tables and pictures.

    Args:
        heading: Heading of the part.
        text: Paragraphs.
        tables: Tables; a caption is shown below its table, or before the first of several parts.
        pictures: Pictures, in order.
    """

    heading: str
    text: Sequence[str] = ()
    tables: Sequence[TableData] = ()
    pictures: Sequence[ReportPicture] = field(default=())


def render_page(
    title: str,
    sections: Sequence[Section],
    facts: Sequence[tuple[str, str]] = (),
    *,
    notices: Sequence[str] = (),
    made: Made | None = None,
) -> str:
    """An HTML page with all text escaped and all pictures embedded as data URIs.

    Args:
        title: Title of the page.
        sections: Sections of the page, in order.
        facts: Names and values, shown as a list at the beginning.
        notices: Sentences that no reader must miss, shown before everything else.
        made: How the page was made, the last of the facts; ``None``: date and version alone.

    Returns:
        The whole document.

    Example:
        >>> page = render_page("A < B", [Section("Results", ["Nothing yet."])], [("seeds", "3")])
        >>> "<h1>A &lt; B</h1>" in page, "http" in page
        (True, False)
    """
    environment = Environment(
        loader=PackageLoader("lightning_saliency.reports"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    parts: list[dict[str, Any]] = [
        {
            "heading": section.heading,
            "text": section.text,
            "tables": [part for table in section.tables for part in _table_parts(table)],
            "pictures": [
                {"uri": Markup(data_uri(one.content)), "caption": one.caption, "plot": one.is_plot}
                for one in section.pictures
            ],
        }
        for section in sections
    ]
    marked = [table for part in parts for table in part["tables"] if _has_marks(table)]
    return environment.get_template("report.html.j2").render(
        title=title, sections=parts, facts=[*facts, *(made or Made()).facts()], notices=notices, legend=marked[:1]
    )


def data_uri(content: Figure | Picture | bytes) -> str:
    """A picture, or a PNG file's bytes, as ``data:image/png;base64,...``."""
    file = io.BytesIO(content if isinstance(content, bytes) else b"")
    if isinstance(content, Figure):
        FigureCanvasAgg(content)
        # Without the version of matplotlib, so that the same results give the same page.
        content.savefig(file, format="png", dpi=110, metadata={"Software": None})
    elif not isinstance(content, bytes):
        Image.fromarray(content).save(file, format="png", optimize=True)
    return f"data:image/png;base64,{base64.b64encode(file.getvalue()).decode()}"


def _table_parts(table: TableData) -> list[dict[str, Any]]:
    """A table's parts, one for each network and group of columns, as the template shows them."""
    parts = []
    told: set[str] = set()
    for network, methods in table.values.items():
        for group, columns in table.groups():
            # What a column asks is said once, below the first part that has it.
            about = {text: titles for text, titles in _texts(columns).items() if text not in told}
            told.update(about)
            marks = {column.key: table.marks(methods, column) for column in columns}
            parts.append(
                {
                    "title": f"{network}: {group}" if network else group,
                    "columns": [column.title for column in columns],
                    "better": [{"high": "↑", "low": "↓", None: ""}[column.better] for column in columns],
                    "rows": [
                        {
                            "name": name,
                            "cells": [
                                _cell(values.get(column.key), column, marks[column.key].get(name)) for column in columns
                            ],
                        }
                        for name, values in methods.items()
                    ],
                    "about": [{"title": ", ".join(titles), "text": text} for text, titles in about.items()],
                    "before": "",
                    "caption": "",
                }
            )
    if parts:
        # It is of all parts, and said once: before the first of several.
        parts[0]["before" if len(parts) > 1 else "caption"] = table.caption
    return parts


def _texts(columns: Sequence[Column]) -> dict[str, list[str]]:
    """What the columns ask -> the titles of those that ask it."""
    found: dict[str, list[str]] = {}
    for column in columns:
        if column.about:
            found.setdefault(column.about, []).append(column.title)
    return found


def _has_marks(table: Mapping[str, Any]) -> bool:
    return any(cell["rank"] for row in table["rows"] for cell in row["cells"])


def _cell(estimate: Estimate | None, column: Column, rank: int | None) -> dict[str, Any]:
    if estimate is None:
        return {"value": "–", "interval": "", "rank": 0}
    shown = column.interval and estimate.count > 1
    low, value, high = (printed(number, column.digits) for number in (estimate.low, estimate.value, estimate.high))
    return {"value": value, "interval": f"{low} to {high}" if shown else "", "rank": rank or 0}
