"""The figure of a comparison of augmentations: each arm's difference to the reference, with its interval."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Literal

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from lightning_saliency.reports.tables import Estimate

__all__ = ["ROLES", "Role", "difference_figure"]

Role = Literal["guided", "control", "other"]
#: Colours of the roles, which the colour-blind can tell apart (Okabe and Ito, 2008), and their names in the legend.
ROLES: dict[Role, tuple[str, str]] = {
    "guided": ("#0072b2", "guided by saliency maps"),
    "control": ("#d55e00", "control: masks independent of the image"),
    "other": ("#777777", "other augmentations"),
}


def difference_figure(
    panels: Mapping[str, Mapping[str, Estimate]],
    roles: Mapping[str, Role],
    axis_label: str,
    title: str = "",
    runs: Mapping[str, Mapping[str, Sequence[float]]] | None = None,
) -> Figure:
    """Points with intervals, one row per arm, one panel per budget; zero is the reference.

    Args:
        panels: Budget -> arm -> difference. An infinite interval, that of a single seed, is not drawn.
        roles: Arm -> its kind, which gives its colour.
        axis_label: Label of the axis of differences.
        title: Title of the whole figure.
        runs: Budget -> arm -> the difference of each seed, drawn as small ticks.

    Raises:
        ValueError: If there is nothing to show.
    """
    if not panels or not any(panels.values()):
        raise ValueError("Got no difference to draw. Give at least one budget with an arm besides the reference.")
    rows = max(len(arms) for arms in panels.values())
    figure = Figure(figsize=(1.2 + 4.2 * len(panels), 1.5 + 0.3 * rows), layout="constrained")
    axes: list[Axes] = list(np.ravel(figure.subplots(1, len(panels), squeeze=False, sharex=True)))
    for axis, (budget, arms) in zip(axes, panels.items(), strict=True):
        axis.axvline(0, color="black", linewidth=0.8)
        for place, (name, estimate) in enumerate(arms.items()):
            color = ROLES[roles[name]][0]
            if math.isfinite(estimate.low) and math.isfinite(estimate.high):
                axis.plot([estimate.low, estimate.high], [place, place], color=color, linewidth=1.8)
            each = (runs or {}).get(budget, {}).get(name, ())
            axis.plot(each, [place] * len(each), linestyle="", marker="|", markersize=9, color=color, alpha=0.6)
            axis.plot([estimate.value], [place], marker="o", markersize=5, color=color)
        axis.set_yticks(range(len(arms)), list(arms), fontsize="small")
        axis.set_ylim(len(arms) - 0.5, -0.5)
        axis.set_title(budget, fontsize="small")
        axis.set_xlabel(axis_label, fontsize="small")
        axis.tick_params(axis="x", labelsize="small")
        axis.grid(axis="x", alpha=0.3)
    shown = {roles[name] for arms in panels.values() for name in arms}
    handles = [
        Line2D([], [], color=color, marker="o", markersize=5, label=label)
        for role, (color, label) in ROLES.items()
        if role in shown
    ]
    figure.legend(handles=handles, loc="outside lower center", ncols=len(handles), fontsize="x-small")
    figure.suptitle(title)
    return figure
