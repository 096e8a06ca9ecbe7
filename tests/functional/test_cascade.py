"""Otsu's threshold against scikit-image, the cascade against its formula read literally."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from skimage.filters import threshold_otsu

from lightning_saliency.functional.fusion import cascade_fusion, otsu_threshold


def _two_humps(seed: int, shape: tuple[int, ...]) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    background = torch.randn(shape, generator=generator, dtype=torch.float64)
    chosen = torch.rand(shape, generator=generator) < 0.3
    return torch.where(chosen, background * 0.5 + 4, background)


def _exact_otsu(values: np.ndarray) -> float:
    """scikit-image's threshold where every distinct value is a bin of the histogram."""
    distinct, counts = np.unique(values, return_counts=True)
    return threshold_otsu(hist=(counts, distinct))


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("transform", [lambda x: x, lambda x: x * 1e-6 - 3, torch.exp, lambda x: x.relu()])
def test_otsu_equals_scikit_image(seed, transform):
    maps = transform(_two_humps(seed, (4, 24, 31)))
    assert otsu_threshold(maps).tolist() == [_exact_otsu(one.numpy()) for one in maps]
    by_histogram = torch.tensor([threshold_otsu(one.numpy()) for one in maps], dtype=torch.float64)[:, None, None]
    differ = (maps > otsu_threshold(maps)[:, None, None]) != (maps > by_histogram)
    assert differ.double().mean((1, 2)).max() <= 0.01


@pytest.mark.parametrize("seed", range(5))
def test_otsu_of_maps_full_of_ties(seed):
    maps = torch.randint(0, 6, (3, 7, 9), generator=torch.Generator().manual_seed(seed))
    assert otsu_threshold(maps).tolist() == [_exact_otsu(one.numpy()) for one in maps]


@pytest.mark.parametrize("scale", [1e-30, 1e-4, 1e12])
def test_otsu_in_single_precision_finds_the_same_pixels(scale):
    maps = _two_humps(9, (6, 40, 40)).float()
    expected = maps > otsu_threshold(maps.double())[:, None, None]
    assert torch.equal(maps * scale > otsu_threshold(maps * scale)[:, None, None], expected)


def test_otsu_of_values_far_from_zero():
    """3000, 3000, 2000 and 2000 of 0, 1, 3 and 4 parts in 1024, 1024 away: between 1 and 3 lie the two groups."""
    parts = torch.tensor([0.0] * 3000 + [1.0] * 3000 + [3.0] * 2000 + [4.0] * 2000).reshape(100, 100)
    # n₀ · n₁ · (μ₀ − μ₁)²: 0.6 · 0.4 · 3² = 2.2 there, 0.3 · 0.7 · 2.4² = 1.2 and 0.8 · 0.2 · 2.9² = 1.3 beside.
    assert otsu_threshold(1024 + parts / 1024).item() == 1024 + 1 / 1024


def test_otsu_of_a_batch_is_that_of_each_map():
    maps = _two_humps(2, (2, 3, 17, 19)).float()
    together = otsu_threshold(maps)
    assert together.shape == (2, 3)
    assert torch.equal(together, torch.stack([torch.stack([otsu_threshold(one) for one in row]) for row in maps]))


@pytest.mark.parametrize("value", [0.0, -2.5, 7.0])
def test_otsu_of_a_constant_map_is_the_constant(value):
    maps = torch.full((2, 5, 5), value)
    assert torch.equal(otsu_threshold(maps), torch.full((2,), value))
    assert otsu_threshold(maps)[0].item() == threshold_otsu(maps[0].numpy())


def test_otsu_edge_cases():
    assert otsu_threshold(torch.zeros(0, 4, 4)).shape == (0,)
    assert otsu_threshold(torch.tensor([[[3.0]]])).tolist() == [3.0]
    assert otsu_threshold(torch.rand(1, 8, 8).half()).dtype == torch.float32
    with pytest.raises(ValueError, match=r"\[2, 0, 3\]"):
        otsu_threshold(torch.rand(2, 0, 3))


def _literal_fusion(maps: np.ndarray) -> np.ndarray:
    """F₁ = V₁; F_{i+1} = (F_i + V_{i+1}) · [V_{i+1} > Otsu(V_{i+1})], one image and one pixel at a time."""
    fused = np.empty((maps.shape[0], *maps.shape[2:]))
    for b in range(maps.shape[0]):
        scaled = [(v - v.min()) / (v.max() - v.min()) for v in maps[b]]
        f = scaled[0].copy()
        for v in scaled[1:]:
            threshold = _exact_otsu(v)
            for y, x in np.ndindex(*v.shape):
                f[y, x] = f[y, x] + v[y, x] if v[y, x] > threshold else 0.0
        fused[b] = f
    return fused


@pytest.mark.parametrize("count", [1, 2, 4])
def test_cascade_is_the_formula(count):
    maps = torch.stack([_two_humps(seed, (3, 20, 22)) * 10**seed for seed in range(count)], dim=1)
    expected = _literal_fusion(maps.numpy())
    assert np.allclose(cascade_fusion(maps).numpy(), expected, atol=1e-9)
    assert torch.equal(cascade_fusion(list(maps.unbind(1))), cascade_fusion(maps))


def test_cascade_passes_over_constant_maps_image_by_image():
    maps = _two_humps(4, (2, 3, 16, 16)).float()
    maps[0, 2] = 5.0
    maps[1, 0] = 0.0
    fused = cascade_fusion(maps)
    assert torch.equal(fused[:1], cascade_fusion(maps[:1, :2]))
    assert fused.isfinite().all()
    assert cascade_fusion(torch.full((2, 3, 4, 4), 0.3)).abs().sum() == 0


def test_cascade_refuses_nothing_and_unequal_sizes():
    with pytest.raises(ValueError, match="at least one"):
        cascade_fusion([])
    with pytest.raises(ValueError, match=r"\[1, 4, 4\], \[1, 8, 8\]"):
        cascade_fusion([torch.rand(1, 4, 4), torch.rand(1, 8, 8)])
