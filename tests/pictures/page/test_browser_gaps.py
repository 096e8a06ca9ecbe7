"""The page of a film whose frames lack some images, in a real browser."""

from __future__ import annotations

import numpy as np
import pytest

from lightning_saliency import film
from tests.browser import browser, chromium
from tests.pictures.page.films import small_film
from tests.pictures.page.test_browser import choose, each, opened, pixels, settled

pytestmark = pytest.mark.skipif(chromium() is None, reason="there is no Chromium: .ci/run installs it")


def test_a_frame_that_lacks_an_image_shows_the_others_in_their_rows(tmp_path):
    small_film(tmp_path / "first", missing={(0, 0), (2, 1)})
    small_film(tmp_path / "whole")
    film(tmp_path / "first")
    film(tmp_path / "whole")
    film(tmp_path / "first", tmp_path / "whole")
    with browser() as tab:
        opened(tab, tmp_path / "first" / "saliency" / "film.html")
        tab.press("Home")
        assert each(tab, ".who", "textContent") == [
            "#1not in this frame",
            "#2dog <b>✗ taken for ship",
            "#3ship✓",
            "#4cat✗ taken for ship",
        ]
        tab.press("End")
        assert each(tab, ".who", "textContent") == [
            "#1cat✓",
            "#2not in this frame",
            "#3ship✓",
            "#4cat✗ taken for dog <b>",
        ]
        assert tab.run("document.getElementById('about').textContent").endswith("4 images, 3 scales")
        choose(tab, "order", "change")
        tab.wait("document.documentElement.dataset.shown === '2'")
        shown = []
        for page in (tmp_path / "whole" / "saliency", tmp_path / "first" / "saliency"):
            opened(tab, page / "film.html")
            settled(tab, 2)
            shown.append(pixels(tab, "document.querySelectorAll('.row')[3].querySelectorAll('canvas')[1]"))
        np.testing.assert_array_equal(*shown)
        opened(tab, tmp_path / "first" / "saliency" / "film_of_two.html")
        tab.press("End")
        assert tab.errors == []
        assert [name.endswith("not in this frame") for name in each(tab, ".who", "textContent")] == [
            number == 2 for number in range(8)
        ]
