"""LOVI, heat maps and overlays: the errata's formulas, matplotlib as oracle, and what happens to odd values."""

from __future__ import annotations

import colorsys
import math

import matplotlib
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from matplotlib.colors import hsv_to_rgb, rgb_to_hsv
from torch import Tensor

from lightning_saliency.functional.visualization import _hsv_to_rgb, heatmap, lovi, overlay

# ---- LOVI


def one_pixel(*values: float) -> Tensor:
    return torch.tensor(values, dtype=torch.float64).reshape(1, -1, 1, 1)


def hsv_of(*values: float) -> tuple[float, float, float]:
    red, green, blue = lovi(one_pixel(*values)).flatten().tolist()
    return colorsys.rgb_to_hsv(red, green, blue)


@pytest.mark.parametrize("count", [2, 3, 5, 8])
def test_one_active_scale_is_vivid_from_violet_to_red(count: int) -> None:
    for k in range(count):
        values = [0.0] * count
        values[k] = 0.8
        hue, saturation, value = hsv_of(*values)
        assert hue * 360 == pytest.approx(300 * (1 - k / (count - 1)), abs=1e-9)
        assert saturation == pytest.approx(1)
        assert value == pytest.approx(0.8)


def test_violet_first_red_last() -> None:
    torch.testing.assert_close(lovi(one_pixel(1, 0, 0, 0, 0)).flatten(), torch.tensor([1, 0, 1]).double())
    torch.testing.assert_close(lovi(one_pixel(0, 0, 0, 0, 1)).flatten(), torch.tensor([1, 0, 0]).double())


@pytest.mark.parametrize("value", [1e-6, 0.2, 1.0])
@pytest.mark.parametrize("count", [2, 3, 5])
def test_all_scales_equally_active_are_grey(count: int, value: float) -> None:
    torch.testing.assert_close(
        lovi(one_pixel(*[value] * count)).flatten(), torch.full((3,), value, dtype=torch.float64)
    )


def test_nothing_active_is_black() -> None:
    assert torch.equal(lovi(torch.zeros(2, 5, 3, 3)), torch.zeros(2, 3, 3, 3))


def test_one_scale_is_drawn_in_grey() -> None:
    maps = torch.rand(2, 1, 4, 5)
    assert torch.equal(lovi(maps), maps.expand(2, 3, 4, 5))


def test_eq_4_to_7_with_the_errata_pixel_by_pixel() -> None:
    maps = torch.rand(2, 5, 4, 3, dtype=torch.float64)
    result = lovi(maps)
    r, nu = 5, 1 / 5
    for b in range(2):
        for i in range(4):
            for j in range(3):
                s = maps[b, :, i, j].tolist()
                phi = [1 - (k - 1) / (r - 1) for k in range(1, r + 1)]
                hue = 300 * sum(x * p for x, p in zip(s, phi, strict=True)) / sum(s)
                saturation = 1 - (sum(s) / (r * max(s)) - nu) / (1 - nu)
                expected = colorsys.hsv_to_rgb(hue / 360, saturation, max(s))
                assert result[b, :, i, j].tolist() == pytest.approx(expected, abs=1e-12)


@settings(max_examples=30, deadline=None)
@given(seed=st.integers(0, 2**32 - 1), count=st.integers(1, 7))
def test_lovi_is_a_picture_whose_value_is_the_largest_map(seed: int, count: int) -> None:
    maps = torch.rand((2, count, 3, 4), generator=torch.Generator().manual_seed(seed))
    picture = lovi(maps)
    assert picture.shape == (2, 3, 3, 4)
    assert (picture >= 0).all()
    assert (picture <= 1).all()
    torch.testing.assert_close(picture.amax(1), maps.amax(1))


def test_hsv_to_rgb_is_matplotlibs() -> None:
    hsv = torch.rand(3, 2, 50, 40, dtype=torch.float64)
    hsv[0, 0, 0] = torch.linspace(0, 1, 40)  # the corners of the colour wheel
    hsv[1:, 0, 0] = 1
    hsv[1, 1, 0] = 0
    expected = hsv_to_rgb(hsv.permute(1, 2, 3, 0).numpy())
    np.testing.assert_allclose(_hsv_to_rgb(*hsv).permute(0, 2, 3, 1), expected, atol=1e-12)
    back = rgb_to_hsv(_hsv_to_rgb(*hsv).permute(0, 2, 3, 1).numpy())
    np.testing.assert_allclose(back[..., 2], hsv[2], atol=1e-12)


# ---- heat maps


@pytest.mark.parametrize("name", ["jet", "viridis", "gray", "tab10", "twilight"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_heatmap_is_matplotlibs(name: str, dtype: torch.dtype) -> None:
    maps = torch.cat([torch.rand(2, 30, 30, dtype=dtype), torch.linspace(0, 1, 900, dtype=dtype).reshape(1, 30, 30)])
    expected = matplotlib.colormaps[name](maps.numpy())[..., :3]
    np.testing.assert_allclose(heatmap(maps, name).permute(0, 2, 3, 1), expected, atol=1e-7)


def test_heatmap_of_values_that_are_no_saliency() -> None:
    maps = torch.tensor([[[-math.inf, -1.0, 0.0, math.nan, 1.0, 2.0, math.inf]]])
    colors = heatmap(maps, "viridis")[0, :, 0].T
    low, high = matplotlib.colormaps["viridis"]([0.0, 1.0])[:, :3]
    for column in (0, 1, 2):
        np.testing.assert_allclose(colors[column], low, atol=1e-6)
    for column in (4, 5, 6):
        np.testing.assert_allclose(colors[column], high, atol=1e-6)
    assert torch.equal(colors[3], torch.zeros(3))


def test_unknown_colormap() -> None:
    with pytest.raises(ValueError, match=r"Got colormap='jets'. Allowed are .* such as 'jet', 'viridis'"):
        heatmap(torch.rand(1, 2, 2), "jets")


# ---- overlays


def test_overlay_blends_the_grey_image_at_a_quarter() -> None:
    images, colors = torch.rand(2, 3, 4, 5), torch.rand(2, 3, 4, 5)
    grey = 0.299 * images[:, 0] + 0.587 * images[:, 1] + 0.114 * images[:, 2]
    torch.testing.assert_close(overlay(images, colors), 0.25 * grey.unsqueeze(1) + 0.75 * colors)
    torch.testing.assert_close(overlay(images, colors, alpha=0), colors)
    torch.testing.assert_close(overlay(images, colors, alpha=1), grey.unsqueeze(1).expand(2, 3, 4, 5))


def test_overlay_takes_any_number_of_channels() -> None:
    colors = torch.rand(2, 3, 4, 5)
    grey = torch.rand(2, 1, 4, 5)
    torch.testing.assert_close(overlay(grey, colors), 0.25 * grey + 0.75 * colors)
    for channels in (2, 4, 8):
        images = torch.rand(2, channels, 4, 5)
        torch.testing.assert_close(overlay(images, colors), 0.25 * images.mean(1, keepdim=True) + 0.75 * colors)


def test_overlay_stays_in_range() -> None:
    picture = overlay(torch.randn(1, 3, 8, 8) * 5, torch.randn(1, 3, 8, 8) * 5)
    assert (picture >= 0).all()
    assert (picture <= 1).all()
    assert overlay(torch.full((1, 3, 1, 1), math.nan), torch.ones(1, 3, 1, 1)).flatten().tolist() == [0.75] * 3


def test_overlay_errors() -> None:
    image = torch.rand(2, 3, 4, 5)
    for colors in (torch.rand(2, 3, 4, 4), torch.rand(1, 3, 4, 5), torch.rand(2, 1, 4, 5), torch.rand(3, 4, 5)):
        with pytest.raises(ValueError, match=r"Got colors .*Allowed are \[2, 3, 4, 5\]"):
            overlay(image, colors)
    for alpha in (-0.1, 1.1, math.nan):
        with pytest.raises(ValueError, match=r"Got alpha="):
            overlay(image, image, alpha=alpha)
    with pytest.raises(ValueError, match=r"Got images \["):
        overlay(image[0], image[0])
    with pytest.raises(TypeError, match=r"Got images of torch\.uint8. Allowed are real floating-point tensors"):
        overlay((image * 255).byte(), image)
    with pytest.raises(TypeError, match=r"Got colors of"):
        overlay(image, (image * 255).byte())


# ---- all of them


def test_odd_maps_are_drawn_not_refused() -> None:
    maps = torch.rand(1, 3, 4, 4)
    maps[0, :, 0, 0] = math.nan
    maps[0, 0, 1, 1], maps[0, 1, 1, 1] = 7.0, -7.0
    picture = lovi(maps)
    assert picture.isfinite().all()
    assert torch.equal(picture[0, :, 0, 0], torch.zeros(3))
    torch.testing.assert_close(picture, lovi(maps.nan_to_num(nan=0).clamp(0, 1)))


def test_precision_layout_and_empty_batch() -> None:
    maps = torch.rand(2, 5, 4, 3)
    assert lovi(maps).dtype == heatmap(maps[:, 0]).dtype == torch.float32
    assert lovi(maps.double()).dtype == heatmap(maps[:, 0].double()).dtype == torch.float64
    for dtype in (torch.float16, torch.bfloat16):
        assert torch.equal(lovi(maps.to(dtype)), lovi(maps.to(dtype).float()))
        assert torch.equal(heatmap(maps[:, 0].to(dtype)), heatmap(maps[:, 0].to(dtype).float()))
    torch.testing.assert_close(lovi(maps.to(memory_format=torch.channels_last)), lovi(maps))
    empty = lovi(torch.rand(0, 5, 4, 3))
    assert (
        empty.shape
        == overlay(torch.rand(0, 3, 4, 3), empty).shape
        == heatmap(torch.rand(0, 4, 3)).shape
        == (0, 3, 4, 3)
    )
    with torch.inference_mode(), torch.autocast("cpu", dtype=torch.bfloat16):
        assert overlay(torch.rand(2, 3, 4, 3), lovi(maps.clone())).dtype == torch.float32


def test_clear_errors() -> None:
    with pytest.raises(TypeError, match=r"Got maps of .*Allowed are real floating-point tensors"):
        lovi(torch.ones(1, 3, 2, 2, dtype=torch.int64))
    with pytest.raises(TypeError, match=r"Got maps of .*Allowed are real floating-point tensors"):
        heatmap(torch.ones(1, 2, 2, dtype=torch.uint8))
    for shape in ((3, 2, 2), (1, 0, 2, 2)):
        with pytest.raises(ValueError, match=r"Allowed are \[B, K, H, W\]"):
            lovi(torch.ones(shape))
    with pytest.raises(ValueError, match=r"Allowed are \[B, H, W\]"):
        heatmap(torch.ones(1, 1, 2, 2))
