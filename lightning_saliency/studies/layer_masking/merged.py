"""The page and the files of several layer-masking studies in one, and what makes them of finished studies."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from lightning_saliency.reports.html import ReportPicture, Section, render_page
from lightning_saliency.reports.notices import Made, chance_notices, seed_notices
from lightning_saliency.studies.engine.files import Content, as_csv, as_json, result_folder, write_results
from lightning_saliency.studies.layer_masking.merged_scores import MergedScores, data_key
from lightning_saliency.studies.layer_masking.results import ACCURACY_HEADINGS, SCORES
from lightning_saliency.studies.layer_masking.stored import read_results
from lightning_saliency.studies.retraining.figures import scale_bars
from lightning_saliency.studies.seed_differences import estimate_cells, plain_estimates

#: Before the names of all files, so that they may stand in any study's folder.
_PREFIX = "merged"
# What has to be alike for accuracies to be compared, of the studies' facts.
_ALIKE = ("fine-tuning", "KAR lets through", "ROAR lets through")


class MergedLayerMasking(MergedScores):
    """Layer-masking studies of several data sets, with the page and the files that show them.

    ``average``, ``quartiles`` and ``bars`` give the numbers, ``tables`` the SMOE paper's Tables 1, 4 and 7.

    Args:
        results: Data set -> its study's result. The statistics, and the number of scales, are the same in all.
        confidence: Level of the confidence intervals over seeds, in (0, 1), for all of the studies.

    Raises:
        ValueError: If there are fewer than two studies, or their statistics or numbers of scales differ.
    """

    def notices(self) -> list[str]:
        """Networks at chance, too few seeds for intervals, and studies that were not run alike."""
        chance = [
            notice
            for name, result in self.results.items()
            for notice in chance_notices(f"{result.network} on {name}", result.accuracy, result.classes)
        ]
        facts = [dict(result.facts) for result in self.results.values()]
        differing = [key for key in _ALIKE if len({told[key] for told in facts if key in told}) > 1]
        alike = [f"The studies differ in {', '.join(differing)}; compare them with that in mind."] if differing else []
        return [*chance, *seed_notices(min(len(result.seeds) for result in self.results.values())), *alike]

    def facts(self) -> list[tuple[str, str]]:
        """The studies in words: what all have in common once, all else by data set."""
        told = {name: dict(result.facts) for name, result in self.results.items()}
        found = [("data sets", ", ".join(self.results)), ("accuracy without masks", self._unmasked())]
        for key in dict.fromkeys(key for facts in told.values() for key in facts):
            values = {name: facts[key] for name, facts in told.items() if key in facts}
            if len(values) == len(told) and len(set(values.values())) == 1:
                found.append((key, next(iter(values.values()))))
            else:
                found += [(f"{key}, {name}", value) for name, value in values.items()]
        return found

    def sections(self) -> list[Section]:
        """The parts of the report."""
        pictures = [
            ReportPicture(
                scale_bars(self.bars(score), self._scales(), f"{score} score"),
                f"{score.capitalize()} score by scale, averaged over the data sets; 0 is a random map's.",
            )
            for score in SCORES
        ]
        text = "Studies of the same statistics on several data sets, each with masks at one scale of a trained network."
        return [
            Section("Scores", [text], [self.table()], pictures),
            Section("Accuracies", (), [self.accuracy_table()]),
            Section("Ranks", (), [self.quartile_table()]),
        ]

    def save(self, folder: str | Path, *, made: Made | None = None) -> list[Path]:
        """Write everything.

        Args:
            folder: For ``merged.html`` and, all with ``merged_`` before their names, ``table.md``, ``accuracies.csv``
                (one line per cell), ``scores.csv``, ``results.json``, ``difference.png`` and ``information.png``. It
                may be a study's own.
            made: How the page was made, for its facts.

        Returns:
            The files, the page first.

        Raises:
            ValueError: If a file in the folder was not written so or was changed since.
        """
        page = render_page(
            "Statistics at each scale, by data set", self.sections(), self.facts(), notices=self.notices(), made=made
        )
        cells = [[name, *line] for name, result in self.results.items() for line in result.accuracy_lines()]
        files: dict[str, Content] = {
            f"{_PREFIX}.html": page,
            f"{_PREFIX}_table.md": str(self),
            f"{_PREFIX}_accuracies.csv": as_csv([("data set", *ACCURACY_HEADINGS), *cells]),
            f"{_PREFIX}_scores.csv": self._scores_csv(),
            f"{_PREFIX}_results.json": as_json(self.as_dict()),
            **{
                f"{_PREFIX}_{score}.png": scale_bars(self.bars(score), self._scales(), f"{score} score")
                for score in SCORES
            },
        }
        return write_results(result_folder(folder, None), files)

    def as_dict(self) -> dict[str, Any]:
        """Each study's ``as_dict``, and all scores and ranks; an infinite end of an interval is ``None``."""
        return {
            "data_sets": {name: result.as_dict() for name, result in self.results.items()},
            "confidence": self.confidence,
            "scores": plain_estimates(self.table().values[""]),
            "quartiles": {score: self.quartiles(score) for score in SCORES},
        }

    def _scores_csv(self) -> str:
        lines: list[Sequence[Any]] = [("score", "data set", "statistic", "value", "low", "high", "seeds")]
        rows = self.table().values[""]
        for score in SCORES:
            for data, key in (*((data, data_key(score, data)) for data in self.results), ("average", score)):
                lines += [[score, data, name, *estimate_cells(row.get(key))] for name, row in rows.items()]
        return as_csv(lines)

    def _scales(self) -> tuple[str, ...]:
        """Names of the scales; empty where they differ."""
        named = {result.scales for result in self.results.values()}
        return next(iter(named)) if len(named) == 1 else ("",) * len(next(iter(named)))


def merge_layer_masking(
    runs: Sequence[str | Path], names: Sequence[str] | None = None, confidence: float = 0.95
) -> MergedLayerMasking:
    """Put finished layer-masking studies of several data sets together (SMOE paper, Tables 1, 4 and 7).

    Nothing is computed but scores and ranks: the accuracies are those that the studies stored.

    Args:
        runs: The studies' output folders, two and more.
        names: A name of its data set for each; ``None``: the names of the folders.
        confidence: Level of the confidence intervals over seeds, in (0, 1).

    Returns:
        The studies; ``print(merged)`` shows the tables, ``merged.save(folder)`` writes them, the page and the numbers.

    Raises:
        FileNotFoundError: If a folder holds no results.
        ValueError: If results cannot be read, a folder or a name comes twice, there is not one name for each study, or
            the studies differ in their statistics or their number of scales.

    Example:
        >>> merged = merge_layer_masking(["runs/imagenet", "runs/places"])  # doctest: +SKIP
        >>> merged.quartiles("information")["smoe_scale"]  # doctest: +SKIP
        (0.6, 0.9, 1.0)
    """
    return MergedLayerMasking(read_results(runs, names), confidence)
