"""Plots of a comparison as matplotlib figures, drawn without pyplot and its global state."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from torch import Tensor

from lightning_saliency.files import file_of_this_machine
from lightning_saliency.functional.curves import auc
from lightning_saliency.functional.masking import resize_maps
from lightning_saliency.functional.visualization import highlight
from lightning_saliency.reports.tables import Column, Estimate

__all__ = ["COLORS", "DASHES", "Example", "bar_plot", "curve_plot", "example_sheet", "save_figure", "sweep_plot"]

#: Nine that the colour-blind can distinguish, too (Okabe and Ito, 2008), with dashes from the tenth method on.
COLORS = ("#0072b2", "#e69f00", "#009e73", "#cc79a7", "#56b4e9", "#d55e00", "#000000", "#b8a800", "#777777")
DASHES = ("-", "--", ":", "-.")


@dataclass(frozen=True)
class Example:
    """An image, a method's map of it or none, and the map's score.

    Args:
        image: ``[3, H, W]`` in [0, 1].
        saliency: ``[h, w]`` in [0, 1], any size; ``None``: the image alone.
        boxes: ``[n, 4]`` as x1, y1, x2, y2 in the image's pixels, or ``None``.
        title: Text above the image.
        mask: ``[H, W]`` bool, whose outline is drawn in place of the boxes; ``None``: not known.
    """

    image: Tensor
    saliency: Tensor | None
    boxes: Tensor | None
    title: str
    mask: Tensor | None = None


def curve_plot(curves: Mapping[str, Mapping[str, Sequence[float]]], title: str = "") -> Figure:
    """Mean insertion and deletion curves, one line per method.

    Args:
        curves: ``"insertion"`` and ``"deletion"`` (or other names) -> method -> score at evenly spaced shares of the
            pixels, from none to all.
        title: Title of the whole figure.
    """
    figure = Figure(figsize=(6.2 * max(1, len(curves)), 4.6), layout="constrained")
    axes: list[Axes] = list(np.ravel(figure.subplots(1, max(1, len(curves)), squeeze=False)))
    verbs = {"insertion": "inserted", "deletion": "deleted"}
    for axis, (kind, lines) in zip(axes, curves.items(), strict=False):
        for number, (method, values) in enumerate(lines.items()):
            axis.plot(
                np.linspace(0, 100, len(values)),
                values,
                label=f"{method} ({100 * float(auc(torch.tensor(values))):.1f})",
                color=COLORS[number % len(COLORS)],
                linestyle=DASHES[number // len(COLORS) % len(DASHES)],
            )
        axis.set(xlabel=f"pixels {verbs.get(kind, kind)} in %", ylabel="score of the class", title=kind, xlim=(0, 100))
        axis.legend(fontsize="x-small", title="area below, in %", title_fontsize="x-small")
        axis.grid(alpha=0.3)
    figure.suptitle(title)
    return figure


def bar_plot(columns: Sequence[Column], values: Mapping[str, Mapping[str, Estimate]], title: str = "") -> Figure:
    """One panel per metric and one bar per method, with its interval.

    Args:
        columns: The metrics.
        values: Method -> column's key -> value.
        title: Title of the whole figure.
    """
    wide = min(4, max(1, len(columns)))
    high = -(-len(columns) // wide) or 1
    figure = Figure(figsize=(3.4 * wide, (0.9 + 0.24 * len(values)) * high + 0.4), layout="constrained")
    axes: list[Axes] = list(np.ravel(figure.subplots(high, wide, squeeze=False)))
    names = list(values)
    for axis, column in zip(axes, columns, strict=False):
        for place, name in enumerate(names):
            estimate = values[name].get(column.key)
            if estimate is None:
                continue
            # A percentile interval need not contain the estimate itself.
            error = [[max(0.0, estimate.value - estimate.low)], [max(0.0, estimate.high - estimate.value)]]
            axis.barh(place, estimate.value, xerr=error, color=COLORS[place % len(COLORS)], capsize=2, height=0.75)
        axis.set_yticks(range(len(names)), names, fontsize="x-small")
        axis.invert_yaxis()
        if column.better is None and any(row[column.key].value > 0 for row in values.values() if column.key in row):
            # What a map costs differs by orders of magnitude from one method to another.
            axis.set_xscale("log")
        axis.set_title(column.title + {"high": " ↑", "low": " ↓", None: ""}[column.better], fontsize="small")
        axis.tick_params(axis="x", labelsize="x-small")
        axis.grid(axis="x", alpha=0.3)
    for axis in axes[len(columns) :]:
        axis.set_axis_off()
    figure.suptitle(title)
    return figure


def sweep_plot(
    columns: Sequence[Column], rows: Sequence[tuple[object, Mapping[str, Estimate]]], option: str, title: str = ""
) -> Figure:
    """One panel per metric: its values over those of an option, evenly spaced, with their intervals.

    Args:
        columns: The metrics.
        rows: Each value of the option, in order, and column's key -> value.
        option: Name of the option.
        title: Title of the whole figure.
    """
    wide = min(4, max(1, len(columns)))
    high = -(-len(columns) // wide) or 1
    figure = Figure(figsize=(3.4 * wide, 2.6 * high + 0.4), layout="constrained")
    axes: list[Axes] = list(np.ravel(figure.subplots(high, wide, squeeze=False)))
    for axis, column in zip(axes, columns, strict=False):
        known = [(place, values[column.key]) for place, (_, values) in enumerate(rows) if column.key in values]
        places = [place for place, _ in known]
        means = [estimate.value for _, estimate in known]
        axis.plot(places, means, marker="o", markersize=3, color=COLORS[0])
        axis.fill_between(
            places, [one.low for _, one in known], [one.high for _, one in known], color=COLORS[0], alpha=0.2
        )
        axis.set_xticks(
            range(len(rows)), ["null" if value is None else str(value) for value, _ in rows], fontsize="x-small"
        )
        axis.set_title(column.title + {"high": " ↑", "low": " ↓", None: ""}[column.better], fontsize="small")
        axis.set_xlabel(option, fontsize="x-small")
        axis.tick_params(axis="y", labelsize="x-small")
        axis.grid(alpha=0.3)
    for axis in axes[len(columns) :]:
        axis.set_axis_off()
    figure.suptitle(title)
    return figure


def example_sheet(rows: Mapping[str, Sequence[Example]], headings: Sequence[str], title: str = "") -> Figure:
    """Images overlaid with maps, one row per method.

    Args:
        rows: Method -> its examples, one for each heading.
        headings: Headings of the columns, for example best, median, worst.
        title: Title of the whole figure.
    """
    count = max(1, len(headings))
    figure = Figure(figsize=(2.3 * count + 0.6, 2.55 * max(1, len(rows)) + 0.5), layout="constrained")
    grid = figure.subplots(max(1, len(rows)), count, squeeze=False)
    for row, (method, examples) in enumerate(rows.items()):
        for column, example in enumerate(examples):
            axis: Axes = grid[row, column]
            shown = example.image
            if example.saliency is not None:
                saliency = resize_maps(example.saliency, (shown.shape[1], shown.shape[2]))
                shown = highlight(shown[None], saliency[None])[0]
            axis.imshow(shown.permute(1, 2, 0).clamp(0, 1).cpu().numpy())
            if example.mask is not None:
                axis.contour(example.mask.float().cpu().numpy(), levels=[0.5], colors="white", linewidths=1.0)
            for x1, y1, x2, y2 in [] if example.boxes is None or example.mask is not None else example.boxes.tolist():
                axis.add_patch(Rectangle((x1 - 0.5, y1 - 0.5), x2 - x1, y2 - y1, fill=False, edgecolor="white"))
            heading = f"{headings[column]}\n" if row == 0 else ""
            axis.set_title(heading + example.title, fontsize="xx-small")
            axis.set(xticks=[], yticks=[])
        grid[row, 0].set_ylabel(method, fontsize="small")
    figure.suptitle(title, fontsize="small")
    return figure


def save_figure(figure: Figure, path: str | Path, dots_per_inch: int = 130) -> None:
    """Write a figure; the ending of the path says the format (``.png``, ``.svg``, ``.pdf``)."""
    path = file_of_this_machine(path, "figure")
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.suffix == ".png":
        # The canvas of no window system, whatever backend the process has chosen.
        FigureCanvasAgg(figure)
    figure.savefig(path, dpi=dots_per_inch)
