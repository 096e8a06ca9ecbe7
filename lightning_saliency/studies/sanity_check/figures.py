"""The pictures of a sanity check: similarities over layers, and maps side by side as in the papers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from torch import Tensor

from lightning_saliency.functional.visualization import heatmap, overlay
from lightning_saliency.pictures.grid import picture_grid
from lightning_saliency.pictures.tensors import Picture, fitted_size, resize_images
from lightning_saliency.reports.plots import COLORS, DASHES

#: A mean and the ends of its interval.
Band = tuple[float, float, float]


def similarity_figure(
    layers: Sequence[str],
    curves: Mapping[str, Mapping[str, Mapping[str, Sequence[Band]]]],
    levels: Mapping[str, Mapping[str, Band | None]],
) -> Figure:
    """The similarity of maps to the original ones over the layers randomised.

    One row of panels per way of randomising, one column per similarity, one line per explainer with its interval
    shaded, over the numbers of the layers' groups; 0 is the original. To the right of the first row's lines stands the
    level of random networks, with its interval as a bar.

    Args:
        layers: Names of the L layers, top to bottom.
        curves: For each explainer, way of randomising and similarity: L triples of a mean and the ends of its interval,
            or none where there is nothing to compare.
        levels: For each explainer and similarity, the triple of the random-weights level, or ``None``.

    Returns:
        A figure with its own canvas; nothing global is touched. ``figure.savefig(...)`` writes it.

    Raises:
        ValueError: If a curve does not have one value per layer, or there is no curve.

    Example:
        >>> curve = {"cascading": {"SSIM": [(0.9, 0.8, 1.0), (0.5, 0.4, 0.6)]}}
        >>> figure = similarity_figure(["fc", "conv"], {"smoe": curve}, {"smoe": {"SSIM": (0.4, 0.3, 0.5)}})
        >>> [axes.get_title() for axes in figure.axes]
        ['SSIM, cascading']
    """
    if not curves:
        raise ValueError("Got no curve. Give at least one explainer's.")
    first = next(iter(curves.values()))
    modes, measures = list(first), list(next(iter(first.values())))
    wide = max(3.6, 0.2 * (len(layers) + 2))
    figure = Figure(figsize=(wide * len(measures) + 0.6, 3.5 * len(modes) + 0.7), layout="constrained")
    FigureCanvasAgg(figure)
    grid = figure.subplots(len(modes), len(measures), squeeze=False)
    beyond = len(layers) + 1
    handles = {}
    for row, mode in enumerate(modes):
        for column, measure in enumerate(measures):
            axes = grid[row, column]
            for number, (name, curve) in enumerate(curves.items()):
                points = curve[mode][measure]
                if points and len(points) != len(layers):
                    raise ValueError(
                        f"Got {len(points)} points of {name!r} for {len(layers)} layers. Give one for each, or none."
                    )
                color, dashes = COLORS[number % len(COLORS)], DASHES[number // len(COLORS) % len(DASHES)]
                if points:
                    # Of one step a line alone would not be seen.
                    mean, low, high = np.asarray([(1.0, 1.0, 1.0), *points]).T
                    (handles[name],) = axes.plot(
                        range(beyond),
                        mean,
                        dashes,
                        color=color,
                        marker="o",
                        markersize=3,
                        linewidth=1.4,
                        label=name,
                    )
                    axes.fill_between(range(beyond), low, high, color=color, alpha=0.15, linewidth=0)
                level = levels.get(name, {}).get(measure)
                if row == 0 and level is not None:
                    # Side by side, so that bars of equal height do not hide one another.
                    position = beyond + 0.3 + 0.9 * number / max(1, len(curves) - 1)
                    axes.plot([position, position], level[1:], color=color, linewidth=2.2, solid_capstyle="butt")
                    axes.plot([position], level[:1], color=color, marker="D", markersize=4)
            numbers = range(0, beyond, -(-beyond // 16))
            ticks, labels = [float(number) for number in numbers], [str(number) for number in numbers]
            if row == 0:
                axes.axvspan(beyond - 0.1, beyond + 1.6, color="0.93", zorder=0)
                labels.append("level of\nrandom\nweights")
                ticks.append(beyond + 0.75)
            axes.set_xticks(ticks, labels, fontsize=8)
            if row == len(modes) - 1:
                axes.set_xlabel("groups of layers, from the output on", fontsize=9)
            axes.set_xlim(-0.4, beyond + 1.6 if row == 0 else beyond - 0.6)
            axes.set_title(f"{measure}, {mode}", fontsize=10)
            axes.grid(axis="y", alpha=0.3)
            axes.axhline(0, color="0.6", linewidth=0.8)
            axes.tick_params(axis="y", labelsize=8)
            if column == 0:
                axes.set_ylabel("similarity to the original map", fontsize=9)
    if handles:
        figure.legend(
            handles.values(), handles.keys(), loc="outside upper center", ncols=min(6, len(handles)), frameon=False
        )
    return figure


def similarity_sheet(image: Tensor, maps: Mapping[str, Tensor], layers: Sequence[str], tile: int = 112) -> Picture:
    """The maps of one image, one row per explainer: the image, the original map, then one map per randomised layer.

    Maps are drawn in colour over the grey image; constant maps are marked, since they show nothing.

    Args:
        image: ``[3, H, W]`` in [0, 1].
        maps: For each explainer ``[1 + L, H, W]`` in [0, 1], the original first.
        layers: Names of the L layers, top to bottom.
        tile: The longer side of a tile, in pixels.

    Returns:
        ``[h, w, 3]`` uint8.

    Raises:
        ValueError: If an explainer does not have 1 + L maps.

    Example:
        >>> import torch
        >>> similarity_sheet(torch.rand(3, 32, 32), {"smoe": torch.rand(3, 32, 32)}, ["fc", "conv"], tile=32).shape
        (74, 156, 3)
    """
    for name, own in maps.items():
        if len(own) != 1 + len(layers):
            raise ValueError(
                f"Got {len(own)} maps of {name!r}, but 1 + {len(layers)} were expected: original and layers."
            )
    size = fitted_size(image.shape[-2], image.shape[-1], tile)
    photo = resize_images(image[None].float(), size)
    rows, constant = {}, {}
    for name, own in maps.items():
        small = resize_images(own[:, None].float(), size)[:, 0].clamp(0, 1)
        rows[name] = [photo[0], *overlay(photo.expand(len(own), -1, -1, -1), heatmap(small, "inferno"))]
        constant[name] = [
            place for place, saliency in enumerate(own, 1) if bool((saliency == saliency.flatten()[0]).all())
        ]
    return picture_grid(["image", "original", *layers], rows, tile, constant, "constant")
