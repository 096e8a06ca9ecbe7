"""Networks × explainers × metrics over images: the comparison that the papers' tables are made of."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import cached_property
from pathlib import Path
from typing import Any

from lightning_saliency import __version__
from lightning_saliency.explainers import ExplainerSpec
from lightning_saliency.explainers.mask_scoring.precisions import Precision
from lightning_saliency.explainers.registry import plain_value
from lightning_saliency.files import safe_name
from lightning_saliency.networks import weights_fingerprint
from lightning_saliency.studies.comparison.cells import explain_block, fastest_precision, time_explainer, time_scoring
from lightning_saliency.studies.comparison.config import ComparisonConfig
from lightning_saliency.studies.comparison.results import ComparisonResult
from lightning_saliency.studies.comparison.table_rows import mean_lines
from lightning_saliency.studies.costs import timing_cell
from lightning_saliency.studies.engine.cell import Cell
from lightning_saliency.studies.engine.plan import Plan, plan_row
from lightning_saliency.studies.engine.run import run_cells
from lightning_saliency.studies.engine.shared import sharing
from lightning_saliency.studies.recipes import (
    Recipe,
    check_classes,
    chosen_device,
    data_recipe,
    device_of,
    model_recipe,
    network_from,
)
from lightning_saliency.studies.samples import Samples

_CURVES = {"insertion", "deletion", "overall"}


def run_comparison(
    config: ComparisonConfig | None = None, /, *, progress: bool = True, **options: Any
) -> ComparisonResult:
    """Explain images with several explainers and measure the maps.

    Every explainer explains every class of every image. The images are processed in blocks, each by all explainers, so
    that the total time is known after the first block. Each result is its own file, written in one step: if the
    study is killed, the next call computes what is missing.

    Args:
        config: The comparison; or its fields as options.
        progress: Whether a bar with the time left is shown on the error stream.
        **options: The fields of `ComparisonConfig`, where no config is given.

    Returns:
        The results: ``print(result)`` shows the tables, ``result.save()`` writes tables, plots and one HTML page into
        the output folder, ``result.save(folder)`` into another.

    Raises:
        CellError: If an explainer failed; the other cells are still computed.
        FileNotFoundError: If a file does not exist.
        StaleResultsError: If the output folder holds results of other weights, options, data or metrics.
        TypeError: If an explainer has no such option, or the data are of another type.
        ValueError: If a name is unknown or an option out of range.

    Example:
        >>> import torch
        >>> from torch import nn
        >>> network = nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten())
        >>> images, targets = torch.rand(4, 3, 16, 16), torch.tensor([0, 1, 2, 3])
        >>> result = run_comparison(
        ...     models=network, data=images, targets=targets, explainers=["grad_cam", "random"], metrics=["drop"],
        ...     progress=False,
        ... )
        >>> result.estimates["Sequential"]["grad_cam"]["drop"].count
        4
    """
    config = ComparisonConfig(**options) if config is None else config
    with _opened(config) as study:
        study.check()
        results = run_cells(study.cells(), study.folder / "cells", **config.engine_options(), progress=progress)
        return study.result(results)


def plan_comparison(config: ComparisonConfig | None = None, /, **options: Any) -> Plan:
    """What a comparison costs, without running it.

    The time is estimated from finished cells, or else from one map of each explainer and a few scored images, which are
    timed now and kept in ``<output>/costs``. An explainer that scores masked images is timed on as many as fit into a
    tenth of a second.

    Args:
        config: The comparison; or its fields as options.
        **options: As for `run_comparison`.

    Returns:
        A row for each network and explainer; ``print(plan)`` shows them.
    """
    config = ComparisonConfig(**options) if config is None else config
    with _opened(config) as study:
        return study.plan()


class _Study:
    """A comparison and the objects that its cells share."""

    def __init__(
        self, config: ComparisonConfig, folder: Path, models: Mapping[str, Recipe], data: Recipe, samples: Samples
    ) -> None:
        self.config, self.folder = config, folder
        self.models, self.data, self.samples = models, data, samples
        self.device = chosen_device(config.device)
        self.columns = config.metrics.columns(samples.objects)
        count = len(samples)
        self.spans = [(start, min(start + config.chunk, count)) for start in range(0, count, config.chunk)]
        self._content = {
            "data": samples.fingerprint(),
            "metrics": plain_value(config.metrics),
            "chunk": config.chunk,
            "version": __version__,
        }

    def check(self) -> None:
        """Build every network and explainer, to find errors before anything is computed."""
        for name, recipe in self.models.items():
            network = network_from(recipe, self.device)
            for explainer in self.config.explainers.values():
                explainer(network)
            first = next(iter(self.config.explainers.values()))
            logits = first(network).logits(self.samples[0].image[None].to(device_of(network)))
            check_classes(self.samples, logits, name)

    def cells(self) -> list[Cell]:
        """Block by block of the images, all networks and explainers."""
        pairs = self.samples.pairs
        weights = self._weights
        return [
            Cell(
                self._name(number, model, row),
                explain_block,
                {
                    "model": recipe,
                    "row": row,
                    "explainer": explainer,
                    "data": self.data,
                    "span": span,
                    "metrics": self.config.metrics,
                    "native": self._native,
                    "device": self.device,
                },
                {
                    "weights": weights[model],
                    "explainer options": explainer.plain(),
                    "native precision": self._used_native(explainer),
                    **self._content,
                },
                group=f"{model} {row}",
                steps=sum(pairs[span[0] : span[1]]),
            )
            for number, span in enumerate(self.spans)
            for model, recipe in self.models.items()
            for runs in self.config.runs.values()
            for row, explainer in runs.items()
        ]

    @cached_property
    def _native(self) -> Precision | None:
        """The precision in which the device is fastest, for all cells.

        It is found out once and kept with the study: on a processor it is a matter of timing, and another process, or
        the study when it is resumed, may find another one.
        """
        place = {"device": self.device}
        cell = timing_cell("precision", fastest_precision, place, place)
        found: Precision | None = run_cells([cell], self.folder / "costs", progress=False)[cell.name]["precision"]
        return found

    def _used_native(self, explainer: ExplainerSpec) -> Precision | None:
        """The native precision if curves or maps are computed in it; ``None`` also for float32."""
        curves = self.config.metrics.precision == "native" and _CURVES & {column.key for column in self.columns}
        fast = explainer.option("fast") and explainer.option("precision") is None
        return self._native if curves or fast else None

    @cached_property
    def _weights(self) -> dict[str, str]:
        return {name: weights_fingerprint(network_from(recipe)) for name, recipe in self.models.items()}

    def result(self, results: Mapping[str, Mapping[str, Any]]) -> ComparisonResult:
        """Put the results of all cells in order."""
        config = self.config
        rows = {
            model: {
                row: mean_lines(
                    [
                        [
                            line
                            for number in range(len(self.spans))
                            for line in results[self._name(number, model, run)]["rows"]
                        ]
                        for run in runs
                    ]
                )
                for row, runs in config.runs.items()
            }
            for model in self.models
        }
        return ComparisonResult(
            rows,
            self.columns,
            self._caption(results),
            self.samples,
            config.resamples,
            config.confidence,
            config.seed,
            config.pairs,
            config.swept,
            folder=None if config.output is None else self.folder,
        )

    def plan(self) -> Plan:
        """What is left to be done."""
        cells = self.cells()
        costs = self.folder / "costs"
        size = list(self.samples[0].image.shape)
        timings = {
            (model, row): timing_cell(
                f"{safe_name(model)}-{safe_name(row)}",
                time_explainer,
                {"model": recipe, "explainer": explainer, "data": self.data, "device": self.device},
                {
                    "weights": self._weights[model],
                    "explainer options": explainer.plain(),
                    "image size": size,
                    "device": self.device,
                },
            )
            for model, recipe in self.models.items()
            for runs in self.config.runs.values()
            for row, explainer in runs.items()
        }
        scorings = {
            model: timing_cell(
                f"{safe_name(model)}--scoring",
                time_scoring,
                {"model": recipe, "data": self.data, "metrics": self.config.metrics, "device": self.device},
                {
                    "weights": self._weights[model],
                    "precision": self.config.metrics.precision,
                    "score": self.config.metrics.score,
                    "image size": size,
                    "device": self.device,
                },
            )
            for model, recipe in self.models.items()
        }
        found = run_cells([*timings.values(), *scorings.values()], costs, progress=False)
        scored = self.config.metrics.passes(self.samples.objects)
        rows = []
        for (model, row), timing in timings.items():
            own = [cell for cell in cells if cell.group == f"{model} {row}"]
            cost = found[timing.name]
            each = sum(cell.steps for cell in own) / len(own)
            seconds = cost["seconds"] + scored * found[scorings[model].name]["seconds"]
            passes = cost["passes"] + scored
            rows.append(plan_row(f"{model}: {row}", self.folder / "cells", own, 0, each * passes, 0, each * seconds))
        return Plan(rows, self.config.plan_workers())

    @staticmethod
    def _name(number: int, model: str, row: str) -> str:
        return f"{number:05d}-{safe_name(model)}-{safe_name(row)}"

    def _caption(self, results: Mapping[str, Mapping[str, Any]]) -> str:
        """What was measured, on what, how and where."""
        config, metrics = self.config, self.config.metrics
        options = [
            f"{row} ({_without_brackets(spec)}{_of_runs(len(config.runs[row]))})"
            for row, spec in config.explainers.items()
            if spec.init_args or spec.name != row or len(config.runs[row]) > 1
        ]
        keys = {column.key.partition("_")[0] for column in self.columns}
        native = f" in {self._native or 'float32'}, the device's fastest precision"
        precision = native if metrics.precision == "native" else f" in {metrics.precision}" if metrics.precision else ""
        parts = [f"{self.samples.description()}.", "Scores in %."]
        for described, text in (
            (
                _CURVES,
                f"Insertion and deletion: {metrics.steps} steps from and to {metrics.curve_fill}, "
                f"{metrics.score} scores{precision}.",
            ),
            (
                {"drop", "increase"},
                f"Drop and increase: top {metrics.kept_fraction:.0%} kept, {metrics.fill} elsewhere.",
            ),
            ({"miou"}, f"mIoU: top {metrics.top_fraction:.0%}."),
            ({"pointing"}, "Pointing: mean over classes."),
        ):
            if keys & described:
                parts.append(text)
        if options:
            parts.append(f"Options: {'; '.join(options)}.")
        # Results of earlier versions do not tell.
        machines = dict.fromkeys(result.get("machine", "a machine that was not noted") for result in results.values())
        parts.append(f"Times on {' and '.join(machines)}.")
        faster = [row for row, spec in config.explainers.items() if spec.init_args.get("fast")]
        if faster and len(faster) < len(config.explainers):
            parts.append(
                f"Seconds of {', '.join(faster)} are of a faster copy of the network (fast), those of the others of "
                "the network itself: between the two compare passes, not seconds."
            )
        parts.append(
            f"Intervals: {config.confidence:.0%} bootstrap over images ({config.resamples} draws, seed {config.seed})."
        )
        return " ".join(parts)


def _without_brackets(spec: ExplainerSpec) -> str:
    listed = ", ".join(f"{key}={plain_value(value)}" for key, value in sorted(spec.init_args.items()))
    return f"{spec.name}: {listed}" if listed else spec.name


def _of_runs(count: int) -> str:
    return f"; mean of {count} runs" if count > 1 else ""


@contextmanager
def _opened(config: ComparisonConfig) -> Iterator[_Study]:
    """The comparison, with its networks and images shared for as long as it is computed."""
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary).resolve() if config.output is None else config.folder
        with sharing(folder, config.elsewhere) as share:
            models = {
                name: model_recipe(model, f"model-{safe_name(name)}", share) for name, model in config.models.items()
            }
            data, samples = data_recipe(config.data, config.targets, config.limit, config.seed, share)
            yield _Study(config, folder, models, data, samples)
