"""Filling pixels by rank and by mask: exact counts, exact formulas, every dtype and every odd size."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.ndimage import correlate1d

from lightning_saliency.functional.fills import blur, fill_images
from lightning_saliency.functional.masking import (
    above_mean,
    attribution_masks,
    blend,
    keep_most_salient,
    remove_most_salient,
    resize_maps,
    salient_patches,
    soft_edges,
    top_fraction,
)


@settings(max_examples=60, deadline=None)
@given(
    levels=st.integers(1, 5),
    height=st.integers(1, 9),
    width=st.integers(1, 9),
    batch=st.integers(0, 3),
    fraction=st.floats(0, 1),
    seed=st.integers(0, 2**16),
)
def test_top_fraction_is_exact_whatever_the_ties(levels, height, width, batch, fraction, seed):
    generator = torch.Generator().manual_seed(seed)
    saliency = torch.randint(0, levels, (batch, height, width), generator=generator).float()
    chosen = top_fraction(saliency, fraction)
    assert chosen.dtype == torch.bool
    assert chosen.shape == saliency.shape
    assert (chosen.sum((1, 2)) == round(fraction * height * width)).all()
    for values, mask in zip(saliency, chosen, strict=True):
        if mask.any() and not mask.all():
            assert values[mask].min() >= values[~mask].max()


def test_top_fraction_decides_ties_in_reading_order_and_alike_in_every_batch():
    generator = torch.Generator().manual_seed(1)
    saliency = torch.randint(0, 3, (6, 10, 10), generator=generator).float()
    together = top_fraction(saliency, 0.37)
    alone = torch.cat([top_fraction(one[None], 0.37) for one in saliency])
    assert torch.equal(together, alone)
    expected = torch.zeros(6, 100, dtype=torch.bool)
    for row, values in zip(expected, saliency.flatten(1), strict=True):
        row[np.argsort(-values.numpy(), kind="stable")[:37].copy()] = True
    assert torch.equal(together.flatten(1), expected)


@pytest.mark.parametrize("dtype", [torch.uint8, torch.float16, torch.bfloat16, torch.float64, torch.bool])
def test_top_fraction_takes_every_dtype(dtype):
    saliency = torch.arange(16).view(1, 4, 4).remainder(7).to(dtype)
    assert top_fraction(saliency, 0.5).sum() == 8


@pytest.mark.parametrize("fraction", [-0.1, 1.1, float("nan")])
def test_top_fraction_refuses_a_fraction_outside_the_unit_interval(fraction):
    with pytest.raises(ValueError, match=r"\[0, 1\]"):
        top_fraction(torch.zeros(1, 2, 2), fraction)


def test_top_fraction_refuses_nan_and_flat_input():
    with pytest.raises(ValueError, match="NaN"):
        top_fraction(torch.tensor([[[0.0, float("nan")]]]), 0.5)
    with pytest.raises(ValueError, match=r"\[5\]"):
        top_fraction(torch.zeros(5), 0.5)


def test_removing_and_keeping_share_the_pixels_out():
    images, saliency = torch.rand(3, 3, 7, 5) + 1, torch.rand(3, 7, 5)
    removed = remove_most_salient(images, saliency, 0.3)
    kept = keep_most_salient(images, saliency, 0.3)
    assert torch.equal(removed + kept, images)
    assert ((kept != 0).all(1).sum((1, 2)) == round(0.3 * 35)).all()
    assert torch.equal(removed == 0, top_fraction(saliency, 0.3)[:, None].expand_as(images))


@pytest.mark.parametrize(
    ("sigmas", "above"),
    [(0.0, [0, 0, 0, 1]), (1.3, [0, 0, 0, 1]), (1.5, [0, 0, 0, 0]), (-1.0, [0, 1, 1, 1]), (-1.5, [1, 1, 1, 1])],
)
def test_pixels_above_the_mean_by_hand(sigmas, above):
    maps = torch.tensor([[[0.0, 2.0], [2.0, 4.0]], [[7.0, 7.0], [7.0, 7.0]]])  # means 2 and 7, deviations √2 and 0
    assert above_mean(maps, sigmas).flatten(1).int().tolist() == [above, [0, 0, 0, 0]]


def test_a_patch_of_whole_sides_loses_no_pixel_to_rounding():
    """√(36/289) · 17 is 6, and 5.999… in double precision."""
    maps = torch.zeros(1, 17, 17)
    maps[0, 8, 8] = 1.0
    expected = torch.zeros(1, 17, 17, dtype=torch.bool)
    expected[0, 5:11, 5:11] = True
    assert torch.equal(salient_patches(maps, torch.tensor([36 / 289], dtype=torch.float64)), expected)


@pytest.mark.parametrize(("side", "softness"), [(8, 0.2), (16, 0.1), (56, 0.02)])
def test_rounding_makes_no_region_more_than_whole(side, softness):
    assert soft_edges(torch.ones(1, side, side), softness).max() <= 1


def test_fills():
    images = torch.rand(2, 3, 6, 6, dtype=torch.float64)
    assert torch.equal(fill_images(images, "zero"), torch.zeros_like(images))
    assert torch.equal(fill_images(images, 0.25), torch.full_like(images, 0.25))
    assert torch.allclose(fill_images(images, "mean")[1, 2], images[1, 2].mean())
    for fill in [(0.1, 0.2, 0.3), [0.1, 0.2, 0.3], torch.tensor([0.1, 0.2, 0.3], dtype=torch.float64)]:
        assert torch.equal(fill_images(images, fill)[1, :, 3, 3], torch.tensor([0.1, 0.2, 0.3], dtype=torch.float64))
    own = torch.rand_like(images)
    assert torch.equal(fill_images(images, own), own)
    assert torch.equal(fill_images(images, own[:1])[1], own[0])
    assert torch.equal(fill_images(images, "blur"), blur(images))


def test_noise_has_the_statistics_of_the_image_and_its_own_generator():
    images = torch.rand(1, 2, 64, 64) * torch.tensor([1.0, 5.0]).view(2, 1, 1) + 3
    before = torch.get_rng_state()
    noise = fill_images(images, "noise", generator=torch.Generator().manual_seed(3))
    assert torch.equal(before, torch.get_rng_state())
    assert torch.equal(noise, fill_images(images, "noise", generator=torch.Generator().manual_seed(3)))
    assert not torch.equal(noise, fill_images(images, "noise", generator=torch.Generator().manual_seed(4)))
    assert torch.allclose(noise.mean((2, 3)), images.mean((2, 3)), rtol=0.05)
    assert torch.allclose(noise.std((2, 3)), images.std((2, 3)), rtol=0.05)


@pytest.mark.parametrize("fill", ["white", (0.1, 0.2), torch.zeros(4, 4, 4)])
def test_an_unfitting_fill_is_refused_with_what_is_allowed(fill):
    with pytest.raises(ValueError, match="Allowed are"):
        fill_images(torch.rand(2, 3, 6, 6), fill)


def test_maps_of_another_size_are_refused():
    with pytest.raises(ValueError, match=r"\[2, 6, 6\]"):
        remove_most_salient(torch.rand(2, 3, 6, 6), torch.rand(2, 3, 3), 0.1)
    with pytest.raises(ValueError, match="floating-point"):
        keep_most_salient(torch.zeros(2, 3, 6, 6, dtype=torch.uint8), torch.rand(2, 6, 6), 0.1)


def test_blend_is_equation_5():
    images, baseline = torch.rand(2, 3, 4, 5, dtype=torch.float64), torch.rand(2, 3, 4, 5, dtype=torch.float64)
    masks = torch.rand(2, 4, 4, 5, dtype=torch.float64)
    blended = blend(images, baseline, masks)
    assert blended.shape == (2, 4, 3, 4, 5)
    for b, m, c, y, x in np.ndindex(2, 4, 3, 4, 5):
        weight = masks[b, m, y, x]
        expected = images[b, c, y, x] * weight + baseline[b, c, y, x] * (1 - weight)
        assert blended[b, m, c, y, x] == pytest.approx(expected.item(), abs=1e-12)
    assert torch.equal(blend(images, baseline, masks[:, 2]), blended[:, 2])


def test_blend_upsamples_masks_and_is_exact_at_both_ends():
    images, baseline = torch.rand(2, 3, 8, 8), torch.rand(2, 3, 8, 8)
    masks = torch.stack([torch.zeros(2, 2, 2), torch.ones(2, 2, 2)], dim=1)
    blended = blend(images, baseline, masks)
    assert torch.equal(blended[:, 0], baseline)
    assert torch.equal(blended[:, 1], images)
    small = torch.rand(2, 3, 2)
    assert torch.equal(blend(images, baseline, small), blend(images, baseline, resize_maps(small, (8, 8))))


def test_blend_refuses_masks_of_another_batch():
    with pytest.raises(ValueError, match="B = 2"):
        blend(torch.rand(2, 3, 4, 4), torch.zeros(1), torch.rand(3, 4, 4))


def test_blur_is_a_gaussian_with_reflected_edges():
    images = torch.rand(2, 3, 40, 30, dtype=torch.float64)
    offsets = np.arange(-5, 6)
    kernel = np.exp(-0.5 * (offsets / 4.0) ** 2)
    kernel /= kernel.sum()
    expected = correlate1d(correlate1d(images.numpy(), kernel, axis=-1, mode="mirror"), kernel, axis=-2, mode="mirror")
    assert np.allclose(blur(images, 11, 4.0).numpy(), expected, atol=1e-12)


@pytest.mark.parametrize("size", [(1, 1), (1, 9), (5, 60), (26, 25), (224, 3)])
def test_blur_of_images_smaller_than_its_kernel(size):
    images = torch.rand(1, 2, *size)
    blurred = blur(images)
    assert blurred.shape == images.shape
    assert blurred.isfinite().all()
    assert blurred.amin() >= images.amin() - 1e-6
    assert blurred.amax() <= images.amax() + 1e-6
    assert torch.allclose(blur(torch.full_like(images, 0.7)), torch.tensor(0.7))


def test_blur_clips_the_kernel_to_what_reflection_allows():
    images = torch.rand(1, 1, 4, 90, dtype=torch.float64)
    # So wide a Gaussian is a box: 51 pixels along the rows, 2 · 4 - 1 = 7 along the columns.
    expected = correlate1d(images.numpy(), np.ones(51) / 51, axis=-1, mode="mirror")
    expected = correlate1d(expected, np.ones(7) / 7, axis=-2, mode="mirror")
    assert np.allclose(blur(images, 51, 1e6).numpy(), expected, atol=1e-6)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_and_autocast_blur_in_float32(dtype):
    images = torch.rand(1, 3, 20, 20).to(dtype)
    expected = blur(images.float(), 9, 3.0)
    assert blur(images, 9, 3.0).dtype == dtype
    assert torch.equal(blur(images, 9, 3.0), expected.to(dtype))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(blur(images.float(), 9, 3.0), expected)


def test_a_share_of_the_side_is_the_papers_blur_at_224_pixels_and_hides_as_much_of_a_small_image():
    images = torch.rand(2, 3, 224, 230)
    assert torch.equal(blur(images), blur(images, 51, 50.0))
    small = torch.rand(2, 3, 40, 32)
    assert torch.equal(blur(small), blur(small, 7, 50 / 224 * 32))
    assert torch.equal(blur(small, 0.5, 0.25), blur(small, 17, 8.0))
    # Of a photograph: here the same one, larger.
    image = torch.rand(1, 1, 14, 14, generator=torch.Generator().manual_seed(0))
    left = []
    for side in (56, 112, 224):
        photograph = torch.nn.functional.interpolate(image, (side, side), mode="bilinear")
        left.append((blur(photograph).std() / photograph.std()).item())
    assert left == pytest.approx([left[-1]] * 3, rel=0.1)
    assert blur(torch.eye(8)[None, None]).std() < torch.eye(8).std()  # also of an image of a few pixels something


def test_blur_refuses_bad_kernels_and_takes_an_empty_batch():
    with pytest.raises(ValueError, match="kernel_size=4"):
        blur(torch.rand(1, 1, 9, 9), kernel_size=4)
    with pytest.raises(ValueError, match="sigma=0"):
        blur(torch.rand(1, 1, 9, 9), sigma=0)
    assert blur(torch.rand(0, 3, 9, 9)).shape == (0, 3, 9, 9)


@pytest.mark.parametrize("size", [(8, 8), (31, 33), (4, 4)])
def test_attribution_masks_span_the_unit_interval_once_upsampled(size):
    maps = torch.randn(5, 4, 4) * 3 + 7
    masks, sums = attribution_masks(maps, size)
    upsampled = resize_maps(masks, size)
    literal = resize_maps(maps, size)
    for index in range(5):
        low, high = literal[index].min(), literal[index].max()
        assert torch.allclose(upsampled[index], (literal[index] - low) / (high - low), atol=1e-5)
    assert torch.allclose(sums, upsampled.sum((1, 2)), rtol=1e-4)


@pytest.mark.parametrize("value", [0.0, 0.1, -1e4, 3e-39])
def test_attribution_mask_of_a_constant_map_is_zero(value):
    masks, sums = attribution_masks(torch.full((1, 3, 3), value), (20, 20))
    assert torch.equal(masks, torch.zeros(1, 3, 3))
    assert sums.item() == 0
