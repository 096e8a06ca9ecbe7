"""What a person looks at after a retraining study: curves, bars, masked images and the page."""

from __future__ import annotations

import base64
import io
import re
from html.parser import HTMLParser

import numpy as np
import pytest
from PIL import Image

from lightning_saliency.reports.html import ReportPicture, Section, data_uri, render_page
from lightning_saliency.reports.tables import Column, Estimate, TableData, difference_columns
from lightning_saliency.studies.retraining.figures import (
    accuracy_columns,
    combined_columns,
    quartile_columns,
    retraining_curves,
    scale_bars,
    scale_columns,
)


def estimate(value, half=0.05, count=3):
    return Estimate(value, value - half, value + half, count)


def test_curves_are_drawn_in_the_order_of_the_shares():
    curves = {
        "kar": {"smoe": [estimate(0.7), estimate(0.5)], "random": [estimate(0.6), estimate(0.3)]},
        "roar": {"smoe": [estimate(0.2), estimate(0.4)], "random": [estimate(0.3), estimate(0.5)]},
    }
    figure = retraining_curves(curves, [0.5, 0.1], estimate(0.9), "title")
    kar, roar = figure.axes
    assert (kar.get_xlabel(), roar.get_xlabel()) == ("pixels kept in %", "pixels removed in %")
    line = kar.get_lines()[0]
    assert line.get_label() == "smoe"
    assert line.get_xdata().tolist() == [10, 50]
    assert line.get_ydata().tolist() == pytest.approx([50, 70])
    band = kar.collections[0].get_paths()[0].vertices
    assert (band[:, 1].min(), band[:, 1].max()) == pytest.approx((45, 75))
    assert kar.get_lines()[-1].get_ydata() == pytest.approx([90, 90])
    low, high = kar.get_ylim()
    assert low < 30
    assert 90 < high <= 100


def test_of_one_seed_no_interval_is_drawn():
    def one(value):
        return Estimate(value, -np.inf, np.inf, 1)

    (axis,) = retraining_curves({"kar": {"smoe": [one(0.5), one(0.7)]}}, [0.1, 0.5], one(0.9)).axes
    assert len(axis.collections) == 0
    assert axis.get_lines()[0].get_ydata().tolist() == pytest.approx([50, 70])
    assert axis.get_ylim() == pytest.approx((50 - 4.8, 90 + 4.8))
    (axis,) = scale_bars({"smoe": [one(0.2)]}, ["layer1"]).axes
    assert len(axis.collections) == 0
    (axis,) = scale_bars({"smoe": [one(0.2), estimate(0.1)]}, ["layer1", "layer2"]).axes
    bars = [segment[:, 1].tolist() for segment in axis.collections[0].get_segments()]
    assert bars == [pytest.approx([0.2, 0.2]), pytest.approx([0.05, 0.15])]


def test_a_figure_needs_a_value_for_each_place():
    with pytest.raises(ValueError, match="no curve"):
        retraining_curves({"kar": {}}, [0.1])
    with pytest.raises(ValueError, match="1 accuracies of 'smoe' for 2 fractions"):
        retraining_curves({"kar": {"smoe": [estimate(0.5)]}}, [0.1, 0.5])
    with pytest.raises(ValueError, match="one score of it for each scale"):
        scale_bars({"smoe": [estimate(0.5)]}, ["a", "b"])


def test_bars_stand_beside_one_another_at_each_scale():
    scores = {"smoe": [estimate(0.2), estimate(-0.1)], "std": [estimate(0.1), Estimate(np.nan, np.nan, np.nan, 0)]}
    figure = scale_bars(scores, ["layer1", "layer2"], "difference score")
    (axis,) = figure.axes
    heights = [patch.get_height() for patch in axis.patches]
    assert heights[:3] == pytest.approx([0.2, -0.1, 0.1])
    assert np.isnan(heights[3])
    edges = [(patch.get_x(), patch.get_x() + patch.get_width()) for patch in axis.patches]
    assert edges[0][1] == pytest.approx(edges[2][0])
    assert [label.get_text() for label in axis.get_xticklabels()] == ["L1\nlayer1", "L2\nlayer2"]
    figure.savefig(io.BytesIO(), format="png")


class Reader(HTMLParser):
    """Collects what a page refers to, and checks that its elements close."""

    VOID = ("meta", "img", "link", "br")

    def __init__(self):
        super().__init__()
        self.open, self.references, self.images = [], [], []

    def handle_starttag(self, tag, attributes):
        if tag not in self.VOID:
            self.open.append(tag)
        for name, value in attributes:
            if name in ("src", "href"):
                self.references.append(value)
        if tag == "img":
            self.images.append(dict(attributes))

    def handle_endtag(self, tag):
        assert self.open.pop() == tag


def test_the_page_needs_nothing_but_itself():
    figure = retraining_curves({"kar": {"smoe": [estimate(0.5)]}}, [0.1])
    picture = np.zeros((8, 9, 3), dtype=np.uint8)
    columns = [Column("a", "A", "high", "one"), Column("b", "B", "low", "one"), Column("c", "C", None, "two")]
    table = TableData(
        columns,
        {"net": {"<first>": {"a": estimate(0.5), "b": estimate(0.5)}, "second": {"a": estimate(0.4, count=1)}}},
        "from & here",
    )
    page = render_page(
        "Title",
        [
            Section(
                "Part <1>", ["Text."], [table], [ReportPicture(figure, 'a "figure"'), ReportPicture(picture, "black")]
            )
        ],
        [("data", "<scenes>")],
    )
    reader = Reader()
    reader.feed(page)
    assert reader.open == []
    assert len(reader.references) == 2
    assert all(reference.startswith("data:image/png;base64,") for reference in reader.references)
    assert reader.images[0]["alt"] == 'a "figure"'
    decoded = Image.open(io.BytesIO(base64.b64decode(reader.references[1].partition(",")[2])))
    assert np.array_equal(np.array(decoded), picture)
    assert "&lt;first&gt;" in page
    assert "<scenes>" not in page
    titles = dict(re.findall(r'<h3 id="([^"]+)">([^<]*)</h3>', page))
    assert re.findall(r'<table aria-labelledby="([^"]+)">', page) == list(titles)
    assert list(titles.values()) == ["net: one", "net: two"]
    assert "from &amp; here" in page
    assert re.search(r'class="first">0\.50</span><span class="interval">0\.45 to 0\.55<', page)
    assert re.search(r'class="second">0\.40</span></td>', page)
    assert "–" in page
    assert "http" not in page


def test_the_same_figure_gives_the_same_bytes():
    first, second = (data_uri(retraining_curves({"kar": {"a": [estimate(0.5)]}}, [0.1])) for _ in range(2))
    assert first == second


def test_columns_are_the_papers():
    assert [column.key for column in accuracy_columns(["roar", "kar"], [0.5, 0.1])] == [
        "kar_10", "kar_50", "roar_10", "roar_50",
    ]  # fmt: skip
    assert [column.better for column in accuracy_columns(["roar", "kar"], [0.1])] == ["high", "low"]
    assert [column.key for column in combined_columns(["kar", "roar"])] == ["kar", "roar", "sum", "over_random"]
    assert [column.key for column in combined_columns(["roar"])] == ["roar"]
    differences = difference_columns(combined_columns(["kar", "roar"]))
    assert [column.title for column in differences] == ["KAR", "−ROAR", "SUM", "SUM over random"]
    assert {(column.better, column.digits) for column in differences} == {(None, 3)}
    assert len(quartile_columns()) == 6
    assert [column.title for column in scale_columns(("kar", "roar"), 2)] == ["L1", "L2", "L1", "L2"]
