"""What a page says of its own numbers."""

from __future__ import annotations

from datetime import date

import pytest
import torch
from scipy import stats

import lightning_saliency
from lightning_saliency.reports.html import Section, render_page
from lightning_saliency.reports.notices import Made, chance_notices, image_notices, seed_notices, wilson_interval


def test_a_page_tells_how_it_was_made():
    page = render_page("T", [Section("S")], [("data", "x")], made=Made("lightning-saliency evaluate --limit 5", "12 s"))
    for told in (
        "<dt>command</dt><dd>lightning-saliency evaluate --limit 5</dd>",
        "<dt>duration</dt><dd>12 s</dd>",
        f"<dt>date</dt><dd>{date.today().isoformat()}</dd>",
        f"lightning-saliency {lightning_saliency.__version__}, PyTorch {torch.__version__}",
    ):
        assert told in page
    assert page.index("<dt>data</dt>") < page.index("<dt>command</dt>")
    plain = render_page("T", [Section("S")])
    assert "<dt>command</dt>" not in plain
    assert "<dt>date</dt>" in plain


def test_notices_stand_first():
    page = render_page("T", [Section("S")], [("data", "x")], notices=["Too <few> images."])
    assert page.index("Too &lt;few&gt; images.") < page.index("<dl>")
    assert 'class="notice"' in page
    assert 'class="notice"' not in render_page("T", [Section("S")])


def test_chance_is_a_tenth_of_the_way_to_no_error():
    assert chance_notices("net", 0.19 - 1e-6, 10)
    assert not chance_notices("net", 0.19 + 1e-6, 10)
    assert chance_notices("net", 0.54, 2)
    assert not chance_notices("net", 0.56, 2)
    assert chance_notices("net", 0.0, 10)
    assert chance_notices("net", 0.1, 10, images=400)[0].startswith("net is at chance: 10.0 % right")
    assert not chance_notices("net", 0.5, 10, images=40)
    for unknown in ((None, 10), (0.1, None), (1.0, 1)):
        assert not chance_notices("net", *unknown)


def test_a_few_images_cannot_tell_a_network_from_guessing():
    """One of four right is no 25 %: the network that was shown to a newcomer has 16 % on all."""
    for accuracy in (0.0, 0.25, 0.5):
        [notice] = chance_notices("net", accuracy, 10, images=4)
        assert notice.startswith(f"net may be at chance: {100 * accuracy:.1f} % of 4 images right")
    assert not chance_notices("net", 1.0, 10, images=4)
    for right, count in ((0, 4), (8, 32), (50, 50)):
        expected = stats.binomtest(right, count).proportion_ci(0.95, "wilson")
        assert wilson_interval(right / count, count) == pytest.approx((expected.low, expected.high), abs=1e-4)


def test_too_few():
    assert "1" in seed_notices(1)[0]
    assert not seed_notices(2)
    assert image_notices(19)
    assert not image_notices(20)
