"""What a comparison found: estimates, tables, files and plots."""

from __future__ import annotations

import base64
import math
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from matplotlib.figure import Figure
from torch import Tensor

from lightning_saliency.checks import plural
from lightning_saliency.files import safe_names
from lightning_saliency.pictures.tensors import displayable
from lightning_saliency.reports.html import ReportPicture, Section, render_page
from lightning_saliency.reports.notices import Made, chance_notices, image_notices
from lightning_saliency.reports.plots import Example, bar_plot, curve_plot, example_sheet, sweep_plot
from lightning_saliency.reports.tables import Column, Estimate, TableData
from lightning_saliency.studies.comparison.measuring import KEPT_SIDE
from lightning_saliency.studies.comparison.table_rows import Sweep
from lightning_saliency.studies.engine.files import Content, as_csv, as_json, result_folder, write_results
from lightning_saliency.studies.estimates import bootstrap_mean
from lightning_saliency.studies.samples import Samples

#: One line a pair of image and class.
Rows = list[dict[str, Any]]
Estimates = dict[str, dict[str, dict[str, Estimate]]]

_COST = "cost"
COST_COLUMNS = (
    Column("seconds", "s/map", None, _COST, digits=3, about="seconds that a map takes"),
    Column("passes", "passes/map", None, _COST, digits=1, about="images that are passed through the network for a map"),
)
HEADINGS = ("best", "median", "worst")


@dataclass
class ComparisonResult:
    """The results of a comparison of explainers.

    Attributes:
        rows: Network -> explainer -> one row per pair of image and class, in the order of the data.
        columns: The metrics measured.
        caption: How the numbers were obtained.
        samples: The images, for the sheets of examples.
        resamples: Draws of the bootstrap.
        confidence: Level of the confidence intervals.
        seed: Seed of the bootstrap's random draws.
        pairs: Explainers that are compared with one another, image by image, see `differences`.
        sweeps: Explainers at several values of an option, which are plotted over them.
        folder: Where `save` writes by default.
    """

    rows: dict[str, dict[str, Rows]]
    columns: list[Column]
    caption: str
    samples: Samples = field(repr=False)
    resamples: int = 2000
    confidence: float = 0.95
    seed: int = 0
    pairs: Sequence[tuple[str, str]] = ()
    sweeps: Sequence[Sweep] = ()
    folder: Path | None = None

    @cached_property
    def estimates(self) -> Estimates:
        """Network -> explainer -> metric -> mean and interval; also of ``seconds`` and ``passes``."""
        return {
            network: {name: self._estimates(rows) for name, rows in methods.items()}
            for network, methods in self.rows.items()
        }

    def table(self) -> TableData:
        """All explainers and metrics, to be printed by ``rich`` or as Markdown."""
        return TableData([*self.columns, *COST_COLUMNS], self.estimates, self.caption)

    def differences(self) -> TableData:
        """For each of ``pairs`` and each metric: the first explainer minus the second, paired by image and class.

        The interval of a difference is narrower than those of the two explainers suggest, since an image that is hard
        for one is hard for the other.
        """
        values = {
            network: {
                f"{first} − {second}": self._differences(methods[first], methods[second])
                for first, second in self.pairs
            }
            for network, methods in self.rows.items()
        }
        columns = [
            replace(column, better=None, group=f"{column.group}, differences", about="") for column in self.columns
        ]
        return TableData(columns, values, "Differences: the first less the second, paired by image and class.")

    def tables(self) -> list[TableData]:
        """All explainers and metrics, and the differences if there are pairs."""
        return [table for table in (self.table(), self.differences()) if any(table.values.values())]

    def __str__(self) -> str:
        return "\n".join(table.markdown() for table in self.tables())

    def facts(self) -> list[tuple[str, str]]:
        """Names and values that describe the comparison, for the page."""
        accuracies = [
            f"{network} {100 * sum(right) / len(right):.1f} % of {plural(len(right), 'image')}"
            for network in self.rows
            if (right := self._right(network))
        ]
        explainers = list(dict.fromkeys(name for methods in self.rows.values() for name in methods))
        return [
            ("networks", ", ".join(self.rows)),
            *([("accuracy", "; ".join(accuracies))] if accuracies else []),
            ("images", self.samples.description()),
            ("explainers", ", ".join(explainers)),
            ("metrics", ", ".join(column.title for column in self.columns)),
            ("seed", str(self.seed)),
        ]

    def curves(self, network: str) -> dict[str, dict[str, list[float]]]:
        """``"insertion"`` and ``"deletion"``, where measured -> explainer -> the mean curve."""
        found: dict[str, dict[str, list[float]]] = {}
        for kind in ("insertion", "deletion"):
            lines = {
                name: np.mean([row["curves"][kind] for row in rows], axis=0).tolist()
                for name, rows in self.rows[network].items()
                if all(kind in row["curves"] for row in rows)
            }
            if lines:
                found[kind] = lines
        return found

    def examples(self, network: str) -> dict[str, list[Example]]:
        """``"photo"`` and each explainer -> the same three images, without and with its maps.

        Those on which the explainers' mean score is best, median and worst: the over-all score, or another where it is
        missing.
        """
        column, methods = self._ordering(), self.rows[network]
        scores = [
            [row["scores"].get(column.key, math.nan) for row in rows] for rows in zip(*methods.values(), strict=True)
        ]
        sign = 1 if column.better == "low" else -1
        means = {place: sign * sum(each) / len(each) for place, each in enumerate(scores) if not math.isnan(sum(each))}
        ordered = sorted(means, key=lambda place: means[place])
        chosen = [ordered[0], ordered[(len(ordered) - 1) // 2], ordered[-1]]
        found = {name: [self._example(rows[place], column) for place in chosen] for name, rows in methods.items()}
        labels = [next(iter(methods.values()))[place]["label"] for place in chosen]
        photos = [
            replace(example, saliency=None, title=label)
            for example, label in zip(next(iter(found.values())), labels, strict=True)
        ]
        return {"photo": photos, **found}

    def notices(self) -> list[str]:
        """Which networks are at chance, and whether there are too few images for intervals."""
        found: list[str] = []
        for network, methods in self.rows.items():
            rows = next(iter(methods.values()), [])
            right = self._right(network)
            accuracy = sum(right) / len(right) if right else None
            found += chance_notices(network, accuracy, rows[0].get("classes") if rows else None, len(right))
        return [*found, *image_notices(len(self.samples))]

    def sections(self) -> list[Section]:
        """The parts of the page."""
        parts = [Section("Scores", (), self.tables())]
        for network in self.rows:
            pictures = [ReportPicture(figure, caption) for figure, caption in self._figures(network).values()]
            parts.append(Section(network, (), (), pictures))
        return parts

    def save(self, folder: str | Path | None = None, *, made: Made | None = None) -> list[Path]:
        """Write everything.

        Args:
            folder: For ``report.html``; ``table.md``; ``summary.csv`` (one line per network, explainer and metric),
                ``results.csv`` (one line per map), ``results.json``; and for each network ``curves_*.png``,
                ``bars_*.png``, ``examples_*.png`` and ``sweep_*.png``. ``None``: the comparison's own folder.
            made: How the page was made, for its facts.

        Returns:
            The files.

        Raises:
            ValueError: If there is no folder, or a file in it was not written so or was changed since.
        """
        folder = result_folder(folder, self.folder)
        names = safe_names(self.rows)
        files: dict[str, Content] = {
            "report.html": render_page(
                "Explainers compared", self.sections(), self.facts(), notices=self.notices(), made=made
            ),
            "table.md": str(self),
            "summary.csv": self._summary(),
            "results.csv": self._all_rows(),
            "results.json": as_json(self.as_dict()),
            **{
                f"{kind}_{names[network]}.png": figure
                for network in self.rows
                for kind, (figure, _) in self._figures(network).items()
            },
        }
        return write_results(folder, files)

    def _right(self, network: str) -> list[bool]:
        """Whether a network is right, for each image of which it is known; results of earlier versions do not tell."""
        rows = next(iter(self.rows[network].values()), [])
        return list({row["sample"]: row["right"] for row in rows if row.get("right") is not None}.values())

    def _figures(self, network: str) -> dict[str, tuple[Figure, str]]:
        """Kind -> figure and caption."""
        figures = {
            "bars": (
                bar_plot([*self.columns, *COST_COLUMNS], self.estimates[network], network),
                "Every metric of every explainer, with its interval.",
            ),
            "examples": (
                example_sheet(self.examples(network), HEADINGS, f"{network}, by {_within(self._ordering().title)}"),
                f"Three images: those on which the explainers' mean score ({_within(self._ordering().title)}) is best, "
                "median and worst. Above each map its own score; in white the object's box or outline. Purple: some, "
                "yellow: most; each map is stretched to its own range.",
            ),
        }
        for number, sweep in enumerate(self.sweeps):
            rows = [(value, self.estimates[network][row]) for row, value in sweep.rows if row in self.rows[network]]
            figures["sweep" if not number else f"sweep_{number}"] = (
                sweep_plot([*self.columns, *COST_COLUMNS], rows, sweep.option, f"{network}, {sweep.explainer}"),
                f"Every metric over {sweep.option} of {sweep.explainer}, with its interval.",
            )
        if curves := self.curves(network):
            figures["curves"] = (
                curve_plot(curves, network),
                "Mean insertion and deletion curves: the class's score as the most salient pixels are shown first, "
                "or hidden first. In brackets the area below each curve.",
            )
        return figures

    def as_dict(self) -> dict[str, Any]:
        """The estimates, mean curves and caption as plain values."""
        return {
            "caption": self.caption,
            "metrics": {column.key: column.title for column in [*self.columns, *COST_COLUMNS]},
            "results": {
                network: {
                    name: {key: vars(estimate) for key, estimate in values.items()} for name, values in methods.items()
                }
                for network, methods in self.estimates.items()
            },
            "differences": {
                network: {
                    name: {key: vars(estimate) for key, estimate in values.items()} for name, values in pairs.items()
                }
                for network, pairs in self.differences().values.items()
            },
            "curves": {network: self.curves(network) for network in self.rows},
        }

    def _estimates(self, rows: Rows) -> dict[str, Estimate]:
        found = {}
        for column in self.columns:
            measured = [row for row in rows if column.key in row["scores"]]
            if measured:
                # The pointing game is won or lost class by class (Group-CAM, Sec. 4.4).
                by_class = [row["label"] for row in measured] if column.key.startswith("pointing_") else None
                found[column.key] = self._mean([row["scores"][column.key] for row in measured], measured, by_class)
        for column in COST_COLUMNS:
            found[column.key] = self._mean([row[column.key] for row in rows], rows)
        return found

    def _differences(self, first: Rows, second: Rows) -> dict[str, Estimate]:
        """The estimates of the differences between two explainers' scores."""
        rows = [
            {**one, "scores": {key: value - other["scores"][key] for key, value in one["scores"].items()}}
            for one, other in zip(first, second, strict=True)
        ]
        found = self._estimates(rows)
        return {column.key: found[column.key] for column in self.columns if column.key in found}

    def _mean(self, values: Sequence[float], rows: Rows, classes: Sequence[str] | None = None) -> Estimate:
        images = [row["sample"] for row in rows]
        return bootstrap_mean(
            values, images, classes, resamples=self.resamples, confidence=self.confidence, seed=self.seed
        )

    def _ordering(self) -> Column:
        # One that no map has, for want of boxes that cover something, orders nothing.
        measured = {key for methods in self.estimates.values() for found in methods.values() for key in found}
        keys = {column.key: column for column in self.columns if column.key in measured}
        preferred = ("overall", "insertion", "deletion", "ebpg", "drop")
        return next((keys[key] for key in preferred if key in keys), self.columns[0])

    def _example(self, row: dict[str, Any], column: Column) -> Example:
        sample = self.samples[row["sample"]]
        shown, _ = displayable(sample.image[None], self.samples.normalization)
        title = f"{row['scores'][column.key]:.1f}"
        which = sample.labels.index(row["label"])
        return Example(shown[0], decoded_map(row["map"]), sample.boxes[which], title, sample.mask(which))

    def _summary(self) -> str:
        lines: list[list[Any]] = [["network", "explainer", "metric", "value", "low", "high", "count"]]
        for network, methods in self.estimates.items():
            for name, values in methods.items():
                lines += [[network, name, key, *vars(estimate).values()] for key, estimate in values.items()]
        return as_csv(lines)

    def _all_rows(self) -> str:
        plain = ("image", "label", "target", "seconds", "passes")
        lines: list[list[Any]] = [["network", "explainer", *plain, *(column.key for column in self.columns)]]
        for network, methods in self.rows.items():
            for name, rows in methods.items():
                for row in rows:
                    scores = [row["scores"].get(column.key, "") for column in self.columns]
                    lines.append([network, name, *(row[key] for key in plain), *scores])
        return as_csv(lines)


def _within(title: str) -> str:
    """A metric's title within a sentence."""
    return title if title[:2].isupper() or title == "mIoU" else title.lower()


def decoded_map(text: str) -> Tensor:
    """The map that a row keeps, ``[56, 56]`` in [0, 1]."""
    values = np.frombuffer(base64.b64decode(text), dtype=np.uint8).reshape(KEPT_SIDE, KEPT_SIDE)
    return torch.from_numpy(values.copy()).float() / 255
