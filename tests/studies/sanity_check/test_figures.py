"""The pictures of a sanity check show the numbers and the maps that they are given."""

import io

import matplotlib
import numpy as np
import pytest
import torch

from lightning_saliency.functional.visualization import heatmap, overlay
from lightning_saliency.pictures.tensors import to_uint8
from lightning_saliency.studies.sanity_check.figures import similarity_figure, similarity_sheet

LAYERS = ["fc", "layer2", "layer1"]


def curves(values):
    points = [(value, value - 0.1, value + 0.1) for value in values]
    return {mode: dict.fromkeys(("Spearman", "SSIM"), points) for mode in ("cascading", "independent")}


def test_a_panel_for_each_similarity_and_way():
    figure = similarity_figure(LAYERS, {"smoe": curves([0.8, 0.5, 0.2])}, {"smoe": {"Spearman": (0.3, 0.2, 0.4)}})
    titles = [axes.get_title() for axes in figure.axes]
    assert titles == ["Spearman, cascading", "SSIM, cascading", "Spearman, independent", "SSIM, independent"]
    line = next(line for line in figure.axes[0].lines if line.get_label() == "smoe")
    assert list(line.get_ydata()) == [1.0, 0.8, 0.5, 0.2]
    assert [text.get_text() for text in figure.axes[2].get_xticklabels()] == [
        str(number) for number in range(len(LAYERS) + 1)
    ]
    assert [text.get_text() for text in figure.legends[0].get_texts()] == ["smoe"]


def test_the_level_is_drawn_beside_the_cascade_only():
    figure = similarity_figure(LAYERS, {"smoe": curves([0.8, 0.5, 0.2])}, {"smoe": {"Spearman": (0.3, 0.2, 0.4)}})
    drawn = [[line for line in axes.lines if list(line.get_ydata()) == [0.2, 0.4]] for axes in figure.axes]
    assert [len(bars) for bars in drawn] == [1, 0, 0, 0]
    assert min(drawn[0][0].get_xdata()) > len(LAYERS)


def test_an_explainer_without_comparisons_leaves_its_line_out():
    empty = {mode: {measure: [] for measure in ("Spearman", "SSIM")} for mode in ("cascading", "independent")}
    figure = similarity_figure(LAYERS, {"dead": empty, "smoe": curves([1, 1, 1])}, {"dead": {"SSIM": None}})
    assert [text.get_text() for text in figure.legends[0].get_texts()] == ["smoe"]
    assert similarity_figure(LAYERS, {"dead": empty}, {}).legends == []


def test_nothing_global_is_touched_and_the_picture_is_not_empty():
    backend = dict.__getitem__(matplotlib.rcParams, "backend")  # without choosing one
    figure = similarity_figure(LAYERS, {"smoe": curves([0.8, 0.5, 0.2])}, {})
    file = io.BytesIO()
    figure.savefig(file, format="rgba", dpi=50)
    assert np.frombuffer(file.getvalue(), np.uint8).std() > 10
    assert dict.__getitem__(matplotlib.rcParams, "backend") == backend


def test_curves_of_another_length_are_refused():
    with pytest.raises(ValueError, match="2 points of 'smoe' for 3 layers"):
        similarity_figure(LAYERS, {"smoe": curves([1, 1])}, {})
    with pytest.raises(ValueError, match="no curve"):
        similarity_figure(LAYERS, {}, {})


def test_the_sheet_holds_every_map_in_its_place():
    image, maps = torch.rand(3, 40, 40), {"smoe": torch.rand(4, 40, 40), "cam": torch.rand(4, 40, 40)}
    sheet = similarity_sheet(image, maps, LAYERS, tile=40)
    assert sheet.shape[1] == 8 * 2 + 5 * 40 + 4 * 4
    for row, own in enumerate(maps.values()):
        top = 18 + row * (40 + 18 + 4) + 18
        assert np.array_equal(sheet[top : top + 40, 8:48], to_uint8(image))
        for column in range(4):
            expected = to_uint8(overlay(image[None], heatmap(own[column : column + 1], "inferno"))[0])
            left = 8 + (column + 1) * 44
            assert np.array_equal(sheet[top : top + 40, left : left + 40], expected)


def test_a_constant_map_is_marked():
    image, maps = torch.zeros(3, 64, 64), torch.rand(4, 64, 64)
    maps[2] = 0
    plain = to_uint8(overlay(image[None], heatmap(maps[2:3], "inferno"))[0])
    sheet = similarity_sheet(image, {"cam": maps}, LAYERS, tile=64)
    tile = sheet[36:100, 8 + 3 * 68 : 8 + 3 * 68 + 64]
    assert not np.array_equal(tile, plain)
    assert np.array_equal(tile[20:], plain[20:])
    assert tile[:20].min(axis=2).max() > 200  # white letters


def test_images_that_are_not_square_and_long_names_fit():
    layers = ["features.denseblock4.denselayer16.conv2"] * 3
    sheet = similarity_sheet(torch.rand(3, 30, 60), {"smoe": torch.rand(4, 30, 60)}, layers, tile=48)
    assert sheet.shape[1] == 8 * 2 + 5 * 48 + 4 * 4
    with pytest.raises(ValueError, match=r"4 maps of 'smoe', but 1 \+ 2"):
        similarity_sheet(torch.rand(3, 30, 60), {"smoe": torch.rand(4, 30, 60)}, layers[:2])
