"""Exact fractions, ROAR, KAR, blending and blurring against loops over pixels."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from lightning_saliency.functional import fills
from lightning_saliency.functional import masking as fast

from .loops import masking as loop
from .loops.group_cam import gaussian_blur, perturb
from .loops.resampling import Array, bilinear

SIZES = [(1, 1), (1, 7), (5, 5), (6, 11), (16, 16)]


def distinct_maps(batch: int, height: int, width: int, seed: int = 0) -> Array:
    """Maps without ties, in [0, 1]."""
    generator = np.random.default_rng(seed)
    return np.stack([generator.permutation(height * width).reshape(height, width) for _ in range(batch)]) / (
        height * width
    )


def random_images(batch: int, height: int, width: int) -> Array:
    return np.random.default_rng(height * 100 + width).normal(size=(batch, 3, height, width))


@pytest.mark.parametrize("fraction", [0.0, 0.025, 0.1, 0.15, 0.2, 0.5, 0.9, 1.0])
@pytest.mark.parametrize(("height", "width"), SIZES)
def test_top_fraction(height: int, width: int, fraction: float) -> None:
    maps = distinct_maps(2, height, width)
    got = fast.top_fraction(torch.from_numpy(maps), fraction)
    for b in range(2):
        np.testing.assert_array_equal(got[b].numpy(), loop.top_fraction(maps[b], fraction))


@settings(max_examples=60, deadline=None)
@given(
    saliency=hnp.arrays(np.float64, st.tuples(st.integers(1, 9), st.integers(1, 9)), elements=st.integers(0, 4)),
    percent=st.integers(0, 100),
)
def test_top_fraction_of_maps_full_of_ties(saliency: Array, percent: int) -> None:
    chosen = fast.top_fraction(torch.from_numpy(saliency)[None], percent / 100)[0].numpy()
    np.testing.assert_array_equal(chosen, loop.top_fraction(saliency, percent / 100))


@pytest.mark.parametrize("fraction", [0.1, 0.3, 0.5, 0.7, 0.9])
@pytest.mark.parametrize(("height", "width"), SIZES)
def test_roar_and_kar(height: int, width: int, fraction: float) -> None:
    images, maps = random_images(2, height, width), distinct_maps(2, height, width, seed=3)
    fill = np.array([0.25, -1.5, 3.0])
    arguments = torch.from_numpy(images), torch.from_numpy(maps), fraction, torch.from_numpy(fill)
    removed, kept = fast.remove_most_salient(*arguments), fast.keep_most_salient(*arguments)
    for b in range(2):
        np.testing.assert_array_equal(removed[b].numpy(), loop.roar(images[b], maps[b], fraction, fill))
        np.testing.assert_array_equal(kept[b].numpy(), loop.kar(images[b], maps[b], fraction, fill))


def test_default_fill_is_the_mean_colour_of_a_normalised_image() -> None:
    images, maps = random_images(1, 6, 11), distinct_maps(1, 6, 11)
    got = fast.remove_most_salient(torch.from_numpy(images), torch.from_numpy(maps), 0.3)
    np.testing.assert_array_equal(got[0].numpy(), loop.roar(images[0], maps[0], 0.3, np.zeros(3)))


def test_roar_and_kar_are_each_others_complement() -> None:
    image, saliency = random_images(1, 5, 5)[0], distinct_maps(1, 5, 5)[0]
    zero = np.zeros(3)
    np.testing.assert_array_equal(loop.roar(image, saliency, 0.3, zero) + loop.kar(image, saliency, 0.3, zero), image)


@pytest.mark.parametrize(("height", "width"), [(5, 5), (6, 11)])
def test_blend_is_group_cam_equation_5(height: int, width: int) -> None:
    images, baseline = random_images(2, height, width), random_images(2, height, width)[::-1].copy()
    masks = np.stack([distinct_maps(2, height, width, seed=seed) for seed in range(3)], axis=1)
    got = fast.blend(torch.from_numpy(images), torch.from_numpy(baseline), torch.from_numpy(masks))
    assert got.dtype == torch.float64
    for b in range(2):
        for m in range(3):
            np.testing.assert_allclose(got[b, m].numpy(), perturb(images[b], baseline[b], masks[b, m]), atol=1e-12)


def test_blend_upsamples_small_masks() -> None:
    images, baseline = random_images(2, 9, 14), np.zeros((2, 3, 9, 14))
    masks = distinct_maps(2, 3, 5)
    got = fast.blend(torch.from_numpy(images), torch.from_numpy(baseline), torch.from_numpy(masks))
    for b in range(2):
        expected = perturb(images[b], baseline[b], bilinear(masks[b], 9, 14))
        np.testing.assert_allclose(got[b].numpy(), expected, atol=1e-12)


@pytest.mark.parametrize(
    ("height", "width", "kernel_size", "sigma"), [(7, 9, 3, 1.8), (12, 8, 7, 2.0), (13, 12, 11, 50.0), (6, 9, 51, 50.0)]
)
def test_blur_is_the_two_dimensional_convolution(height: int, width: int, kernel_size: int, sigma: float) -> None:
    images = random_images(2, height, width)
    got = fills.blur(torch.from_numpy(images), kernel_size, sigma)
    assert got.dtype == torch.float64
    for b in range(2):
        np.testing.assert_allclose(got[b].numpy(), gaussian_blur(images[b], kernel_size, sigma), atol=1e-9)
