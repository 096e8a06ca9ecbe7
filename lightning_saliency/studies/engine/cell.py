"""One cell of a study's grid: it is computed in any process, and its result is one file, written atomically."""

from __future__ import annotations

import json
import re
import time
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch.multiprocessing.spawn import ProcessExitedException

from lightning_saliency.files import read_json, reading, write_atomically
from lightning_saliency.studies.engine.files import StaleResultsError

_NAME = re.compile(r"[\w.,=+@-]+")
_SECONDS = re.compile(r'"seconds": ([\d.]+)\n\}\s*$')
_PLANS = "costs"


@dataclass(frozen=True)
class Cell:
    """One unit of work of a study. It can be pickled, so that another process or another machine can do it.

    Args:
        name: Unique in its study; the result's file is ``{folder}/{name}.json``. Letters, digits and ``. , = + @ _ -``.
        function: A function at the top of a module; its result consists of plain, finite JSON values.
        arguments: Its keyword arguments; what can be pickled.
        fingerprint: What the result depends on, by part, as JSON. A file with another one is stale.
        group: Cells of one group have the same cost per step; the time left is estimated group by group.
        steps: How much work it is, in units that are the same throughout its group, such as images.

    Raises:
        ValueError: If the name cannot be a file name.

    Example:
        >>> Cell("kar-10", dict, {"accuracy": 0.5}, {"fraction": 0.1}).path(Path("results")).as_posix()
        'results/kar-10.json'
    """

    name: str
    function: Callable[..., dict[str, Any]]
    arguments: Mapping[str, Any]
    fingerprint: Mapping[str, Any]
    group: str = ""
    steps: int = 1

    def __post_init__(self) -> None:
        if not _NAME.fullmatch(self.name) or self.name.startswith("."):
            raise ValueError(
                f"Got a cell named {self.name!r}. Allowed are letters, digits and . , = + @ _ - and no dot at the "
                "beginning, since it names the result's file; leave out the others."
            )

    def path(self, folder: Path) -> Path:
        """The file of its result."""
        return folder / f"{self.name}.json"


class CellError(RuntimeError):
    """Cells of a study could not be computed.

    Args:
        message: What happened, with the first failure in full.
        failures: Name of the cell -> its failure.
    """

    def __init__(self, message: str, failures: Mapping[str, str]) -> None:
        super().__init__(message)
        self.failures = dict(failures)


@dataclass(frozen=True)
class Outcome:
    """How a cell ended.

    Args:
        name: Name of the cell.
        failure: ``None`` if its result is on the disk, otherwise a description of the error.
        cause: The exception, where it happened in this process.
    """

    name: str
    failure: str | None = None
    cause: BaseException | None = None


def plain(value: Mapping[str, Any]) -> dict[str, Any]:
    """A mapping as JSON gives it back: tuples are lists, keys are strings.

    Raises:
        TypeError: If it holds a value that JSON cannot represent.
        ValueError: If a number in it is not finite.
    """
    content: dict[str, Any] = json.loads(json.dumps(value, allow_nan=False))
    return content


def read_record(cell: Cell, folder: Path) -> dict[str, Any] | None:
    """The record of a cell: its ``fingerprint``, ``result`` and ``seconds``; ``None`` if it was not computed yet.

    Raises:
        StaleResultsError: If the file holds the result of something else.
        ValueError: If the file holds no result at all.
    """
    path = cell.path(folder)
    if not path.exists():
        return None
    remedy = "Move it away."
    record: dict[str, Any] = read_json(path, "result of a cell", remedy)
    with reading(path, "result of a cell", remedy):
        old, new = record["fingerprint"], plain(cell.fingerprint)
        complete = isinstance(record["result"], dict) and isinstance(record["seconds"], (int, float))
        changed = [part for part in {**old, **new} if old.get(part) != new.get(part)]
    if changed:
        raise StaleResultsError(
            f"Got {path}, the result of other {', '.join(changed)}. Continue with what it was begun with, delete it, "
            "or choose another output folder."
        )
    if not complete:
        raise ValueError(f"Got {path}, which holds no result or no time of a cell. {remedy}")
    return record


def computing_seconds(output: Path) -> float:
    """The time that all finished cells of a study took, also those of earlier calls; those of plans are left out.

    Args:
        output: The study's folder, in whose folders the results lie.
    """
    total = 0.0
    for path in output.glob("*/*.json"):
        # The end of a record, see `compute_cell`: results may be long.
        found = None if path.parent.name == _PLANS else _SECONDS.search(path.read_text(encoding="utf-8")[-100:])
        total += float(found[1]) if found else 0.0
    return total


def compute_cell(cell: Cell, folder: Path, retries: int = 0) -> None:
    """Compute a cell in this process and write its result, unless the result exists already.

    Args:
        cell: The cell.
        folder: Folder of the results.
        retries: How often it is restarted, with a warning, after one of its own processes was lost (those of
            ``strategy="ddp_spawn"``); not after an exception in one of them.

    Raises:
        TypeError: If the result is not made of JSON values.
        ValueError: If the result holds a number that is not finite.
        torch.multiprocessing.ProcessExitedException: If the cell's own processes are lost again after all retries.
    """
    if read_record(cell, folder) is not None:
        return
    start = time.perf_counter()
    result = plain(_with_retries(cell, retries))
    record = {
        "fingerprint": plain(cell.fingerprint),
        "result": result,
        "seconds": round(time.perf_counter() - start, 3),
    }
    write_atomically(cell.path(folder), json.dumps(record, indent=1) + "\n")


def _with_retries(cell: Cell, retries: int) -> dict[str, Any]:
    for left in range(retries, 0, -1):
        try:
            return cell.function(**cell.arguments)
        except ProcessExitedException as error:
            warnings.warn(
                f"Cell {cell.name}: {error}. It is restarted, {left} more times at most.", RuntimeWarning, stacklevel=2
            )
    return cell.function(**cell.arguments)
