"""What a ROAR and KAR study found: curves, tables, files and the page that shows them."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

from lightning_saliency.reports.html import ReportPicture, Section, render_page
from lightning_saliency.reports.masked_pixels import mask_sheet
from lightning_saliency.reports.notices import Made, chance_notices, seed_notices
from lightning_saliency.reports.tables import Estimate, TableData
from lightning_saliency.studies.engine.files import Content, as_csv, as_json, page_name, result_folder, write_results
from lightning_saliency.studies.retraining.cells import pixels_of
from lightning_saliency.studies.retraining.figures import (
    accuracy_columns,
    combined_columns,
    retraining_curves,
)
from lightning_saliency.studies.retraining.grid import class_count, network_name
from lightning_saliency.studies.retraining.scores import CombinedScores, combined_scores
from lightning_saliency.studies.roar_kar.config import RANDOM
from lightning_saliency.studies.roar_kar.facts import grid_facts
from lightning_saliency.studies.roar_kar.grid import EXAMPLES, RoarKarGrid
from lightning_saliency.studies.seed_differences import (
    SeedDifferences,
    SeedResult,
    chosen_reference,
    estimate_cells,
    plain_estimates,
)


class CombinedEstimates(NamedTuple):
    """KAR, −ROAR and SUM of an explainer, with intervals over seeds, and the difference of SUM to the random map's."""

    kar: Estimate
    roar: Estimate
    sum: Estimate
    over_random: Estimate


@dataclass(frozen=True)
class RoarKarResult(SeedResult):
    """The results of a ROAR and KAR study.

    Args:
        network: Name of the network that was trained.
        modes: ``"roar"``, ``"kar"`` or both.
        fractions: Shares of the pixels, in (0, 1).
        seeds: Seeds; every cell is trained once for each.
        accuracies: Explainer -> mode -> fraction -> one accuracy in [0, 1] for each seed.
        unmasked: The accuracy on whole images, for each seed.
        confidence: Level of the confidence intervals over seeds.
        facts: Names and values that describe the study, for the report.
        examples: Images and maps, as PNG in base64: ``{"images": [...], "maps": {explainer: [...]}}``.
        folder: Where ``save`` writes by default.
        reference: The explainer whose differences to the others are shown; ``None``: the first that is not random.
            ``dataclasses.replace(result, reference="std")`` changes it.
        classes: Number of classes, where it is known.

    Raises:
        ValueError: If the reference is not one of the explainers.
    """

    network: str
    modes: tuple[str, ...]
    fractions: tuple[float, ...]
    seeds: tuple[int, ...]
    accuracies: Mapping[str, Mapping[str, Mapping[float, Sequence[float]]]]
    unmasked: Sequence[float]
    confidence: float = 0.95
    facts: Sequence[tuple[str, str]] = ()
    examples: Mapping[str, Any] | None = field(default=None, repr=False)
    folder: Path | None = None
    reference: str | None = None
    classes: int | None = None

    def __post_init__(self) -> None:
        first = next((name for name in self.accuracies if name != RANDOM), None)
        if self.reference is not None or first is not None:
            object.__setattr__(self, "reference", chosen_reference(self.reference, list(self.accuracies), first))

    @classmethod
    def gather(
        cls, grid: RoarKarGrid, unmasked: Mapping[str, Mapping[str, Any]], results: Mapping[str, Mapping[str, Any]]
    ) -> RoarKarResult:
        """Collect the results of a grid's cells.

        Args:
            grid: The study.
            unmasked: Results of its unmasked cells.
            results: Results of its masked cells and, if there are some, of its examples.
        """
        config = grid.config
        accuracies: dict[str, dict[str, dict[float, list[float]]]] = {
            name: {mode: {fraction: [] for fraction in config.fractions} for mode in config.modes}
            for name in config.explainers
        }
        for key in grid.keys:
            accuracies[key.explainer][key.mode][key.fraction].append(results[key.name]["accuracy"])
        return cls(
            network=network_name(grid.training.model),
            modes=config.modes,
            fractions=config.fractions,
            seeds=config.seeds,
            accuracies=accuracies,
            unmasked=[unmasked[f"unmasked-s{seed}"]["accuracy"] for seed in config.seeds],
            confidence=config.confidence,
            facts=grid_facts(grid),
            examples=results.get(EXAMPLES),
            folder=grid.output,
            classes=class_count(grid.training),
        )

    def accuracy(self, explainer: str, mode: str, fraction: float) -> Estimate:
        """The accuracy after retraining, in [0, 1]."""
        return self._interval(self.accuracies[explainer][mode][fraction])

    def whole(self) -> Estimate:
        """The accuracy on whole images, in [0, 1]."""
        return self._interval(self.unmasked)

    def curves(self) -> dict[str, dict[str, list[Estimate]]]:
        """``"kar"`` and ``"roar"`` -> explainer -> the accuracy at each of ``fractions``."""
        return {
            mode: {
                name: [self.accuracy(name, mode, fraction) for fraction in self.fractions] for name in self.accuracies
            }
            for mode in sorted(self.modes)
        }

    def combined(self, explainer: str) -> CombinedEstimates:
        """The columns of the SMOE paper's Table 2, see `combined_scores`, and SUM minus that of the seed's random map.

        Random maps have a SUM of about 0 where the shares lie symmetrically about 50 %, and only there.

        Raises:
            ValueError: If the study has only one of the modes.
        """
        if set(self.modes) != {"kar", "roar"}:
            raise ValueError(f"Got a study of {', '.join(self.modes)} alone. KAR and ROAR make the sum; run both.")
        own, control = self.seed_scores(explainer), self.seed_scores(RANDOM)
        return CombinedEstimates(
            self._interval(own["kar"]),
            self._interval(own["roar"]),
            self._interval(own["sum"]),
            self._interval([mine - other for mine, other in zip(own["sum"], control["sum"], strict=True)]),
        )

    def seed_scores(self, explainer: str) -> dict[str, list[float]]:
        """KAR, −ROAR and SUM of each seed, see `combined_scores`; with one mode, only its score."""
        rows: dict[str, list[list[float]]] = {
            mode: [
                [self.accuracies[explainer][mode][fraction][place] for fraction in self.fractions]
                for place in range(len(self.seeds))
            ]
            for mode in self.modes
        }
        if set(self.modes) == {"kar", "roar"}:
            scores = [combined_scores(kar, roar) for kar, roar in zip(rows["kar"], rows["roar"], strict=True)]
            return {key: [getattr(one, key) for one in scores] for key in CombinedScores._fields}
        (mode,) = self.modes
        sign = 1 if mode == "kar" else -1
        return {mode: [sign * math.fsum(row) for row in rows[mode]]}

    def table(self) -> TableData:
        """KAR, −ROAR and SUM of each explainer, as in the SMOE paper's Table 2."""
        rows: dict[str, dict[str, Estimate]] = {}
        for name in self.accuracies:
            if set(self.modes) == {"kar", "roar"}:
                rows[name] = self.combined(name)._asdict()
            else:
                rows[name] = {mode: self._interval(values) for mode, values in self.seed_scores(name).items()}
        return TableData(combined_columns(self.modes), {self.network: rows}, self._caption())

    def accuracy_table(self) -> TableData:
        """The accuracy at each share of the pixels, in per cent, as in the SMOE paper's Table 5."""
        rows = {
            name: {
                f"{mode}_{100 * fraction:g}": self._interval(self.accuracies[name][mode][fraction], 100)
                for mode in self.modes
                for fraction in self.fractions
            }
            for name in self.accuracies
        }
        whole = self._interval(self.unmasked, 100)
        interval = f" [{whole.low:.2f} to {whole.high:.2f}]" if whole.count > 1 else ""
        caption = f"On whole images: {whole.value:.2f} %{interval}. {self._caption()}"
        return TableData(accuracy_columns(self.modes, self.fractions), {self.network: rows}, caption)

    def tables(self) -> list[TableData]:
        """Scores, differences if there is more than one explainer, and accuracies."""
        differences = [self.differences()] if self._differences().estimates() else []
        return [self.table(), *differences, self.accuracy_table()]

    def example_sheets(self) -> list[Any]:
        """One picture for each example image: how each explainer's map masks it, as in the SMOE paper's Fig. 3."""
        if not self.examples:
            return []
        maps = {name: [pixels_of(one)[0] for one in own] for name, own in self.examples["maps"].items()}
        return [
            mask_sheet(
                pixels_of(image) / 255, {name: own[place] for name, own in maps.items()}, self.modes, self.fractions
            )
            for place, image in enumerate(self.examples["images"])
        ]

    def notices(self) -> list[str]:
        """Whether the network is at chance, and whether there are too few seeds for intervals."""
        accuracy = math.fsum(self.unmasked) / len(self.unmasked)
        return [*chance_notices(self.network, accuracy, self.classes), *seed_notices(len(self.seeds))]

    def sections(self) -> list[Section]:
        """The parts of the report."""
        text = [
            "For each explainer, mode and share of the pixels a network was trained from scratch on masked images and "
            "tested on images masked alike. A map is good where KAR stays high (what it keeps is enough) and ROAR "
            "falls (what it removes was needed).",
            "SUM is the sum of the KAR accuracies less that of the ROAR accuracies; random maps have about 0 where the "
            "shares lie symmetrically about 50 %.",
        ]
        curves = ReportPicture(
            retraining_curves(self.curves(), self.fractions, self.whole()),
            "Accuracy after retraining. " + self._caption(),
        )
        parts = [Section("Retraining on masked images", text, [self.table()], [curves])]
        parts += self._differences().sections(self.network)
        parts.append(Section("Accuracies", (), [self.accuracy_table()]))
        if sheets := self.example_sheets():
            caption = "What the retrained networks are given; in grey what is removed."
            parts.append(Section("Masked images", (), (), [ReportPicture(sheet, caption) for sheet in sheets]))
        return parts

    def save(self, folder: str | Path | None = None, *, made: Made | None = None) -> list[Path]:
        """Write everything.

        Args:
            folder: For ``report.html``, ``table.md``, ``accuracies.csv`` (one line per cell), ``scores.csv``,
                ``differences.csv``, ``results.json``, ``curves.png`` and ``masks_*.png``. ``None``: the study's own
                folder. A layer-masking study may use the same folder: where its page is ``report.html`` already, this
                one's is ``roar_kar.html``.
            made: How the page was made, for its facts.

        Returns:
            The files.

        Raises:
            ValueError: If there is no folder, or a file in it was not written so or was changed since.
        """
        folder = result_folder(folder, self.folder)
        page = page_name(folder, "roar_kar.html", "layer_masking.html", "layer_masking_results.json")
        files: dict[str, Content] = {
            page: render_page("ROAR and KAR", self.sections(), self.facts, notices=self.notices(), made=made),
            "table.md": str(self),
            "accuracies.csv": self._accuracies_csv(),
            "scores.csv": self._scores_csv(),
            "differences.csv": self._differences().csv("explainer"),
            "results.json": as_json(self.as_dict()),
            "curves.png": retraining_curves(self.curves(), self.fractions, self.whole()),
            **{f"masks_{place}.png": sheet for place, sheet in enumerate(self.example_sheets(), start=1)},
        }
        return write_results(folder, files)

    def as_dict(self) -> dict[str, Any]:
        """All accuracies, scores and differences as plain values; an infinite end of an interval is ``None``."""
        return {
            "network": self.network,
            "seeds": list(self.seeds),
            "unmasked": list(self.unmasked),
            "accuracies": [
                {"explainer": name, "mode": mode, "fraction": fraction, "accuracies": list(values)}
                for name, modes in self.accuracies.items()
                for mode, fractions in modes.items()
                for fraction, values in fractions.items()
            ],
            "scores": plain_estimates(self.table().values[self.network]),
            "reference": self.reference,
            "differences": plain_estimates(self._differences().estimates()),
            "facts": dict(self.facts),
        }

    def _differences(self) -> SeedDifferences:
        columns = [column for column in combined_columns(self.modes) if column.key != "over_random"]
        scores = {name: self.seed_scores(name) for name in self.accuracies}
        return SeedDifferences(scores, self.reference, columns, len(self.seeds), self.confidence)

    def _accuracies_csv(self) -> str:
        lines: list[list[Any]] = [["explainer", "mode", "fraction", "seed", "accuracy"]]
        lines += [["", "unmasked", "", seed, value] for seed, value in zip(self.seeds, self.unmasked, strict=True)]
        lines += [
            [name, mode, fraction, seed, value]
            for name, modes in self.accuracies.items()
            for mode, fractions in modes.items()
            for fraction, values in fractions.items()
            for seed, value in zip(self.seeds, values, strict=True)
        ]
        return as_csv(lines)

    def _scores_csv(self) -> str:
        lines: list[list[Any]] = [["explainer", "score", "value", "low", "high", "seeds"]]
        for name, row in self.table().values[self.network].items():
            lines += [[name, key, *estimate_cells(estimate)] for key, estimate in row.items()]
        return as_csv(lines)
