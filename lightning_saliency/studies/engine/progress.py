"""How long a study will take, estimated from the time of its cells so far."""

from __future__ import annotations

from collections.abc import Hashable, Mapping
from types import TracebackType
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn
from typing_extensions import Self

# With a bar of 14 characters, a line with this beside a network's and an explainer's name fits into 80 columns.
_UNKNOWN = "timing each kind"


class TimeLeft:
    """The time left for cells whose steps have very different costs.

    The remaining steps of a cell are assumed to cost the average of its steps so far. There is no estimate until every
    cell was measured: a step costs from a millisecond to minutes, so one cell says nothing about another.

    Args:
        steps: Group of cells -> the number of steps of them all.
        workers: How many of them are computed at a time.

    Example:
        >>> left = TimeLeft({"fast": 4, "slow": 4})
        >>> left.record("fast", 1, 0.5), left.seconds()
        (None, None)
        >>> left.record("slow", 1, 60.0), left.seconds()
        (None, 181.5)
    """

    def __init__(self, steps: Mapping[Any, int], workers: int = 1) -> None:
        self._workers = max(1, workers)
        self._left: dict[Hashable, int] = dict(steps)
        self._done: dict[Hashable, int] = dict.fromkeys(steps, 0)
        self._taken: dict[Hashable, float] = dict.fromkeys(steps, 0.0)

    def record(self, cell: Hashable, steps: int, seconds: float) -> None:
        """Record that steps of a cell are done, and how long they took."""
        self._left[cell] -= steps
        self._done[cell] += steps
        self._taken[cell] += seconds

    def seconds(self) -> float | None:
        """The seconds left; ``None`` while a cell has no measured step."""
        if any(left > 0 and self._done[cell] == 0 for cell, left in self._left.items()):
            return None
        seconds = sum(left * self._taken[cell] / self._done[cell] for cell, left in self._left.items() if left > 0)
        return seconds / self._workers

    def share_done(self) -> float:
        """The share of the work, in time, that is done; of the steps, while the time is not known."""
        left = self.seconds()
        if left is None:
            return sum(self._done.values()) / max(1, sum(self._done.values()) + sum(self._left.values()))
        taken = sum(self._taken.values()) / self._workers
        return taken / (taken + left) if taken + left > 0 else 1.0


class ProgressBar:
    """A bar with the time left, estimated by `TimeLeft`; a context manager.

    Args:
        left: The remaining work.
        console: Console that shows the bar; ``None``: no bar is shown.
    """

    def __init__(self, left: TimeLeft, console: Console | None) -> None:
        self.left = left
        self._bar = Progress(
            TextColumn("{task.description}"),
            BarColumn(bar_width=14),
            TaskProgressColumn(),
            TextColumn("{task.fields[promise]}"),
            console=console,
            disable=console is None,
        )
        self._task = self._bar.add_task("", total=1.0, promise=_UNKNOWN)

    def __enter__(self) -> Self:
        self._bar.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._bar.stop()

    def show(self, doing: str) -> None:
        """Show the current work and the time left."""
        seconds = self.left.seconds()
        promise = _UNKNOWN if seconds is None else f"{duration(seconds)} left"
        self._bar.update(self._task, completed=self.left.share_done(), description=doing, promise=promise)


def duration(seconds: float) -> str:
    """A number of seconds in readable form.

    Example:
        >>> duration(9.6), duration(75), duration(7300)
        ('10 s', '1 min 15 s', '2 h 01 min')
    """
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02d} s"
    return f"{whole // 3600} h {whole % 3600 // 60:02d} min"
