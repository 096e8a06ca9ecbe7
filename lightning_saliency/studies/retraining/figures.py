"""The figures and tables of retraining studies: curves over the share of pixels, bars over scales."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from lightning_saliency.reports.masked_pixels import VERBS
from lightning_saliency.reports.plots import COLORS, DASHES
from lightning_saliency.reports.tables import Column, Estimate, difference_columns

__all__ = [
    "accuracy_columns",
    "combined_columns",
    "difference_columns",
    "quartile_columns",
    "retraining_curves",
    "scale_bars",
    "scale_columns",
    "statistic_columns",
]

_TITLES = {"kar": "KAR: only the most salient pixels kept", "roar": "ROAR: the most salient pixels removed"}
# What columns ask, below their table on the page.
_ABOUT = {
    "kar": "the sum of the accuracies after retraining on the most salient pixels alone: what a map keeps is enough",
    "roar": "the sum of those after retraining without these pixels, with the sign changed: what it removes was needed",
    "sum": "KAR and −ROAR together; about 0 for random maps",
    "difference": "accuracy that a method keeps in KAR, and takes away in ROAR, beyond random maps, over the scales",
    "information": "the same as relative entropies, which count changes of low accuracies more",
    "ranks": "how often a method's score is among the best quarter, half or three quarters of all methods'",
}


def accuracy_columns(modes: Sequence[str], fractions: Sequence[float]) -> list[Column]:
    """The columns of the SMOE paper's Table 5: accuracy in per cent for each mode and share of the pixels.

    Example:
        >>> [column.key for column in accuracy_columns(["kar"], [0.1, 0.5])]
        ['kar_10', 'kar_50']
    """
    return [
        Column(
            f"{mode}_{100 * fraction:g}",
            f"{100 * fraction:g} %",
            "high" if mode == "kar" else "low",
            f"accuracy in %, {mode.upper()}: pixels {VERBS[mode]}",
        )
        for mode in sorted(modes)
        for fraction in sorted(fractions)
    ]


def scale_columns(modes: Sequence[str], scales: int) -> list[Column]:
    """The columns of the SMOE paper's Table 4: accuracy in per cent for each mode and scale.

    Example:
        >>> [column.key for column in scale_columns(["kar"], 2)]
        ['kar_l1', 'kar_l2']
    """
    return [
        Column(
            f"{mode}_l{place}",
            f"L{place}",
            "high" if mode == "kar" else "low",
            f"accuracy in %, {mode.upper()} by scale",
        )
        for mode in modes
        for place in range(1, scales + 1)
    ]


def combined_columns(modes: Sequence[str]) -> list[Column]:
    """The columns of the SMOE paper's Table 2, and how far SUM lies above that of random maps."""
    group = "accuracies summed over the shares of pixels"
    columns = [
        Column(key, title, "high", group, about=_ABOUT[key]) for key, title in (("kar", "KAR"), ("roar", "−ROAR"))
    ]
    if set(modes) < {"kar", "roar"}:
        return [column for column in columns if column.key in modes]
    return [
        *columns,
        Column("sum", "SUM", "high", group, about=_ABOUT["sum"]),
        Column("over_random", "SUM over random", "high", group),
    ]


def statistic_columns() -> list[Column]:
    """The columns of the SMOE paper's Table 1 for one network and data set."""
    group = "masks at one scale, summed over the scales"
    return [
        Column("difference", "Difference (Eq. 8)", "high", group, about=_ABOUT["difference"]),
        Column("information", "Information (Eq. 9), nats", "high", group, about=_ABOUT["information"]),
    ]


def quartile_columns(over: str = "scales and seeds") -> list[Column]:
    """The columns of the SMOE paper's Table 7: how often a method ranks among the first, in per cent.

    Args:
        over: What the conditions are, for the heading.
    """
    return [
        Column(
            f"{score}_{top}",
            f"top {top} %",
            "high",
            f"ranks by {score} score over {over}, in %",
            digits=0,
            about=_ABOUT["ranks"],
        )
        for score in ("difference", "information")
        for top in (25, 50, 75)
    ]


def retraining_curves(
    curves: Mapping[str, Mapping[str, Sequence[Estimate]]],
    fractions: Sequence[float],
    unmasked: Estimate | None = None,
    title: str = "",
) -> Figure:
    """Accuracy after retraining over the share of pixels kept or removed, as in the SMOE paper's Fig. 5.

    Args:
        curves: ``"kar"`` and ``"roar"`` (or one) -> method -> its accuracy in [0, 1] at each fraction. Intervals
            are shaded, but for those of a single seed, which are infinite.
        fractions: The shares of the pixels, in (0, 1).
        unmasked: The accuracy on whole images, drawn as a level line.
        title: Title of the whole figure.

    Returns:
        A figure with its own canvas.

    Raises:
        ValueError: If there is no curve, or a curve does not have a value for each fraction.

    Example:
        >>> curve = [Estimate(0.5, 0.4, 0.6, 3), Estimate(0.7, 0.6, 0.8, 3)]
        >>> figure = retraining_curves({"kar": {"smoe": curve}}, [0.1, 0.5])
        >>> figure.axes[0].get_xlabel()
        'pixels kept in %'
    """
    if not curves or not all(curves.values()):
        raise ValueError("Got no curve. Give at least one method's for each mode.")
    figure = Figure(figsize=(5.4 * len(curves) + 0.4, 4.4), layout="constrained")
    FigureCanvasAgg(figure)
    axes: list[Axes] = list(np.ravel(figure.subplots(1, len(curves), squeeze=False)))
    order = np.argsort(fractions)
    shares = 100 * np.asarray(fractions, dtype=float)[order]
    for axis, (mode, lines) in zip(axes, curves.items(), strict=True):
        for number, (method, estimates) in enumerate(lines.items()):
            if len(estimates) != len(fractions):
                raise ValueError(
                    f"Got {len(estimates)} accuracies of {method!r} for {len(fractions)} fractions. Give one for each."
                )
            color, dash = _style(number)
            mean, low, high = (
                100 * np.asarray([getattr(estimate, part) for estimate in estimates])[order]
                for part in ("value", "low", "high")
            )
            axis.plot(shares, mean, label=method, color=color, linestyle=dash, marker="o", markersize=3.5)
            if np.isfinite([low, high]).all():
                axis.fill_between(shares, low, high, color=color, alpha=0.13, linewidth=0)
        if unmasked is not None:
            axis.axhline(100 * unmasked.value, color="0.35", linewidth=0.9, linestyle=(0, (1, 2)), label="whole images")
        axis.set(xlabel=f"pixels {VERBS.get(mode, mode)} in %", ylabel="accuracy after retraining in %")
        axis.set_title(_TITLES.get(mode, mode), fontsize="medium")
        axis.grid(alpha=0.3)
        # Bands of two or three seeds may be wider than all that there is to be seen.
        values = [100 * estimate.value for estimates in lines.values() for estimate in estimates]
        values += [] if unmasked is None else [100 * unmasked.value]
        room = max(2.0, 0.12 * (max(values) - min(values)))
        axis.set_ylim(max(0.0, min(values) - room), min(100.0, max(values) + room))
    figure.legend(*axes[0].get_legend_handles_labels(), loc="outside lower center", ncols=5, fontsize="x-small")
    figure.suptitle(title)
    return figure


def scale_bars(
    scores: Mapping[str, Sequence[Estimate]], scales: Sequence[str], label: str = "score", title: str = ""
) -> Figure:
    """Each method's score at each scale, as in the SMOE paper's Fig. 4.

    Args:
        scores: Method -> one score per scale, shallow to deep. 0 is the score of a random map.
        scales: Names of the scales.
        label: Label of the vertical axis.
        title: Title of the figure.

    Returns:
        A figure with its own canvas.

    Raises:
        ValueError: If there is no score, or a method does not have one for each scale.

    Example:
        >>> figure = scale_bars({"smoe_scale": [Estimate(0.2, 0.1, 0.3, 3)]}, ["layer1"])
        >>> len(figure.axes[0].patches)
        1
    """
    if not scores or any(len(values) != len(scales) for values in scores.values()):
        raise ValueError(
            f"Got scores of {[len(values) for values in scores.values()]} scales for the scales {list(scales)}. Give "
            "at least one method, and one score of it for each scale."
        )
    figure = Figure(figsize=(max(6.0, 0.16 * len(scores) * len(scales) + 2.6), 4.2), layout="constrained")
    FigureCanvasAgg(figure)
    axis = figure.subplots()
    width = 0.84 / len(scores)
    for number, (method, values) in enumerate(scores.items()):
        places = np.arange(len(scales)) + (number - (len(scores) - 1) / 2) * width
        heights = [estimate.value for estimate in values]
        errors = [
            [max(0.0, estimate.value - estimate.low) if estimate.count > 1 else 0.0 for estimate in values],
            [max(0.0, estimate.high - estimate.value) if estimate.count > 1 else 0.0 for estimate in values],
        ]
        shown = any(estimate.count > 1 for estimate in values)
        axis.bar(
            places,
            heights,
            width,
            label=method,
            color=COLORS[number % len(COLORS)],
            hatch="//" if number >= len(COLORS) else None,
            yerr=errors if shown else None,
            error_kw={"linewidth": 0.7},
        )
    axis.axhline(0, color="0.2", linewidth=0.8)
    axis.set_xticks(
        range(len(scales)), [f"L{number}\n{name}" for number, name in enumerate(scales, start=1)], fontsize=8
    )
    axis.set(ylabel=label)
    axis.grid(axis="y", alpha=0.3)
    figure.legend(*axis.get_legend_handles_labels(), loc="outside lower center", ncols=5, fontsize="x-small")
    figure.suptitle(title, fontsize="medium")
    return figure


def _style(number: int) -> tuple[str, str]:
    return COLORS[number % len(COLORS)], DASHES[number // len(COLORS) % len(DASHES)]
