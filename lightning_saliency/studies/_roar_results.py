"""What a ROAR and KAR study found: curves, tables, files and the page that shows them."""

from __future__ import annotations

import base64
import io
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from lightning_saliency.reports.html import ReportPicture, Section, render_page
from lightning_saliency.reports.plots import save_figure
from lightning_saliency.reports.roar_kar import accuracy_columns, combined_columns, mask_sheet, retraining_curves
from lightning_saliency.reports.tables import Estimate, TableData
from lightning_saliency.studies._cells import write_atomically
from lightning_saliency.studies._results import _as_csv
from lightning_saliency.studies._roar_cells import Training
from lightning_saliency.studies._roar_config import RANDOM
from lightning_saliency.studies._roar_grid import EXAMPLES, RoarKarGrid
from lightning_saliency.studies._roar_scores import CombinedScores, combined_scores, seed_interval
from lightning_saliency.studies._training import given_arguments


class CombinedEstimates(NamedTuple):
    """KAR, −ROAR and SUM of an explainer, with intervals over seeds, and SUM's distance from the random map's."""

    kar: Estimate
    roar: Estimate
    sum: Estimate
    over_random: Estimate


@dataclass(frozen=True)
class RoarKarResult:
    """The results of a ROAR and KAR study.

    Args:
        network: Name of the network that was trained.
        modes: ``"roar"``, ``"kar"`` or both.
        fractions: Shares of the pixels, in (0, 1).
        seeds: One training of every cell for each.
        accuracies: Explainer -> mode -> fraction -> one accuracy in [0, 1] for each seed.
        unmasked: The accuracy on whole images, for each seed.
        confidence: Of the intervals over seeds.
        facts: What was studied, for the report.
        examples: Images and maps, as PNG in base64: ``{"images": [...], "maps": {explainer: [...]}}``.
        folder: Where ``save`` writes by default.
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

    @classmethod
    def gather(
        cls, grid: RoarKarGrid, unmasked: Mapping[str, Mapping[str, Any]], results: Mapping[str, Mapping[str, Any]]
    ) -> RoarKarResult:
        """Put the results of a grid's cells in order.

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
            facts=_facts(grid),
            examples=results.get(EXAMPLES),
            folder=grid.output,
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
        """The columns of the SMOE paper's Table 2, see `combined_scores`; random maps have a SUM of about 0.

        Raises:
            ValueError: If the study has one of the modes only.
        """
        if set(self.modes) != {"kar", "roar"}:
            raise ValueError(f"Got a study of {', '.join(self.modes)} alone. KAR and ROAR make the sum; run both.")
        own, control = self._sums(explainer), self._sums(RANDOM)
        return CombinedEstimates(
            self._interval([scores.kar for scores in own]),
            self._interval([scores.roar for scores in own]),
            self._interval([scores.sum for scores in own]),
            self._interval([mine.sum - other.sum for mine, other in zip(own, control, strict=True)]),
        )

    def table(self) -> TableData:
        """KAR, −ROAR and SUM of each explainer, as in the SMOE paper's Table 2."""
        rows: dict[str, dict[str, Estimate]] = {}
        for name in self.accuracies:
            if set(self.modes) == {"kar", "roar"}:
                rows[name] = self.combined(name)._asdict()
            else:
                (mode,) = self.modes
                sign = 1 if mode == "kar" else -1
                totals = [
                    sign * sum(self.accuracies[name][mode][fraction][place] for fraction in self.fractions)
                    for place in range(len(self.seeds))
                ]
                rows[name] = {mode: self._interval(totals)}
        return TableData(combined_columns(self.modes), {self.network: rows}, self._caption())

    def accuracy_table(self) -> TableData:
        """The accuracy at each share of the pixels, in per cent, as in the SMOE paper's Table 5."""
        rows = {
            name: {
                f"{mode}_{100 * fraction:g}": _percent(self.accuracy(name, mode, fraction))
                for mode in self.modes
                for fraction in self.fractions
            }
            for name in self.accuracies
        }
        whole = _percent(self.whole())
        interval = f" [{whole.low:.2f} to {whole.high:.2f}]" if whole.count > 1 else ""
        caption = f"On whole images: {whole.value:.2f} %{interval}. {self._caption()}"
        return TableData(accuracy_columns(self.modes, self.fractions), {self.network: rows}, caption)

    def tables(self) -> list[TableData]:
        """Scores and accuracies."""
        return [self.table(), self.accuracy_table()]

    def __str__(self) -> str:
        return "\n".join(table.markdown() for table in self.tables())

    def example_sheets(self) -> list[Any]:
        """One picture for each example image: how each explainer's map masks it, as in the SMOE paper's Fig. 3."""
        if not self.examples:
            return []
        maps = {name: [_decoded(one)[0] for one in own] for name, own in self.examples["maps"].items()}
        return [
            mask_sheet(
                _decoded(image) / 255, {name: own[place] for name, own in maps.items()}, self.modes, self.fractions
            )
            for place, image in enumerate(self.examples["images"])
        ]

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
        parts.append(Section("Accuracies", (), [self.accuracy_table()]))
        if sheets := self.example_sheets():
            caption = "What the retrained networks are given; in grey what is removed."
            parts.append(Section("Masked images", (), (), [ReportPicture(sheet, caption) for sheet in sheets]))
        return parts

    def save(self, folder: str | Path | None = None) -> list[Path]:
        """Write everything.

        Args:
            folder: For ``report.html``, ``table.md``, ``accuracies.csv`` (a line a cell), ``scores.csv``,
                ``results.json``, ``curves.png`` and ``masks_*.png``. ``None``: the study's own folder.

        Returns:
            The files.

        Raises:
            ValueError: If no folder is given and there is none of the study.
        """
        folder = self.folder if folder is None else Path(folder)
        if folder is None:
            raise ValueError("Got no folder, and the result is of no study's. Give one.")
        texts = {
            "report.html": render_page("ROAR and KAR", self.sections(), self.facts),
            "table.md": str(self),
            "accuracies.csv": self._accuracies_csv(),
            "scores.csv": self._scores_csv(),
            "results.json": json.dumps(self.as_dict(), indent=1, allow_nan=False) + "\n",
        }
        for name, text in texts.items():
            write_atomically(folder / name, text)
        files = [folder / name for name in texts]
        files.append(folder / "curves.png")
        save_figure(retraining_curves(self.curves(), self.fractions, self.whole()), files[-1])
        for place, sheet in enumerate(self.example_sheets(), start=1):
            files.append(folder / f"masks_{place}.png")
            Image.fromarray(sheet).save(files[-1])
        return files

    def as_dict(self) -> dict[str, Any]:
        """All accuracies and scores as plain values."""
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
            "scores": {
                name: {key: vars(estimate) for key, estimate in row.items()}
                for name, row in self.table().values[self.network].items()
            },
            "facts": dict(self.facts),
        }

    def _sums(self, explainer: str) -> list[CombinedScores]:
        """The three scores of each seed."""
        return [
            combined_scores(
                *(
                    [self.accuracies[explainer][mode][fraction][place] for fraction in self.fractions]
                    for mode in ("kar", "roar")
                )
            )
            for place in range(len(self.seeds))
        ]

    def _interval(self, values: Sequence[float]) -> Estimate:
        return seed_interval(values, self.confidence)

    def _caption(self) -> str:
        if len(self.seeds) == 1:
            return "One seed: no intervals."
        return f"Mean of {len(self.seeds)} seeds and its {self.confidence:.0%} Student interval."

    def _accuracies_csv(self) -> str:
        lines: list[list[Any]] = [["explainer", "mode", "fraction", "seed", "accuracy"]]
        lines += [["", "unmasked", "", seed, value] for seed, value in zip(self.seeds, self.unmasked, strict=True)]
        for name, modes in self.accuracies.items():
            for mode, fractions in modes.items():
                for fraction, values in fractions.items():
                    lines += [
                        [name, mode, fraction, seed, value] for seed, value in zip(self.seeds, values, strict=True)
                    ]
        return _as_csv(lines)

    def _scores_csv(self) -> str:
        lines: list[list[Any]] = [["explainer", "score", "value", "low", "high", "seeds"]]
        for name, row in self.table().values[self.network].items():
            lines += [[name, key, *vars(estimate).values()] for key, estimate in row.items()]
        return _as_csv(lines)


def _percent(estimate: Estimate) -> Estimate:
    return Estimate(100 * estimate.value, 100 * estimate.low, 100 * estimate.high, estimate.count)


def _decoded(text: str) -> Tensor:
    """A PNG in base64 as ``[C, H, W]`` float32 in [0, 255]; one channel where it is grey."""
    pixels = torch.from_numpy(np.array(Image.open(io.BytesIO(base64.b64decode(text))))).float()
    return pixels[None] if pixels.ndim == 2 else pixels.permute(2, 0, 1)


def network_name(model: Mapping[str, Any]) -> str:
    """How tables call the network of a module's specification."""
    return str((model.get("init_args") or {}).get("model") or str(model["class_path"]).rpartition(".")[2])


def study_facts(training: Training) -> list[tuple[str, str]]:
    """The network and the data of a study, in words."""
    data = training.data
    options = ", ".join(f"{key}={value}" for key, value in given_arguments(data).items())
    name = str(data["class_path"]).rpartition(".")[2]
    return [("network", network_name(training.model)), ("data", f"{name} ({options})" if options else name)]


def _facts(grid: RoarKarGrid) -> list[tuple[str, str]]:
    config = grid.config
    maps = "of each seed's own network, trained on whole images"
    if config.checkpoint is not None:
        maps = f"of the network in {Path(config.checkpoint).name}"
    stored = [name for name in config.explainers if config.stored(name)]
    explained = "; ".join(
        f"{name} ({', '.join(f'{key}={value}' for key, value in own.items())})" if own else name
        for name, own in config.explainers.items()
    )
    return [
        *study_facts(grid.training),
        ("training", f"{config.epochs} epochs a cell, seeds {', '.join(map(str, config.seeds))}"),
        ("explainers", explained),
        ("maps", maps + (f"; stored once: {', '.join(stored)}" if stored else "")),
        ("removed pixels", f"filled with {config.fill}"),
    ]
