"""The figure of docs/results/sise_passes.md, made anew from the raw results beside the page.

    python -m tools.passes_plot docs/results/sise_passes/*.csv.gz --out docs/figures/sise_passes.png

Each explainer's difference to SISE with all masks (μ = 0), paired by image and class, with its 95 % interval, over the
passes that a map takes.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

from matplotlib.figure import Figure
from matplotlib.ticker import NullLocator

from lightning_saliency.studies.comparison.results import ComparisonResult
from tools.study_tables import read

REFERENCE = "μ = 0"
#: The line joins these, fewer and fewer masks; the others are points.
LINE = (REFERENCE, "μ = 0.5", "μ = 0.75")
TICKS = (20, 50, 100, 200, 500, 1000)
_ARROWS = {"high": " ↑", "low": " ↓", None: ""}


def plot(result: ComparisonResult, names: Sequence[str]) -> Figure:
    """A row of panels for each network, a panel for each metric, passes on a logarithmic axis.

    Args:
        result: The comparison, its pairs those of each name with the reference.
        names: The explainers that are shown beside the reference.
    """
    columns, differences = result.columns, result.differences().values
    figure = Figure(figsize=(3.6 * len(columns), 3.0 * len(differences) + 0.5), layout="constrained")
    grid = figure.subplots(len(differences), len(columns), squeeze=False)
    for row, (network, found) in zip(grid, differences.items(), strict=True):
        passes = {name: values["passes"].value for name, values in result.estimates[network].items()}
        for axis, column in zip(row, columns, strict=True):
            axis.axhline(0, color="0.6", linewidth=1)
            axis.plot(passes[REFERENCE], 0, "ko", label=f"{REFERENCE}, all masks")
            shown = {name: found[f"{name} − {REFERENCE}"][column.key] for name in names}
            for (name, one), marker in zip(shown.items(), "os^Dv", strict=False):
                ends = [[one.value - one.low], [one.high - one.value]]
                axis.errorbar(passes[name], one.value, ends, fmt=marker, label=name, capsize=2, linewidth=1.2)
            heights = {REFERENCE: 0.0, **{name: one.value for name, one in shown.items()}}
            joined = [name for name in LINE if name in heights]
            axis.plot([passes[name] for name in joined], [heights[name] for name in joined], "0.6", zorder=0)
            axis.set_xscale("log")
            axis.set_xticks(TICKS, [str(tick) for tick in TICKS], minor=False)
            axis.xaxis.set_minor_locator(NullLocator())
            axis.set_title(f"{network}: {column.title}{_ARROWS[column.better]}", fontsize="small")
            axis.set_xlabel("passes a map", fontsize="small")
            axis.tick_params(labelsize="small")
            axis.grid(alpha=0.3)
        row[0].set_ylabel(f"difference to {REFERENCE}, points", fontsize="small")
    handles, labels = grid[0, 0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=len(labels), fontsize="small", frameon=False)
    return figure


def main(arguments: Sequence[str] | None = None) -> Path:
    """Make the figure, and say where it is."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("files", type=Path, nargs="+", metavar="FILE")
    parser.add_argument("--names", nargs="+", default=["μ = 0.5", "μ = 0.75", "16 masks a block", "merged"])
    parser.add_argument("--out", type=Path, required=True)
    options = parser.parse_args(arguments)
    result = read(*options.files, pairs=[(name, REFERENCE) for name in options.names])
    if not isinstance(result, ComparisonResult):
        parser.error("the files hold no comparison of explainers")
    plot(result, options.names).savefig(options.out, dpi=90)
    print(options.out, f"{options.out.stat().st_size / 1000:.0f} kB")
    return options.out


if __name__ == "__main__":
    main()
