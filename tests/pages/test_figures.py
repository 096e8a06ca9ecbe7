"""The pictures of the documentation: small enough, there where pages show them, and made by a script."""

from __future__ import annotations

import re

import pytest
import torch
from PIL import Image

from tests.pages.blocks import DOCS
from tests.paths import ROOT
from tools.figures import MOST_BYTES, TILE, figure, save

FIGURES = sorted((DOCS / "figures").iterdir())


def test_figures_are_small_and_shown():
    pages = [ROOT / "README.md", *DOCS.rglob("*.md")]
    shown = {name for page in pages for name in re.findall(r"figures/([\w.]+)\)", page.read_text(encoding="utf-8"))}
    assert {path.name for path in FIGURES} == shown
    assert all(path.stat().st_size < MOST_BYTES for path in FIGURES)


def test_the_film_moves():
    with Image.open(DOCS / "figures" / "film.webp") as film:
        assert film.n_frames == 6


def test_lines_of_pictures(tmp_path):
    pictures = [("left", torch.zeros(3, 8, 8)), ("right", torch.ones(3, 8, 8))]
    drawn = figure([("heading", pictures), ("", [("", picture) for _, picture in pictures])])
    assert drawn.width == 2 * TILE + 6
    assert drawn.getpixel((TILE // 2, drawn.height - TILE // 2)) == (0, 0, 0)
    assert drawn.getpixel((TILE + TILE // 2, drawn.height - TILE // 2)) == (255, 255, 255)
    noise = Image.effect_noise((1200, 1200), 100).convert("RGB")
    assert save(noise, tmp_path, "noise").suffix == ".jpg"
    moving = save([drawn, noise.resize(drawn.size)], tmp_path, "moving")
    with Image.open(moving) as film:
        assert film.n_frames == 2


@pytest.mark.slow
@pytest.mark.shared
def test_a_figure_is_made(shared_data, tmp_path):
    from tools.figures import main

    pytest.importorskip("skimage")
    [made] = main(["scales", "--output", str(tmp_path)])
    assert made.stat().st_size < MOST_BYTES


def test_the_figure_of_sise_s_passes_is_made_of_its_raw_results(tmp_path):
    from tools.passes_plot import main, plot
    from tools.study_tables import read

    files = sorted((DOCS / "results" / "sise_passes").iterdir())
    assert main([*map(str, files), "--out", str(tmp_path / "plot.png")]).stat().st_size < MOST_BYTES
    drawn = plot(read(*files, pairs=[("μ = 0.75", "μ = 0")]), ["μ = 0.75"])
    [axis] = [axis for axis in drawn.axes if axis.get_title() == "SqueezeNet: EBPG ↑"]
    [(points, _, [bar])] = axis.containers
    assert points.get_xydata()[0].tolist() == pytest.approx([18.6, -9.9], abs=0.05)
    assert bar.get_segments()[0][:, 1].tolist() == pytest.approx([-15.0, -4.9], abs=0.05)
