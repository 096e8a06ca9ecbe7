"""The page in a real browser: slider, keys, switches, filters, two runs, light and dark, wide and narrow."""

from __future__ import annotations

import base64
import io

import numpy as np
import pytest
import torch
from PIL import Image

from lightning_saliency import film
from lightning_saliency.functional.masking import resize_maps
from lightning_saliency.functional.visualization import heatmap, highlight
from lightning_saliency.pictures.page import AlertRecord, FilmRecords
from lightning_saliency.pictures.page.tiles import tile
from lightning_saliency.scales.maps import ScaleMaps
from tests.browser import browser, chromium
from tests.pictures.page.films import PREDICTIONS, small_film

pytestmark = pytest.mark.skipif(chromium() is None, reason="there is no Chromium: .ci/run installs it")


@pytest.fixture(scope="module")
def tab():
    with browser() as opened:
        yield opened


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    folder = tmp_path_factory.mktemp("film")
    small_film(folder / "first")
    small_film(folder / "second", [[2, 2, 2, 0], [2, 1, 2, 2]], seed=1)
    film(folder / "first")
    film(folder / "first", folder / "second")
    return folder / "first" / "saliency"


def opened(tab, page, width=1400, dark=False):
    tab.look(width, 1200, dark)
    tab.open(page)
    tab.wait("document.documentElement.dataset.ready === 'yes'")


def at(tab):
    return tab.run("document.getElementById('epoch').firstChild.textContent")


def settled(tab, stop):
    tab.wait(f"document.documentElement.dataset.shown === '{stop}'")


def pixels(tab, expression):
    """What a canvas shows, ``[H, W, 3]`` from 0 to 255."""
    data = tab.run(f"{expression}.toDataURL()").partition(",")[2]
    return np.array(Image.open(io.BytesIO(base64.b64decode(data))).convert("RGB"), dtype=float)


def as_pixels(image):
    return image[0].permute(1, 2, 0).double().numpy() * 255


def each(tab, selector, what):
    """A property of every element."""
    return tab.run(f"[...document.querySelectorAll(`{selector}`)].map(one => one.{what})")


def rows_shown(tab):
    return [int(slot) for slot in each(tab, ".row:not([hidden])", "dataset.slot")]


def choose(tab, name, value):
    tab.run(
        f"(() => {{ const box = document.getElementById('{name}'); box.value = '{value}';"
        "for (const kind of ['input', 'change']) box.dispatchEvent(new Event(kind, {bubbles: true})); })()"
    )


def test_nothing_leaves_the_page_and_no_script_fails(tab, run):
    for width in (390, 1400):
        for dark in (False, True):
            for page in ("film.html", "film_of_two.html"):
                opened(tab, run / page, width, dark)
                assert [url for url in tab.requests if not url.startswith(("data:", "blob:"))] == [
                    (run / page).as_uri()
                ]
                assert tab.errors == []
                assert tab.run("document.documentElement.scrollWidth") <= width


def test_it_is_dark_where_its_reader_likes_it_dark(tab, run):
    lightness = []
    for dark in (False, True):
        opened(tab, run / "film.html", dark=dark)
        lightness.append(tab.run("getComputedStyle(document.body).backgroundColor.match(/\\d+/g).map(Number)[0]"))
    assert lightness[0] > 200 > 60 > lightness[1]


def test_slider_keys_and_play_go_through_the_epochs(tab, run):
    opened(tab, run / "film.html")
    assert at(tab) == "epoch 1"
    for key, expected in (
        ("Home", "start"),
        ("ArrowRight", "epoch 0"),
        ("End", "epoch 1"),
        ("ArrowLeft", "epoch 0"),
    ):
        tab.press(key)
        assert at(tab) == expected
    choose(tab, "slider", 0)
    assert at(tab) == "start"
    tab.press(" ")
    assert tab.run("document.getElementById('play').getAttribute('aria-label')") == "Pause"
    tab.wait("document.getElementById('epoch').firstChild.textContent === 'epoch 1'")
    tab.wait("document.getElementById('play').getAttribute('aria-label') === 'Play'")


def test_labels_and_predictions_are_those_of_the_epoch(tab, run):
    opened(tab, run / "film.html")
    tab.press("Home")
    assert each(tab, ".who", "textContent") == [
        "#1cat✗ taken for ship",
        "#2dog <b>✗ taken for ship",
        "#3ship✓",
        "#4cat✗ taken for ship",
    ]
    tab.press("End")
    assert each(tab, ".who", "textContent") == ["#1cat✓", "#2dog <b>✓", "#3ship✓", "#4cat✗ taken for dog <b>"]


def test_filters_and_order(tab, run):
    opened(tab, run / "film.html")
    for value, expected in (("right", [0, 1, 2]), ("wrong", [3]), ("changed", [1, 3]), ("all", [0, 1, 2, 3])):
        choose(tab, "filter", value)
        assert rows_shown(tab) == expected
    tab.press("Home")
    choose(tab, "filter", "changed")
    assert rows_shown(tab) == []
    assert tab.run("!document.getElementById('empty').hidden")
    choose(tab, "filter", "all")
    tab.press("End")
    choose(tab, "order", "change")
    tab.wait("document.querySelector('.row').dataset.slot !== undefined")
    assert sorted(rows_shown(tab)) == [0, 1, 2, 3]


def test_every_view_shows_what_the_package_computes(tab, run):
    """The page draws the maps of ``lightning_saliency.functional``, but for the rounding to 64 levels."""
    opened(tab, run / "film.html")
    for view in ("combined", "view:fast_cam", "scale:0", "scale:2"):
        tab.run(f"document.querySelector(`[data-view='{view}']`).click()")
    settled(tab, 2)
    tab.wait("[...document.querySelectorAll('.row:first-child canvas')].every(canvas => canvas.width === 192)")
    assert tab.run("document.querySelectorAll('.row:first-child canvas').length") == 7
    store = FilmRecords(run / "film")
    record = store.read(store.frames()[-1])
    statistics = [map_[None] for map_ in record.images[0].maps[:3]]
    scales = [resize_maps(map_, (192, 192)) for map_ in statistics]
    maps = ScaleMaps(torch.stack(scales, 1), tuple(record.scales), tuple(record.weights))
    canvas = "document.querySelectorAll('.row:first-child canvas')"
    shown = [pixels(tab, f"{canvas}[{number}]") for number in range(7)]
    assert np.abs(shown[2] - as_pixels(maps.lovi())).mean() < 3
    photo = pixels(tab, f"{canvas}[0]")
    over = highlight(torch.from_numpy(photo / 255).permute(2, 0, 1)[None].float(), scales[2], alpha=0.8)
    assert np.abs(shown[1] - as_pixels(over)).mean() < 4
    combined = heatmap(maps.combined(), "inferno")
    assert np.abs(shown[3] - as_pixels(combined)).mean() < 4
    assert np.abs(shown[5] - as_pixels(heatmap(scales[0], "inferno"))).mean() < 4
    assert np.abs(shown[1] - photo).mean() > 10


def test_the_overlay_leaves_out_scales_that_cannot_say_where(tab, tmp_path):
    """Of grids of 12×12, 6×6 and 3×3 cells it takes the second; so does a slide of the same run."""
    store = small_film(tmp_path, side=12)
    opened(tab, film(tmp_path))
    tab.wait("document.querySelector('.row:first-child canvas').width === 192")
    frame = store.frames()[-1]
    record = store.read(frame)
    photo, shown = (pixels(tab, f"document.querySelectorAll('.row:first-child canvas')[{place}]") for place in (0, 1))
    image = torch.from_numpy(photo / 255).permute(2, 0, 1)[None].float()
    overlays = [highlight(image, resize_maps(map_[None], (192, 192)), 0.8) for map_ in record.images[0].maps[:3]]
    differences = [np.abs(shown - as_pixels(over)).mean() for over in overlays]
    assert differences[1] < 4 < min(differences[0], differences[2])
    slide = tile(record, 0, "overlay", store.photo(record.images[0].photo), 192)
    assert np.abs(slide.astype(float) - as_pixels(overlays[1])).mean() < 2


def test_opacity_and_palette(tab, run):
    opened(tab, run / "film.html")
    settled(tab, 2)
    canvas = "document.querySelectorAll('.row:first-child canvas')"
    photo, overlay, colors = (pixels(tab, f"{canvas}[{number}]") for number in range(3))
    tab.run(f"window.before = [...{canvas}].map(one => one.toDataURL())")
    choose(tab, "opacity", 0)
    tab.wait(f"{canvas}[1].toDataURL() !== before[1]")
    assert np.abs(pixels(tab, f"{canvas}[1]") - photo).max() <= 1
    assert np.abs(overlay - photo).mean() > 10
    tab.run("document.getElementById('safe').click()")
    tab.wait(f"{canvas}[2].toDataURL() !== before[2]")
    assert np.abs(pixels(tab, f"{canvas}[2]") - colors).mean() > 10


def test_the_last_view_stays(tab, run):
    opened(tab, run / "film.html")
    for view in ("photo", "lovi", "overlay"):
        tab.run(f"document.querySelector(`[data-view='{view}']`).click()")
    assert each(tab, ".row:first-child figcaption", "textContent") == ["Overlay"]


def test_curves_stand_on_the_sliders_axis(tab, run):
    opened(tab, run / "film.html")
    names = each(tab, ".curve header", "firstChild.title")
    assert names == ["val/loss", "saliency/drift"]
    value = "document.querySelector('.curve header').lastChild.textContent"
    assert tab.run(value) == "0.667"
    x, y = tab.run(
        "(() => { const plot = document.querySelector('.plot'); plot.scrollIntoView({block: 'center'});"
        "const box = plot.querySelector('svg').getBoundingClientRect();"
        "return [box.left + box.width / 2, box.top + 20]; })()"
    )
    assert each(tab, "#ticks span", "textContent") == ["start", "0", "1"]
    for kind in ("mousePressed", "mouseReleased"):
        tab.send("Input.dispatchMouseEvent", type=kind, x=x, y=y, button="left", clickCount=1)
    tab.wait("document.getElementById('epoch').firstChild.textContent === 'epoch 0'")
    assert tab.run(value) == "1"


def test_tables_mean_maps_and_texts_for_those_who_do_not_see(tab, run):
    opened(tab, run / "film.html")
    settled(tab, 2)
    first = each(tab, "#scales tbody tr:first-child > *", "textContent")
    assert first[:5] == ["1", "layer1", "16 × 16", "33 %", "3"]
    assert 0 < float(first[5]) < 2
    store = FilmRecords(run / "film")
    (mean,) = store.read(store.frames()[-1]).means
    most = f"cat (12): up to {100 * float(mean.map.max()):.0f} %"
    assert tab.run("document.querySelector('#means figcaption').textContent") == most
    # Shares as they are, not stretched to the largest one.
    shares = as_pixels(heatmap(resize_maps(mean.map[None], (120, 120)), "inferno"))
    assert np.abs(pixels(tab, "document.querySelector('#means canvas')") - shares).mean() < 4
    # Rows are drawn when they come near the window.
    tab.wait("document.querySelectorAll('.row canvas[aria-label]').length === 12")
    labels = each(tab, ".row canvas", "getAttribute('aria-label')")
    assert labels[:2] == ["Photo of cat, epoch 1", "Overlay of cat, epoch 1"]
    nameless = (
        "[...document.querySelectorAll('button, input, select, canvas')].filter(one =>"
        "!(one.getAttribute('aria-label') || one.textContent.trim() || one.closest('label'))).length"
    )
    assert tab.run(nameless) == 0


def test_two_runs_stand_side_by_side(tab, run):
    opened(tab, run / "film_of_two.html")
    assert tab.run("document.querySelectorAll('.row:first-child .side').length") == 2
    left, right = each(tab, ".row:first-child .side", "getBoundingClientRect().left")
    assert right > left + 300
    guesses = each(tab, ".row:first-child .who", "lastChild.textContent")
    assert guesses == ["✓", "✗ taken for ship"]
    names = each(tab, ".row:first-child .run", "textContent")
    assert [name.rpartition("/")[2] for name in names] == ["first", "second"]
    assert tab.run("document.querySelectorAll('.plot:first-of-type polyline.second').length") == 2
    opened(tab, run / "film_of_two.html", width=390)
    left, right = each(tab, ".row:first-child .side", "getBoundingClientRect().left")
    assert left == right


def test_of_a_run_that_ended_earlier_it_is_said_which_frame_is_shown(tab, run):
    opened(tab, run / "film_of_two.html")
    settled(tab, 2)
    late = (
        "[...document.querySelectorAll('.row:first-child .side')].map(one => one.querySelector('.gone')?.textContent)"
    )
    assert tab.run(late) == [None, "still epoch 0"]
    slider = "document.getElementById('slider')"
    tab.run(f"{slider}.value = 1, {slider}.dispatchEvent(new Event('input'))")
    settled(tab, 1)
    assert tab.run(late) == [None, None]


def test_the_mean_maps_of_two_runs_stand_under_their_names(tab, run):
    for width in (390, 1400):
        opened(tab, run / "film_of_two.html", width)
        settled(tab, 2)
        heads = each(tab, "#means h3", "textContent")
        assert [name.rpartition("/")[2] for name in heads] == ["first", "second"]
        assert each(tab, "#means .of-run", "children.length") == [1, 1]
        assert [text.partition(":")[0] for text in each(tab, "#means figcaption", "textContent")] == ["cat (12)"] * 2
        tops = each(tab, "#means > *", "getBoundingClientRect().top")
        assert tops == sorted(tops)
        colours = tab.run(
            "[...document.querySelectorAll('#means h3')].map(one => getComputedStyle(one, '::before').backgroundColor)"
        )
        assert len(set(colours)) == 2
    opened(tab, run / "film.html")
    settled(tab, 2)
    assert each(tab, "#means h3", "textContent") == []


def test_a_narrow_page_leaves_out_the_monitors_name(tab, run):
    for width, shown in ((390, "drift"), (1400, "saliency/drift")):
        opened(tab, run / "film.html", width)
        assert each(tab, ".curve header > span:first-child", "innerText") == ["val/loss", shown]
        assert each(tab, ".curve header > span:first-child", "title") == ["val/loss", "saliency/drift"]


def test_warnings_of_a_shortcut_stand_above_the_film(tab, tmp_path):
    text = "In the <b>corner</b>. Look at 'Mean maps' in film.html, the page of this run."
    small_film(tmp_path / "first").warn([AlertRecord(1, 100, text, (14, 1))])
    small_film(tmp_path / "second").warn([AlertRecord(0, 50, "A colour.", lowered=1)])
    film(tmp_path / "first")
    page = film(tmp_path / "first", tmp_path / "second")
    for width in (390, 1400):
        for file in ("film.html", "film_of_two.html"):
            opened(tab, page.parent / file, width)
            assert tab.errors == []
            assert tab.run("document.documentElement.scrollWidth") <= width
            heads = ["SaliencyMonitor warned of a shortcut in epoch 1"]
            heads += ["SaliencyMonitor warned of a shortcut in epoch 0, lowered in epoch 1"] * (file != "film.html")
            assert each(tab, ".alert h2", "textContent") == heads
            assert each(tab, ".alert h2 + p", "textContent")[0] == text
            bottom = tab.run("document.querySelector('.alert').getBoundingClientRect().bottom")
            assert bottom <= tab.run("document.getElementById('deck').getBoundingClientRect().top")
    # The place: below and left in the square.
    left, low = tab.run(
        "(() => { const box = name => document.querySelector(name).getBoundingClientRect();"
        "const [all, one] = [box('.image'), box('.there')];"
        "return [(one.left + one.width / 2 - all.left) / all.width, (one.top + one.height / 2 - all.top) / all.height];"
        "})()"
    )
    assert (left, low) == pytest.approx((1.5 / 16, 14.5 / 16), abs=0.01)
    assert each(tab, ".alert .run", "textContent")[1].endswith("second")
    assert tab.run("document.querySelectorAll('.alert svg').length") == 1


def test_it_opens_within_two_seconds_with_two_hundred_frames(tab, tmp_path):
    """A page of 200 frames and of the largest size; the maps are few, so that the test is quick."""
    small_film(tmp_path, [PREDICTIONS[0]] * 200)
    page = film(tmp_path)
    text = page.read_text()
    padded = text.replace('"colors"', '"padding":"' + "A" * (19_500_000 - len(text)) + '","colors"', 1)
    page.write_text(padded)
    opened(tab, page)
    # Two seconds on a machine that does nothing else.
    assert tab.run("performance.getEntriesByType('navigation')[0].domComplete") < 8000
