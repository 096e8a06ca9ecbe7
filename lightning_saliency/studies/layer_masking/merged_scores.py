"""Several layer-masking studies in one: the SMOE paper's Tables 1, 4 and 7, over all of its data sets."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from lightning_saliency.checks import plural
from lightning_saliency.data.masked.module import MODES
from lightning_saliency.reports.tables import Column, Estimate, TableData
from lightning_saliency.studies.estimates import mean_interval
from lightning_saliency.studies.layer_masking.mask import RANDOM
from lightning_saliency.studies.layer_masking.results import SCORES, LayerMaskingResult, Score
from lightning_saliency.studies.retraining.figures import quartile_columns, scale_columns, statistic_columns
from lightning_saliency.studies.retraining.scores import quartile_rows
from lightning_saliency.studies.seed_differences import seed_caption


@dataclass(frozen=True)
class MergedScores:
    """The scores, accuracies and ranks of layer-masking studies of the same statistics on several data sets.

    Args:
        results: Data set -> its study's result. The statistics, and the number of scales, are the same in all.
        confidence: Level of the confidence intervals over seeds, in (0, 1), for all of the studies.

    Raises:
        ValueError: If there are fewer than two studies, or their statistics or numbers of scales differ.
    """

    results: Mapping[str, LayerMaskingResult]
    confidence: float = 0.95

    def __post_init__(self) -> None:
        if len(self.results) < 2:
            raise ValueError(
                f"Got {plural(len(self.results), 'data set')}. Allowed are the studies of two and more; give another."
            )
        leveled = {name: replace(result, confidence=self.confidence) for name, result in self.results.items()}
        object.__setattr__(self, "results", leveled)
        (first, one), *others = self.results.items()
        for name, other in others:
            if set(one.statistics) != set(other.statistics):
                raise ValueError(
                    f"Got the statistics {', '.join(one.statistics)} of {first}, and {', '.join(other.statistics)} of "
                    f"{name}. Allowed are the same in all studies; run those that are missing (statistics=...), or "
                    "leave out one study."
                )
            if len(one.scales) != len(other.scales):
                raise ValueError(
                    f"Got {plural(len(one.scales), 'scale')} of {first} and {len(other.scales)} of {name}. Allowed is "
                    "the same number in all; name the same layers in each study (layers=...), or leave out one."
                )

    @property
    def statistics(self) -> tuple[str, ...]:
        """The statistics, without the random map, in the order of the first study."""
        return next(iter(self.results.values())).statistics

    def average(self, statistic: str, score: Score = "difference") -> Estimate | None:
        """A statistic's score over all scales, averaged over the data sets (AVG of the SMOE paper's Table 1).

        The interval is Student's over seeds, of the average of each seed; without one (infinite) where the studies have
        other seeds.

        Args:
            statistic: Its name.
            score: ``"difference"`` (Eq. 8) or ``"information"`` (Eq. 9, in nats).

        Returns:
            The average; ``None`` where a score is not finite.
        """
        return self._average([result.seed_scores(statistic)[score] for result in self.results.values()])

    def quartiles(self, score: Score = "difference") -> dict[str, tuple[float, float, float]]:
        """In which share of the conditions each statistic ranks in the best quarter, half and three quarters.

        A condition is a scale of a data set, and of a seed where there are several; each data set counts the same (SMOE
        paper, Table 7 and Sec. A.8, of whose prints the information half follows from Table 4). How ranks count is said
        by `lightning_saliency.studies.retraining.scores.quartile_shares`.

        Args:
            score: The score that is ranked.

        Returns:
            Statistic -> the three shares, in [0, 1].
        """
        found = [result.quartiles(score) for result in self.results.values()]
        shares: dict[str, tuple[float, float, float]] = {}
        for name in self.statistics:
            first, second, third = (
                math.fsum(column) / len(found) for column in zip(*(each[name] for each in found), strict=True)
            )
            shares[name] = (first, second, third)
        return shares

    def bars(self, score: Score = "difference") -> dict[str, list[Estimate]]:
        """Statistic -> its score at each scale, averaged over the data sets (Fig. 4); not finite: NaN, not drawn."""
        nothing = Estimate(math.nan, math.nan, math.nan, 0)
        return {
            name: [
                self._average(columns) or nothing
                for columns in zip(
                    *(zip(*result.scale_scores(name, score), strict=True) for result in self.results.values()),
                    strict=True,
                )
            ]
            for name in self.statistics
        }

    def table(self) -> TableData:
        """Difference and information scores by data set and their averages (Table 1), the best average first."""
        rows: dict[str, dict[str, Estimate]] = {}
        for name in self.statistics:
            found = {
                data_key(score, data): result.score(name, score)
                for score in SCORES
                for data, result in self.results.items()
            } | {score: self.average(name, score) for score in SCORES}
            rows[name] = {key: estimate for key, estimate in found.items() if estimate is not None}
        ordered = dict(sorted(rows.items(), key=lambda item: -item[1]["difference"].value))
        caption = f"{self._caption()} The average is that over the data sets."
        return TableData(self._score_columns(), {"": ordered}, caption)

    def accuracy_table(self) -> TableData:
        """The accuracies in per cent, statistics × (data set, mode, scale) (Table 4); the random map is not ranked."""
        columns = [
            replace(
                column,
                key=data_key(column.key, data),
                title=f"{mode.upper()} {column.title}",
                group=f"{data}: accuracy in %",
            )
            for data, result in self.results.items()
            for mode in MODES
            for column in scale_columns([mode], len(result.scales))
        ]
        rows = {
            name: {
                data_key(key, data): estimate
                for data, result in self.results.items()
                for key, estimate in result.scale_accuracies(name).items()
            }
            for name in (RANDOM, *self.statistics)
        }
        return TableData(columns, {"": rows}, f"Without masks: {self._unmasked()}. {self._caption()}", (RANDOM,))

    def quartile_table(self) -> TableData:
        """The cumulative quartile ranks in per cent (Table 7)."""
        rows = quartile_rows({score: self.quartiles(score) for score in SCORES})
        scales = len(next(iter(self.results.values())).scales)
        each = ", each seed by itself" if any(len(result.seeds) > 1 for result in self.results.values()) else ""
        caption = (
            f"Ranks among {plural(len(self.statistics), 'statistic')} over {plural(len(self.results), 'data set')} × "
            f"{plural(scales, 'scale')}{each}."
        )
        return TableData(quartile_columns("data sets and scales"), {"": rows}, caption)

    def tables(self) -> list[TableData]:
        """Scores, accuracies and ranks."""
        return [self.table(), self.accuracy_table(), self.quartile_table()]

    def __str__(self) -> str:
        return "\n".join(table.markdown() for table in self.tables())

    def _average(self, columns: Sequence[Sequence[float]]) -> Estimate | None:
        """The mean over data sets of a value for each seed."""
        if not all(math.isfinite(value) for column in columns for value in column):
            return None
        if len({result.seeds for result in self.results.values()}) == 1:
            return mean_interval([math.fsum(row) / len(row) for row in zip(*columns, strict=True)], self.confidence)
        mean = math.fsum(math.fsum(column) / len(column) for column in columns) / len(columns)
        return Estimate(mean, -math.inf, math.inf, 1)

    def _score_columns(self) -> list[Column]:
        columns = []
        for column in statistic_columns():
            group = f"{column.title}, summed over the scales"
            columns += [
                replace(column, key=data_key(column.key, data), title=data, group=group) for data in self.results
            ]
            columns.append(replace(column, title="average", group=group, about=""))
        return columns

    def _unmasked(self) -> str:
        return ", ".join(f"{name} {100 * result.accuracy:.2f} %" for name, result in self.results.items())

    def _caption(self) -> str:
        counts = {len(result.seeds) for result in self.results.values()}
        if len(counts) == 1:
            return seed_caption(counts.pop(), self.confidence)
        seeds = ", ".join(f"{name} {len(result.seeds)}" for name, result in self.results.items())
        return f"Means over seeds ({seeds}), and their {self.confidence:.0%} Student intervals where there are several."


def data_key(key: str, data: str) -> str:
    """The key of a column of one data set."""
    return f"{key} of {data}"
