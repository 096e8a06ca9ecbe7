"""The picture of a comparison of augmentations shows the differences that it is given."""

import io
import math

import numpy as np
import pytest
from matplotlib.colors import to_hex

from lightning_saliency.reports.tables import Estimate
from lightning_saliency.studies.augmentation.report.figures import ROLES, difference_figure

PANELS = {
    "equal steps": {"mixup": Estimate(0.5, -0.5, 1.5, 3), "guide": Estimate(2.0, 1.0, 3.0, 3)},
    "equal wall time": {"mixup": Estimate(0.4, -0.4, 1.2, 3), "guide": Estimate(-1.0, -math.inf, math.inf, 1)},
}
FIGURE_ROLES = {"mixup": "other", "guide": "guided"}


def lines(axis):
    """Every line but that at zero: x, y, colour."""
    return [
        (list(map(float, line.get_xdata())), list(map(float, line.get_ydata())), to_hex(line.get_color()))
        for line in axis.lines[1:]
        if len(line.get_xdata())
    ]


def test_each_arm_has_its_point_and_interval():
    figure = difference_figure(PANELS, FIGURE_ROLES, "points", "Net")
    assert [axis.get_title() for axis in figure.axes] == ["equal steps", "equal wall time"]
    assert lines(figure.axes[0]) == [
        ([-0.5, 1.5], [0.0, 0.0], ROLES["other"][0]),
        ([0.5], [0.0], ROLES["other"][0]),
        ([1.0, 3.0], [1.0, 1.0], ROLES["guided"][0]),
        ([2.0], [1.0], ROLES["guided"][0]),
    ]
    assert [text.get_text() for text in figure.axes[0].get_yticklabels()] == ["mixup", "guide"]
    # The first arm is above the second.
    assert figure.axes[0].get_ylim()[0] > figure.axes[0].get_ylim()[1]
    assert set(figure.axes[0].lines[0].get_xdata()) == {0}


def test_an_infinite_interval_is_not_drawn():
    shown = lines(difference_figure(PANELS, FIGURE_ROLES, "points").axes[1])
    assert ([-1.0], [1.0], ROLES["guided"][0]) in shown
    assert len(shown) == 3


def test_the_seeds_are_ticks():
    runs = {"equal steps": {"guide": [1.5, 2.0, 2.5]}}
    shown = lines(difference_figure(PANELS, FIGURE_ROLES, "points", runs=runs).axes[0])
    assert ([1.5, 2.0, 2.5], [1.0, 1.0, 1.0], ROLES["guided"][0]) in shown


def test_the_legend_names_the_roles_that_there_are():
    legend = difference_figure(PANELS, FIGURE_ROLES, "points").legends[0]
    assert [text.get_text() for text in legend.get_texts()] == [ROLES["guided"][1], ROLES["other"][1]]


def test_the_picture_is_not_empty():
    file = io.BytesIO()
    difference_figure(PANELS, FIGURE_ROLES, "points").savefig(file, format="rgba", dpi=50)
    assert np.frombuffer(file.getvalue(), np.uint8).std() > 10


def test_nothing_to_show():
    for panels in ({}, {"equal steps": {}}):
        with pytest.raises(ValueError, match="no difference"):
            difference_figure(panels, {}, "points")
