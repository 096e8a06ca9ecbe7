"""Tables of methods and metrics, the best and second best of each metric marked: for a terminal and as Markdown."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import groupby
from typing import Literal

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

__all__ = ["Column", "Estimate", "TableData", "difference_columns", "printed", "ranked"]


# Of a table in a terminal: the names of rows are folded beyond this; the frame around them, and around each column.
_WIDEST_NAME = 36
_FRAME = 4
_GAP = 3


@dataclass(frozen=True)
class Estimate:
    """A value, its interval, and the number of measurements; for a single one no interval is shown."""

    value: float
    low: float
    high: float
    count: int


@dataclass(frozen=True)
class Column:
    """A metric.

    Args:
        key: Key of the metric's values.
        title: Heading of the column.
        better: Whether high or low values are better; ``None``: neither, and no value is marked.
        group: Name of the table that the column is shown in.
        digits: Number of decimal places.
        interval: Whether intervals are shown.
        about: What it asks, in a line; the page says so below the table.
    """

    key: str
    title: str
    better: Literal["high", "low"] | None
    group: str
    digits: int = 2
    interval: bool = True
    about: str = ""


def ranked(values: Mapping[str, float], better: Literal["high", "low"] | None, digits: int) -> dict[str, int]:
    """The methods that are best (1) and second best (2).

    Values are compared as they are printed: values that look the same share a rank, and behind two that share the
    first there is no second. Where all methods look the same, or there is one alone, none is better than another, and
    none has a rank.

    Args:
        values: Method -> value.
        better: Whether high or low values are better; ``None``: neither.
        digits: Number of decimal places.

    Example:
        >>> ranked({"a": 1.004, "b": 1.001, "c": 0.5, "d": 0.1}, "high", 2)
        {'a': 1, 'b': 1}
        >>> ranked({"a": 1.0, "b": 0.5, "c": 0.5, "d": 0.1}, "high", 2)
        {'a': 1, 'b': 2, 'c': 2}
        >>> ranked({"a": 1.004, "b": 1.001}, "high", 2)
        {}
    """
    if better is None:
        return {}
    rounded = {name: round(value, digits) for name, value in values.items()}
    if len(set(rounded.values())) < 2:
        return {}
    first, second = sorted(set(rounded.values()), reverse=better == "high")[:2]
    best = [first] if list(rounded.values()).count(first) > 1 else [first, second]
    return {name: best.index(value) + 1 for name, value in rounded.items() if value in best}


def printed(value: float, digits: int) -> str:
    """A number with so many decimal places; what rounds to 0 has no sign.

    >>> printed(-0.004, 2), printed(-0.006, 2)
    ('0.00', '-0.01')
    """
    return f"{round(value, digits) + 0.0:.{digits}f}"


@dataclass(frozen=True)
class TableData:
    """Methods in rows, metrics in columns, after SISE's Table 1, for one or several networks.

    Args:
        columns: The metrics.
        values: Network -> method -> column's key -> value. A missing value is shown as a dash.
        caption: How the numbers were obtained.
        unranked: Methods that are shown beside the others, and never marked as best.
    """

    columns: Sequence[Column]
    values: Mapping[str, Mapping[str, Mapping[str, Estimate]]]
    caption: str = ""
    unranked: Collection[str] = ()

    def rich(self, marks: bool = True, width: int = 80) -> Group:
        """For a terminal: the best bold with ¹, the second best underlined with ², the interval below the value.

        Args:
            marks: Whether a line explains the marks.
            width: Columns of the terminal. What does not fit beside the names of the rows stands in a further table.
        """
        shown: list[RenderableType] = []
        for network, methods in self.values.items():
            for group, columns in self.groups():
                ranks = {column.key: self.marks(methods, column) for column in columns}
                cells = {
                    column.key: [
                        self._cell(values.get(column.key), column, ranks[column.key].get(name))
                        for name, values in methods.items()
                    ]
                    for column in columns
                }
                names = min(_WIDEST_NAME, max(map(len, methods), default=0))
                title = ": ".join(part for part in (network, group) if part)
                for part in self._fitting(columns, cells, width - names - _FRAME):
                    table = Table(title=title, title_justify="left")
                    table.add_column("", min_width=names, overflow="fold")
                    for column in part:
                        table.add_column(self._title(column), justify="right", no_wrap=True)
                    for row, name in enumerate(methods):
                        table.add_row(name, *(cells[column.key][row] for column in part))
                    shown.append(table)
        lines = [*(["¹ best, ² second best"] if marks else []), *([self.caption] if self.caption else [])]
        shown.append(Text("\n".join(lines)))
        return Group(*shown)

    def markdown(self) -> str:
        """As Markdown: the best ``**bold**``, the second best ``<u>underlined</u>``, the interval in brackets."""
        parts = []
        for network, methods in self.values.items():
            for group, columns in self.groups():
                marks = {column.key: self.marks(methods, column) for column in columns}
                lines = [
                    f"### {': '.join(part for part in (network, group) if part)}\n",
                    "| | " + " | ".join(self._title(column) for column in columns) + " |",
                    "| --- |" + " ---: |" * len(columns),
                ]
                for name, values in methods.items():
                    cells = []
                    for column in columns:
                        estimate = values.get(column.key)
                        if estimate is None:
                            cells.append("–")
                            continue
                        number = printed(estimate.value, column.digits)
                        rank = marks[column.key].get(name)
                        number = {1: f"**{number}**", 2: f"<u>{number}</u>"}.get(rank or 0, number)
                        interval = self._interval(estimate, column)
                        cells.append(f"{number} [{interval}]" if interval else number)
                    lines.append(f"| {name} | " + " | ".join(cells) + " |")
                parts.append("\n".join(lines))
        return "\n\n".join([*parts, *([self.caption] if self.caption else [])]) + "\n"

    def marks(self, methods: Mapping[str, Mapping[str, Estimate]], column: Column) -> dict[str, int]:
        """Of a network's methods those that are best (1) and second best (2) in a column."""
        shown = {name: row[column.key] for name, row in methods.items() if column.key in row}
        values = {name: estimate.value for name, estimate in shown.items() if name not in self.unranked}
        return ranked(values, column.better, column.digits)

    def groups(self) -> list[tuple[str, list[Column]]]:
        """The columns of each part of the table, with its name."""
        return [(group, list(columns)) for group, columns in groupby(self.columns, key=lambda column: column.group)]

    def _fitting(self, columns: Sequence[Column], cells: Mapping[str, list[Text]], width: int) -> list[list[Column]]:
        """The columns in parts, none of which is wider; one column at least is in each."""
        parts: list[list[Column]] = [[]]
        left = width
        for column in columns:
            lines = [line for cell in cells[column.key] for line in cell.plain.splitlines()]
            wide = max(map(len, (self._title(column), *lines))) + _GAP
            if parts[-1] and wide > left:
                parts.append([])
                left = width
            parts[-1].append(column)
            left -= wide
        return parts

    def _cell(self, estimate: Estimate | None, column: Column, rank: int | None) -> Text:
        if estimate is None:
            return Text("–")
        # A superscript digit after the value shows its rank in logs without styles, too.
        style, mark = {1: ("bold green", "¹"), 2: ("underline", "²")}.get(rank or 0, ("", " "))
        number = Text(f"{printed(estimate.value, column.digits)}{mark}", style=style)
        interval = self._interval(estimate, column)
        return Text.assemble(number, "\n", (interval + " ", "dim")) if interval else number

    @staticmethod
    def _interval(estimate: Estimate, column: Column) -> str:
        if not column.interval or estimate.count < 2:
            return ""
        between = "–" if estimate.low >= 0 else " to "
        return f"{printed(estimate.low, column.digits)}{between}{printed(estimate.high, column.digits)}"

    @staticmethod
    def _title(column: Column) -> str:
        return column.title + {"high": " ↑", "low": " ↓", None: ""}[column.better]


def difference_columns(columns: Sequence[Column]) -> list[Column]:
    """Columns for differences of scores: no value is marked, small differences are visible, and no text is repeated.

    Example:
        >>> [(column.better, column.digits) for column in difference_columns([Column("kar", "KAR", "high", "kar")])]
        [(None, 3)]
    """
    return [
        replace(column, better=None, group=f"{column.group}, differences", digits=3, about="") for column in columns
    ]
