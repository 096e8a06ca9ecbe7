"""What a study costs, estimated before it is run: its parts, their sum, and a table of both."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from rich.box import SIMPLE_HEAD
from rich.table import Table

from lightning_saliency.studies.engine.cell import Cell
from lightning_saliency.studies.engine.progress import duration
from lightning_saliency.studies.engine.run import cell_seconds


@dataclass(frozen=True)
class PlanRow:
    """A part of a study: cells of one kind.

    Args:
        part: What the cells do.
        cells: Number of cells.
        done: Number of cells that are done.
        epochs: Epochs of training, over all cells.
        passes: Images passed forward through a network, over all cells; backward passes are not counted.
        storage: Bytes on the disk.
        seconds: Estimated time of the remaining cells, one after the other.
        measured: Whether ``seconds`` comes from finished cells instead of a few timed steps.
        note: Further information, shown under the plan's ``note``.
    """

    part: str
    cells: int
    done: int
    epochs: int
    passes: float
    storage: int
    seconds: float
    measured: bool
    note: str = ""


@dataclass(frozen=True)
class Plan:
    """What a study costs.

    Args:
        rows: Parts of the study.
        workers: Processes that share the work; 0: unknown.
        note: Heading of the parts' notes.
        rates: Whether times come from rates that were given, and not from steps timed here.
    """

    rows: Sequence[PlanRow]
    workers: int
    note: str = ""
    rates: bool = False

    @property
    def cells(self) -> int:
        """Number of cells."""
        return sum(row.cells for row in self.rows)

    @property
    def done(self) -> int:
        """Number of cells that are done."""
        return sum(row.done for row in self.rows)

    @property
    def epochs(self) -> int:
        """Epochs of training, all cells together."""
        return sum(row.epochs for row in self.rows)

    @property
    def passes(self) -> float:
        """Images passed forward."""
        return sum(row.passes for row in self.rows)

    @property
    def storage(self) -> int:
        """Bytes on the disk."""
        return sum(row.storage for row in self.rows)

    @property
    def seconds(self) -> float:
        """Seconds that the rest will take with all workers."""
        return sum(row.seconds for row in self.rows) / max(1, self.workers)

    def lines(self) -> list[tuple[str, ...]]:
        """The parts and their sum as text."""
        shown = [
            (
                row.part,
                str(row.cells),
                str(row.done),
                str(row.epochs),
                _count(row.passes),
                _bytes(row.storage),
                duration(row.seconds / max(1, self.workers)),
                "" if row.done == row.cells else "cells" if row.measured else "rates" if self.rates else "steps",
            )
            for row in self.rows
        ]
        total = (_count(self.passes), _bytes(self.storage), duration(self.seconds))
        return [*shown, ("all", str(self.cells), str(self.done), str(self.epochs), *total, "")]

    def _shown(self) -> tuple[tuple[str, ...], list[tuple[str, ...]]]:
        """The headings and lines, without columns that are empty for this study."""
        sums = {"epochs": self.epochs, "passes": self.passes, "storage": self.storage}
        kept = [number for number, heading in enumerate(HEADINGS) if sums.get(heading, 1)]
        headings = [HEADINGS[number] for number in kept]
        lines = [[line[number] for number in kept] for line in self.lines()]
        if self.note:
            headings.append(self.note)
            lines = [[*line, note] for line, note in zip(lines, [*(row.note for row in self.rows), ""], strict=True)]
        return tuple(headings), [tuple(line) for line in lines]

    def rich(self) -> Table:
        """For a terminal."""
        table = Table(
            title="Plan; nothing has been run",
            caption=self._caption(),
            title_justify="left",
            box=SIMPLE_HEAD,
            padding=(0, 1, 0, 0),
        )
        headings, lines = self._shown()
        for heading in headings:
            table.add_column(
                heading,
                justify="left" if heading in ("part", "based on") else "right",
                no_wrap=heading != "part",
                overflow="fold",
            )
        *parts, total = lines
        for line in parts:
            table.add_row(*line)
        table.add_section()
        table.add_row(*total, style="bold")
        return table

    def __str__(self) -> str:
        headings, shown = self._shown()
        lines = [headings, tuple("---" for _ in headings), *shown]
        return "\n".join([*("| " + " | ".join(line) + " |" for line in lines), "", self._caption()])

    def _caption(self) -> str:
        how = f"with {self.workers} worker{'s' if self.workers > 1 else ''}"
        if self.workers == 0:
            how = "one cell after the other; a cluster divides it by the cells that it computes at a time"
        passes = "Passes: images passed forward through a network. " if self.passes else ""
        source = "finished cells of the kind, or a few steps timed just now"
        if self.rates:
            source = "the rates given, a map's passes at that of the test; without loading data"
        return f"{passes}Time left: {how}; estimated from {source}."


HEADINGS = ("part", "cells", "done", "epochs", "passes", "storage", "time left", "based on")


def plan_row(
    part: str,
    folder: Any,
    cells: Sequence[Cell],
    epochs: int,
    passes: float,
    storage: int,
    seconds: float,
    note: str = "",
) -> PlanRow:
    """A part of equal cells; passes, storage and seconds are those of one of them."""
    found = cell_seconds(cells, folder)
    each = sum(found.values()) / len(found) if found else seconds
    count = len(cells)
    left = each * (count - len(found))
    return PlanRow(part, count, len(found), count * epochs, count * passes, count * storage, left, bool(found), note)


def _count(number: float) -> str:
    for size, letter in ((1e9, " G"), (1e6, " M"), (1e3, " k")):
        if number >= size:
            return f"{number / size:.3g}{letter}"
    return f"{number:.0f}"


def _bytes(number: int) -> str:
    for size, unit in ((2**30, "GiB"), (2**20, "MiB"), (2**10, "KiB")):
        if number >= size:
            return f"{number / size:.3g} {unit}"
    return f"{number} B"
