"""Results over seeds: intervals, and the differences of one method to each of the others."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from lightning_saliency.checks import did_you_mean
from lightning_saliency.reports.html import Section
from lightning_saliency.reports.tables import Column, Estimate, TableData, difference_columns
from lightning_saliency.studies.engine.files import as_csv, finite_or_none
from lightning_saliency.studies.estimates import mean_interval

#: Method -> key of the score -> one value for each seed, the same seeds in the same order for all; higher is better.
SeedScores = Mapping[str, Mapping[str, Sequence[float]]]


@dataclass(frozen=True)
class SeedDifferences:
    """The scores of a reference minus those of each other method, paired by seed.

    Args:
        scores: Scores of the methods that are compared.
        reference: The method that is compared; ``None``: nothing is compared.
        columns: The scores.
        seeds: Number of seeds.
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
            return TableData(difference_columns(self.columns), {}, "Nothing to compare.")
        caption = [
            f"{self.reference} minus the other, seed by seed: above 0, {self.reference} is better.",
            seed_caption(self.seeds, self.confidence),
            *(["The intervals are not corrected for the number of rows."] if self.seeds > 1 and len(rows) > 1 else []),
        ]
        return TableData(difference_columns(self.columns), {network: rows}, " ".join(caption))

    def sections(self, network: str) -> list[Section]:
        """The part of a report, if there is anything to compare."""
        if not self.estimates():
            return []
        return [Section(f"Against {self.reference}", (), [self.table(network)])]

    def csv(self, kind: str) -> str:
        """A line for each other method and score; missing values are empty.

        Args:
            kind: Heading of the names of the methods.
        """
        lines: list[list[Any]] = [["reference", kind, "score", "value", "low", "high", "seeds"]]
        for other, row in self.estimates().items():
            lines += [
                [self.reference, other, column.key, *estimate_cells(row.get(column.key))] for column in self.columns
            ]
        return as_csv(lines)


class SeedResult(ABC):
    """The result of a study whose cells share their seeds; subclasses have the fields."""

    network: str
    seeds: tuple[int, ...]
    confidence: float

    @abstractmethod
    def tables(self) -> list[TableData]:
        """All tables of the study."""

    @abstractmethod
    def _differences(self) -> SeedDifferences: ...

    def differences(self) -> TableData:
        """The scores of the reference minus those of each other method, paired by seed.

        The intervals are those of the differences, Student's over seeds: cells of one seed begin with the same weights
        and see the same images, so that the effect of the seed cancels. Scores that are not finite have none.
        """
        return self._differences().table(self.network)

    def __str__(self) -> str:
        return "\n".join(table.markdown() for table in self.tables())

    def _interval(self, values: Sequence[float], factor: float = 1) -> Estimate:
        return mean_interval([factor * value for value in values], self.confidence)

    def _caption(self) -> str:
        return seed_caption(len(self.seeds), self.confidence)


def chosen_reference(given: str | None, names: Sequence[str], usual: str | None = None) -> str | None:
    """The method that the others are compared with.

    Args:
        given: The user's choice; ``None``: ``usual`` if it is among the names, otherwise the first of them.
        names: Names of all methods.
        usual: Name of the usual method.

    Raises:
        ValueError: If ``given`` is not among the names.
    """
    if given is None:
        return usual if usual in names else next(iter(names), None)
    if given not in names:
        raise ValueError(
            f"Got reference={given!r}. Allowed are {', '.join(names)}; use one of them.{did_you_mean(given, names)}"
        )
    return given


def seed_caption(seeds: int, confidence: float) -> str:
    """How the numbers and their intervals were obtained."""
    if seeds == 1:
        return "One seed: no intervals."
    return f"Mean of {seeds} seeds and its {confidence:.0%} Student interval."


def estimate_cells(estimate: Estimate | None) -> list[Any]:
    """Value, ends of the interval and number of seeds for a line of CSV; without an estimate they are empty."""
    return [None] * 4 if estimate is None else list(finite_or_none(vars(estimate)).values())


def plain_estimates(rows: Mapping[str, Mapping[str, Estimate]]) -> dict[str, Any]:
    """Method -> score -> plain values; ``None`` where an end of the interval is infinite."""
    return {name: {key: finite_or_none(vars(estimate)) for key, estimate in row.items()} for name, row in rows.items()}
