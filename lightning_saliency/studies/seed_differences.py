"""Methods that share their seeds, one of them compared with each of the others."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from lightning_saliency.reports.html import Section
from lightning_saliency.reports.tables import Column, Estimate, TableData, difference_columns
from lightning_saliency.studies.engine.files import as_csv, finite_or_none
from lightning_saliency.studies.estimates import mean_interval

#: Method -> key of the score -> one value for each seed, the same seeds in the same order for all; higher is better.
SeedScores = Mapping[str, Mapping[str, Sequence[float]]]


@dataclass(frozen=True)
class SeedDifferences:
    """The scores of a reference less those of each other method, paired by seed.

    Args:
        scores: Scores of the methods that are compared.
        reference: One of them; ``None``: nothing is compared.
        columns: Names of the scores.
        seeds: How many there are.
        confidence: Level of the confidence intervals over seeds, in (0, 1).
    """

    scores: SeedScores
    reference: str | None
    columns: Sequence[Column]
    seeds: int
    confidence: float = 0.95

    def estimates(self) -> dict[str, dict[str, Estimate]]:
        """Other method -> score -> the mean difference over seeds and Student's t interval of it.

        Where a difference is not finite, the score is missing.
        """
        if self.reference is None:
            return {}
        own = self.scores[self.reference]
        found: dict[str, dict[str, Estimate]] = {}
        for other, scores in self.scores.items():
            if other == self.reference:
                continue
            found[other] = {}
            for column in self.columns:
                pairs = zip(own[column.key], scores[column.key], strict=True)
                values = [mine - theirs for mine, theirs in pairs]
                if all(map(math.isfinite, values)):
                    found[other][column.key] = mean_interval(values, self.confidence)
        return found

    def table(self, network: str) -> TableData:
        """A row for each other method; the caption says what the sign means."""
        rows = {f"{self.reference} − {other}": row for other, row in self.estimates().items()}
        if not rows:
            return TableData(difference_columns(self.columns), {}, "Nothing to be compared.")
        caption = [
            f"{self.reference} less the other, seed by seed: above 0, {self.reference} is better.",
            seed_caption(self.seeds, self.confidence),
            *(["The intervals are not corrected for the number of rows."] if self.seeds > 1 and len(rows) > 1 else []),
        ]
        return TableData(difference_columns(self.columns), {network: rows}, " ".join(caption))

    def sections(self, network: str) -> list[Section]:
        """The part of a report, if there is something to be compared."""
        if not self.estimates():
            return []
        return [Section(f"Against {self.reference}", (), [self.table(network)])]

    def csv(self, kind: str) -> str:
        """A line for each other method and score; of what is missing the cells are empty.

        Args:
            kind: What the methods are: the heading of their names.
        """
        lines: list[list[Any]] = [["reference", kind, "score", "value", "low", "high", "seeds"]]
        for other, row in self.estimates().items():
            lines += [
                [self.reference, other, column.key, *estimate_cells(row.get(column.key))] for column in self.columns
            ]
        return as_csv(lines)


def chosen_reference(given: str | None, names: Sequence[str], usual: str | None = None) -> str | None:
    """The method that the others are compared with.

    Args:
        given: By the user; or ``None``: the usual one where it is among the names, else the first of them.
        names: Names of all methods.
        usual: See ``given``.

    Raises:
        ValueError: If there is no such method.
    """
    if given is None:
        return usual if usual in names else next(iter(names), None)
    if given not in names:
        raise ValueError(f"Got reference={given!r}. Allowed are {', '.join(names)}; use one of them.")
    return given


def seed_caption(seeds: int, confidence: float) -> str:
    """What the numbers are, and their intervals."""
    if seeds == 1:
        return "One seed: no intervals."
    return f"Mean of {seeds} seeds and its {confidence:.0%} Student interval."


def estimate_cells(estimate: Estimate | None) -> list[Any]:
    """Value, ends of the interval and number of seeds for a line of CSV; empty is what there is not."""
    return [None] * 4 if estimate is None else list(finite_or_none(vars(estimate)).values())


def plain_estimates(rows: Mapping[str, Mapping[str, Estimate]]) -> dict[str, Any]:
    """Method -> score -> plain values; ``None`` where an end of the interval is infinite."""
    return {name: {key: finite_or_none(vars(estimate)) for key, estimate in row.items()} for name, row in rows.items()}
