"""What a layer-masking study found: scores, ranks, layer weights, files and the page that shows them."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch

from lightning_saliency.checks import plural
from lightning_saliency.data.masked.module import MODES
from lightning_saliency.functional.scores import difference_score, information_score
from lightning_saliency.reports.html import ReportPicture, Section, render_page
from lightning_saliency.reports.notices import Made, chance_notices, seed_notices
from lightning_saliency.reports.tables import Estimate, TableData
from lightning_saliency.studies.engine.files import Content, as_csv, as_json, page_name, result_folder, write_results
from lightning_saliency.studies.layer_masking.grid import LayerGrid
from lightning_saliency.studies.layer_masking.mask import RANDOM
from lightning_saliency.studies.retraining.figures import quartile_columns, scale_bars, scale_columns, statistic_columns
from lightning_saliency.studies.retraining.grid import class_count, network_name
from lightning_saliency.studies.retraining.scores import quartile_rows, quartile_shares, weights_from_scores
from lightning_saliency.studies.seed_differences import (
    SeedDifferences,
    SeedResult,
    chosen_reference,
    plain_estimates,
)

Score = Literal["difference", "information"]
#: The two scores of a statistic (SMOE paper, Eq. 8 and 9).
SCORES: dict[Score, Callable[..., torch.Tensor]] = {
    "difference": difference_score,
    "information": information_score,
}
_USUAL = "smoe_scale"
#: Before the names of all files, so that a ROAR and KAR study of the same networks can be saved beside them.
_PREFIX = "layer_masking"
#: The file that holds all of a finished study, in its output folder.
RESULTS = f"{_PREFIX}_results.json"
#: What the values of `LayerMaskingResult.accuracy_lines` are.
ACCURACY_HEADINGS = ("statistic", "mode", "scale", "module", "seed", "accuracy")


@dataclass(frozen=True)
class LayerMaskingResult(SeedResult):
    """The results of a layer-masking study.

    Args:
        network: Name of the network.
        scales: Names of the K scales, shallow to deep.
        seeds: Seeds; every cell is fine-tuned once for each.
        accuracies: Statistic (or ``"random"``) -> ``"kar"`` and ``"roar"`` -> for each scale one accuracy in [0, 1] for
            each seed.
        unmasked: The accuracy of the networks without masks.
        confidence: Level of the confidence intervals over seeds.
        facts: Names and values that describe the study, for the report.
        folder: Where ``save`` writes by default.
        reference: The statistic whose differences to the others are shown; ``None``: ``"smoe_scale"``, or the first if
            that was not studied. ``dataclasses.replace(result, reference="std")`` changes it.
        classes: Number of classes, where it is known.

    Raises:
        ValueError: If the reference is not one of the statistics.
    """

    network: str
    scales: tuple[str, ...]
    seeds: tuple[int, ...]
    accuracies: Mapping[str, Mapping[str, Sequence[Sequence[float]]]]
    unmasked: Sequence[float]
    confidence: float = 0.95
    facts: Sequence[tuple[str, str]] = ()
    folder: Path | None = None
    reference: str | None = None
    classes: int | None = None

    def __post_init__(self) -> None:
        object.__setattr__(self, "reference", chosen_reference(self.reference, self.statistics, _USUAL))

    @classmethod
    def gather(
        cls, grid: LayerGrid, unmasked: Mapping[str, Mapping[str, Any]], results: Mapping[str, Mapping[str, Any]]
    ) -> LayerMaskingResult:
        """Collect the results of a grid's cells.

        Args:
            grid: The study.
            unmasked: Results of its unmasked cells.
            results: Results of its masked cells.
        """
        config = grid.config
        accuracies: dict[str, dict[str, list[list[float]]]] = {
            name: {mode: [[] for _ in grid.scales] for mode in MODES} for name in (RANDOM, *config.statistics)
        }
        for key in grid.keys:
            accuracies[key.statistic][key.mode][key.scale].append(results[key.name]["accuracy"])
        return cls(
            network=network_name(grid.training.model),
            scales=tuple(scale.module or "(output)" for scale in grid.scales),
            seeds=config.seeds,
            accuracies=accuracies,
            unmasked=[result["accuracy"] for result in unmasked.values()],
            confidence=config.confidence,
            facts=grid.facts(),
            folder=grid.output,
            classes=class_count(grid.training),
        )

    @property
    def statistics(self) -> tuple[str, ...]:
        """The statistics, without the random map."""
        return tuple(name for name in self.accuracies if name != RANDOM)

    @property
    def accuracy(self) -> float:
        """The accuracy without masks, in [0, 1]: the mean over the seeds."""
        return math.fsum(self.unmasked) / len(self.unmasked)

    def scale_scores(self, statistic: str, score: Score = "difference") -> list[list[float]]:
        """The score at each scale by itself, the term of the sum in Eq. 8 or 9 of the SMOE paper.

        Args:
            statistic: Its name.
            score: ``"difference"`` (Eq. 8) or ``"information"`` (Eq. 9, with the natural logarithm).

        Returns:
            For each seed one score per scale. Information is −∞ where a KAR accuracy is 0 and the random map's is not.
        """
        terms = SCORES[score](*self._columns(statistic))
        return [[float(value) for value in row] for row in terms]

    def score(self, statistic: str, score: Score = "difference") -> Estimate | None:
        """The difference (Eq. 8) or information score (Eq. 9) over all scales; ``None`` where it is not finite."""
        totals = self.seed_scores(statistic)[score]
        return self._interval(totals) if all(map(math.isfinite, totals)) else None

    def seed_scores(self, statistic: str) -> dict[str, list[float]]:
        """Difference (Eq. 8) and information score (Eq. 9) over all scales, for each seed."""
        return {score: [math.fsum(row) for row in self.scale_scores(statistic, score)] for score in SCORES}

    def quartiles(self, score: Score = "difference") -> dict[str, tuple[float, float, float]]:
        """How often each statistic ranks in the best quarter, half and three quarters, over scales and seeds."""
        return quartile_shares(
            {name: [value for row in self.scale_scores(name, score) for value in row] for name in self.statistics}
        )

    def optimal_weights(self, statistic: str = "smoe_scale") -> tuple[float, ...]:
        """Layer weights for Eq. 3: the mean information score of each scale over the seeds, see `weights_from_scores`.

        Hand them to an explainer: ``SMOE(network, weights=result.optimal_weights())``.

        Args:
            statistic: The statistic whose maps are weighted.

        Raises:
            ValueError: If no scale's map is better than a random one.
        """
        rows = self.scale_scores(statistic, "information")
        return weights_from_scores([[math.fsum(column) / len(column) for column in zip(*rows, strict=True)]])

    def table(self) -> TableData:
        """Difference and information score of each statistic, as in the SMOE paper's Table 1, the best first."""
        rows: dict[str, dict[str, Estimate]] = {}
        for name in self.statistics:
            found = {score: self.score(name, score) for score in SCORES}
            rows[name] = {score: estimate for score, estimate in found.items() if estimate is not None}
        ordered = dict(sorted(rows.items(), key=lambda item: -item[1]["difference"].value))
        return TableData(statistic_columns(), {self.network: ordered}, self._caption())

    def scale_accuracies(self, statistic: str) -> dict[str, Estimate]:
        """The accuracies of a statistic, or of ``"random"``, in per cent by the keys of `scale_columns`."""
        return {
            f"{mode}_l{place}": self._interval(values, 100)
            for mode in MODES
            for place, values in enumerate(self.accuracies[statistic][mode], start=1)
        }

    def accuracy_table(self) -> TableData:
        """The accuracies at each scale in per cent, as in the SMOE paper's Table 4."""
        return TableData(
            scale_columns(MODES, len(self.scales)),
            {self.network: {name: self.scale_accuracies(name) for name in self.accuracies}},
            f"Without masks: {100 * self.accuracy:.2f} %. {self._caption()}",
        )

    def quartile_table(self) -> TableData:
        """The ranks, as in the SMOE paper's Table 7."""
        caption = (
            f"Ranks among {plural(len(self.statistics), 'statistic')} over {plural(len(self.scales), 'scale')} × "
            f"{plural(len(self.seeds), 'seed')}."
        )
        rows = quartile_rows({score: self.quartiles(score) for score in SCORES})
        return TableData(quartile_columns(), {self.network: rows}, caption)

    def tables(self) -> list[TableData]:
        """Scores, differences if there is more than one statistic, accuracies and ranks."""
        differences = [self.differences()] if self._differences().estimates() else []
        return [self.table(), *differences, self.accuracy_table(), self.quartile_table()]

    def bars(self, score: Score = "difference") -> dict[str, list[Estimate]]:
        """Statistic -> its score at each scale, for `scale_bars`; one that is not finite is NaN, and not drawn."""
        nothing = Estimate(math.nan, math.nan, math.nan, 0)
        return {
            name: [
                self._interval(column) if all(map(math.isfinite, column)) else nothing
                for column in zip(*self.scale_scores(name, score), strict=True)
            ]
            for name in self.statistics
        }

    def notices(self) -> list[str]:
        """Whether the network is at chance, and whether there are too few seeds for intervals."""
        return [*chance_notices(self.network, self.accuracy, self.classes), *seed_notices(len(self.seeds))]

    def sections(self) -> list[Section]:
        """The parts of the report."""
        text = [
            "One scale at a time, a statistic of its activation selects the positions that are let through; all others "
            "are set to zero, what comes after is fine-tuned and what comes before is frozen.",
            "Layer weights for combined maps, from the information scores of "
            f"{self._weighted()}: {self._weights_text()}.",
        ]
        figures = [
            ReportPicture(
                scale_bars(self.bars(score), self.scales, f"{score} score"),
                f"{score.capitalize()} score by scale; 0 is a random map's. {self._caption()}",
            )
            for score in SCORES
        ]
        return [
            Section("Masks at one scale", text, [self.table()], figures),
            *self._differences().sections(self.network),
            Section("Accuracies", (), [self.accuracy_table()]),
            Section("Ranks", (), [self.quartile_table()]),
        ]

    def save(self, folder: str | Path | None = None, *, made: Made | None = None) -> list[Path]:
        """Write everything.

        Args:
            folder: For ``report.html`` and, all with ``layer_masking_`` before their names, ``table.md``,
                ``accuracies.csv`` (one line per cell), ``differences.csv``, ``results.json``, ``difference.png`` and
                ``information.png``. ``None``: the study's own folder. A ROAR and KAR study may use the same folder:
                where its page is ``report.html`` already, this one's is ``layer_masking.html``.
            made: How the page was made, for its facts.

        Returns:
            The files.

        Raises:
            ValueError: If there is no folder, or a file in it was not written so or was changed since.
        """
        folder = result_folder(folder, self.folder)
        files: dict[str, Content] = {
            page_name(folder, f"{_PREFIX}.html", "roar_kar.html", "results.json"): render_page(
                "Statistics at each scale", self.sections(), self.facts, notices=self.notices(), made=made
            ),
            f"{_PREFIX}_table.md": str(self),
            f"{_PREFIX}_accuracies.csv": as_csv([ACCURACY_HEADINGS, *self.accuracy_lines()]),
            f"{_PREFIX}_differences.csv": self._differences().csv("statistic"),
            RESULTS: as_json(self.as_dict()),
            **{
                f"{_PREFIX}_{score}.png": scale_bars(self.bars(score), self.scales, f"{score} score")
                for score in SCORES
            },
        }
        return write_results(folder, files)

    def accuracy_lines(self) -> list[list[Any]]:
        """A line for each cell, with the values of ``ACCURACY_HEADINGS``; scales count from 1."""
        return [
            [name, mode, place, self.scales[place - 1], seed, value]
            for name, modes in self.accuracies.items()
            for mode, scales in modes.items()
            for place, values in enumerate(scales, start=1)
            for seed, value in zip(self.seeds, values, strict=True)
        ]

    def as_dict(self) -> dict[str, Any]:
        """All accuracies, scores, differences and ranks as plain values; an infinite end of an interval is ``None``."""
        return {
            "network": self.network,
            "scales": list(self.scales),
            "seeds": list(self.seeds),
            "unmasked": list(self.unmasked),
            "accuracies": {
                name: {mode: [list(values) for values in scales] for mode, scales in modes.items()}
                for name, modes in self.accuracies.items()
            },
            "scores": plain_estimates(self.table().values[self.network]),
            "reference": self.reference,
            "differences": plain_estimates(self._differences().estimates()),
            "quartiles": {score: self.quartiles(score) for score in SCORES},
            "optimal_weights": self._weights(),
            "classes": self.classes,
            "facts": dict(self.facts),
        }

    def _columns(self, statistic: str) -> list[torch.Tensor]:
        """ROAR and KAR of a statistic and of the random map, ``[seeds, K, 1]``: a sum over one scale each."""
        return [
            torch.tensor(self.accuracies[name][mode], dtype=torch.float64).T.unsqueeze(-1)
            for name in (statistic, RANDOM)
            for mode in ("roar", "kar")
        ]

    def _differences(self) -> SeedDifferences:
        scores = {name: self.seed_scores(name) for name in self.statistics}
        return SeedDifferences(scores, self.reference, statistic_columns(), len(self.seeds), self.confidence)

    def _weighted(self) -> str:
        return _USUAL if _USUAL in self.statistics else self.statistics[0]

    def _weights(self) -> list[float] | None:
        """``None`` where no scale's map is better than a random one."""
        try:
            return list(self.optimal_weights(self._weighted()))
        except ValueError:
            return None

    def _weights_text(self) -> str:
        weights = self._weights()
        return "none, no scale's map is better than a random one" if weights is None else ", ".join(map(str, weights))
