"""Plots: what is drawn is what was measured, and pyplot's state is left alone."""

from __future__ import annotations

import matplotlib.pyplot as plt
import pytest
import torch
from PIL import Image

from lightning_saliency.reports.plots import Example, bar_plot, curve_plot, example_sheet, save_figure
from lightning_saliency.reports.tables import Column, Estimate


def test_curves():
    figure = curve_plot({"insertion": {"a": [0.0, 0.5, 1.0], "b": [0.0, 0.0, 1.0]}, "deletion": {"a": [1.0, 0.0, 0.0]}})
    insertion, deletion = figure.axes
    assert insertion.lines[1].get_ydata().tolist() == [0.0, 0.0, 1.0]
    assert insertion.lines[0].get_xdata().tolist() == [0.0, 50.0, 100.0]
    assert [text.get_text() for text in insertion.get_legend().get_texts()] == ["a (50.0)", "b (25.0)"]
    assert len(deletion.lines) == 1


def test_more_methods_than_colours_are_told_apart():
    figure = curve_plot({"insertion": {str(number): [0.0, 1.0] for number in range(12)}})
    looks = {(line.get_color(), line.get_linestyle()) for line in figure.axes[0].lines}
    assert len(looks) == 12


def test_bars():
    columns = [Column("ebpg", "EBPG", "high", "boxes"), Column("seconds", "s/map", None, "cost")]
    # The interval of b does not contain its value, as percentile intervals may.
    values = {
        "a": {"ebpg": Estimate(50.0, 40.0, 55.0, 3), "seconds": Estimate(0.0, 0.0, 0.0, 3)},
        "b": {"ebpg": Estimate(70.0, 71.0, 75.0, 3), "seconds": Estimate(2.0, 1.0, 3.0, 3)},
        "c": {"seconds": Estimate(200.0, 100.0, 300.0, 3)},
    }
    ebpg, seconds = (axis for axis in bar_plot(columns, values, "net").axes if axis.get_title())
    assert [patch.get_width() for patch in ebpg.patches] == [50.0, 70.0]
    assert [label.get_text() for label in ebpg.get_yticklabels()] == ["a", "b", "c"]
    assert seconds.get_xscale() == "log"
    assert ebpg.get_xscale() == "linear"


def test_examples_show_the_map_over_the_image_and_the_boxes(tmp_path):
    saliency = torch.zeros(7, 7)
    saliency[3, 3] = 1
    box = torch.tensor([[2.0, 3.0, 8.0, 9.0]])
    rows = {
        "a": [
            Example(torch.rand(3, 14, 14), saliency, box, "cat: 1.0"),
            Example(torch.rand(3, 14, 14), saliency, None, "dog"),
        ]
    }
    figure = example_sheet(rows, ["best", "worst"], "title")
    first, second = figure.axes
    assert first.images[0].get_array().shape == (14, 14, 3)
    assert (first.patches[0].get_x(), first.patches[0].get_width()) == (1.5, 6.0)
    assert not second.patches
    assert first.get_title() == "best\ncat: 1.0"
    save_figure(figure, tmp_path / "deep" / "sheet.png", dots_per_inch=40)
    assert Image.open(tmp_path / "deep" / "sheet.png").width > 100


@pytest.mark.parametrize("ending", ["png", "svg"])
def test_pyplot_knows_nothing_of_it(tmp_path, ending):
    before = plt.get_fignums()
    save_figure(curve_plot({"insertion": {"a": [0.0, 1.0]}}), tmp_path / f"curves.{ending}")
    assert plt.get_fignums() == before
    assert (tmp_path / f"curves.{ending}").stat().st_size > 1000
