"""Pearson, Spearman, SSIM and HOG against numpy, scipy and scikit-image, and what the formulas leave open."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch
from scipy.stats import spearmanr
from torch import Tensor

from lightning_saliency.functional.similarity import _hog, hog_similarity, pearson, spearman, ssim

Similarity = Callable[[Tensor, Tensor], Tensor]
ALL = pytest.mark.parametrize("similarity", [pearson, spearman, ssim, hog_similarity])


def related_maps(batch: int, height: int, width: int, dtype: torch.dtype = torch.float32) -> tuple[Tensor, Tensor]:
    a = torch.rand(batch, height, width, dtype=dtype)
    return a, (0.6 * a + 0.4 * torch.rand(batch, height, width, dtype=dtype)).flip(0)


@pytest.mark.parametrize("levels", [None, 255, 4])
@pytest.mark.parametrize("shape", [(2, 3), (5, 40), (3, 9, 7), (2, 3, 16, 5)])
def test_spearman_equals_scipy(shape: tuple[int, ...], levels: int | None) -> None:
    a, b = torch.rand(shape), torch.rand(shape)
    if levels is not None:
        a, b = (a * levels).round(), (b * levels).round() / levels
    for i, value in enumerate(spearman(a, b)):
        expected = spearmanr(a[i].flatten(), b[i].flatten()).statistic
        assert value.item() == pytest.approx(expected, abs=2e-6)


def test_pearson_equals_numpy() -> None:
    a, b = related_maps(3, 9, 20)
    expected = [np.corrcoef(x.flatten(), y.flatten())[0, 1] for x, y in zip(a.numpy(), b.numpy(), strict=True)]
    np.testing.assert_allclose(pearson(a, b).numpy(), expected, atol=1e-6)
    torch.testing.assert_close(pearson(5 * a + 1, -b), -pearson(a, b))


def test_pearson_is_the_share_that_two_maps_have_in_common() -> None:
    common, first, second = torch.randn(3, 200, 200, generator=torch.Generator().manual_seed(0))
    for share in (0.1, 0.5, 0.9):
        maps = [(share**0.5 * common + (1 - share) ** 0.5 * own)[None] for own in (first, second)]
        assert pearson(*maps).item() == pytest.approx(share, abs=0.02)
    flat = torch.full((1, 3, 3), 0.1)
    assert [pearson(flat, other).item() for other in (flat, torch.rand(1, 3, 3))] == [1.0, 0.0]


def test_spearman_is_exact_where_float32_counts_run_out() -> None:
    """224² ranks: their squares sum to 4e13, far beyond the integers of float32."""
    a = torch.rand(2, 224, 224)
    assert spearman(a, a).tolist() == [1.0, 1.0]
    assert spearman(a, -a).tolist() == [-1.0, -1.0]
    b = (torch.rand(2, 224, 224) * 50).round()
    expected = [spearmanr(x.flatten(), y.flatten()).statistic for x, y in zip(a, b, strict=True)]
    np.testing.assert_allclose(spearman(a, b).numpy(), expected, atol=1e-6)


def test_spearman_sees_the_order_only() -> None:
    a, b = related_maps(4, 10, 12, torch.float64)
    plain = spearman(a, b)
    assert plain.abs().max() < 0.99
    torch.testing.assert_close(spearman(a.exp() * 1e3 - 7, b**3), plain)
    torch.testing.assert_close(spearman(-a, b), -plain)
    torch.testing.assert_close(spearman(b, a), plain)


def test_spearman_of_constant_maps() -> None:
    flat, other_flat, ramp = torch.full((1, 3, 3), 0.1), torch.zeros(1, 3, 3), torch.arange(9.0).view(1, 3, 3)
    assert spearman(flat, flat).item() == 1.0
    assert spearman(flat, other_flat).item() == 1.0
    assert spearman(flat, ramp).item() == 0.0
    assert spearman(ramp, flat).item() == 0.0
    assert spearman(torch.rand(2, 1, 1), torch.rand(2, 1, 1)).tolist() == [1.0, 1.0]


@pytest.mark.parametrize(("height", "width"), [(11, 11), (12, 30), (31, 17), (64, 64)])
def test_ssim_equals_scikit_image(height: int, width: int) -> None:
    structural_similarity = pytest.importorskip("skimage.metrics").structural_similarity
    a, b = related_maps(3, height, width, torch.float64)
    for i, value in enumerate(ssim(a, b)):
        expected = structural_similarity(
            a[i].numpy(), b[i].numpy(), data_range=1.0, gaussian_weights=True, sigma=1.5, use_sample_covariance=False
        )
        assert abs(expected) < 0.9
        assert value.item() == pytest.approx(expected, abs=1e-9)


@pytest.mark.parametrize("side", [1, 2, 3, 5, 10])
def test_ssim_of_maps_smaller_than_the_window(side: int) -> None:
    a, b = torch.rand(2, side, side + 4), torch.rand(2, side, side + 4)
    torch.testing.assert_close(ssim(a, a), torch.ones(2))
    assert (ssim(a, b) < 0.99).all()


@pytest.mark.parametrize("cell", [4, 8, 9])
@pytest.mark.parametrize(("height", "width"), [(27, 27), (32, 48), (61, 40)])
def test_hog_equals_scikit_image(height: int, width: int, cell: int) -> None:
    hog = pytest.importorskip("skimage.feature").hog
    a, b = related_maps(2, height, width, torch.float64)
    descriptors = [np.stack([hog(one.numpy(), pixels_per_cell=(cell, cell)) for one in maps]) for maps in (a, b)]
    np.testing.assert_allclose(_hog(a, cell).numpy(), descriptors[0], atol=1e-6)
    expected = [np.corrcoef(x, y)[0, 1] for x, y in zip(*descriptors, strict=True)]
    np.testing.assert_allclose(hog_similarity(a, b, pixels_per_cell=cell).numpy(), expected, atol=1e-6)


def test_hog_of_level_edges_and_of_flat_parts_equals_scikit_image() -> None:
    """Angles of exactly 0, 45, 90 and 180 degrees, and pixels without any gradient."""
    hog = pytest.importorskip("skimage.feature").hog
    maps = torch.zeros(3, 24, 24, dtype=torch.float64)
    maps[0, 5:14, 3:19] = 1.0
    maps[1] = torch.tril(torch.ones(24, 24))
    maps[2, :, 9:] = -1.0
    expected = np.stack([hog(one.numpy(), pixels_per_cell=(8, 8)) for one in maps])
    np.testing.assert_allclose(_hog(maps, 8).numpy(), expected, atol=1e-6)


def test_hog_sees_gradients_only() -> None:
    a, b = related_maps(2, 48, 48, torch.float64)
    plain = hog_similarity(a, b)
    torch.testing.assert_close(hog_similarity(a + 5, b - 1), plain, atol=1e-9, rtol=0)
    torch.testing.assert_close(hog_similarity(a, 1 - b), plain, atol=1e-9, rtol=0)
    flat = torch.full((2, 48, 48), 0.3, dtype=torch.float64)
    assert hog_similarity(flat, flat * 2).tolist() == [1.0, 1.0]
    assert hog_similarity(a, flat).tolist() == [0.0, 0.0]


@pytest.mark.parametrize("size", [(1, 1), (1, 9), (2, 2), (3, 5), (20, 7)])
def test_hog_of_small_maps_is_finite(size: tuple[int, int]) -> None:
    a, b = torch.rand(3, *size), torch.rand(3, *size)
    assert hog_similarity(a, b).isfinite().all()
    torch.testing.assert_close(hog_similarity(a, a), torch.ones(3))


@ALL
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_is_computed_in_float32(similarity: Similarity, dtype: torch.dtype) -> None:
    a, b = (maps.to(dtype) for maps in related_maps(2, 24, 24))
    assert similarity(a, b).dtype == torch.float32
    torch.testing.assert_close(similarity(a, b), similarity(a.float(), b.float()), atol=0, rtol=0)
    assert similarity(a.double(), b).dtype == torch.float64


@ALL
def test_each_pair_is_by_itself(similarity: Similarity) -> None:
    a, b = related_maps(4, 20, 33)
    singles = torch.cat([similarity(x[None], y[None]) for x, y in zip(a, b, strict=True)])
    torch.testing.assert_close(similarity(a, b), singles)
    strided = a.transpose(1, 2).contiguous().transpose(1, 2)
    torch.testing.assert_close(similarity(strided, b), singles)
    assert similarity(a[:0], b[:0]).shape == (0,)


@ALL
def test_a_map_with_nan_is_like_nothing(similarity: Similarity) -> None:
    a, b = related_maps(2, 24, 24)
    a[0, 3, 4] = torch.nan
    assert similarity(a, b).isnan().tolist() == [True, False]
    assert similarity(b, a).isnan().tolist() == [True, False]


@ALL
def test_shapes_that_do_not_fit_are_refused(similarity: Similarity) -> None:
    with pytest.raises(ValueError, match=r"Got maps \[2, 8, 8\] and \[2, 9, 8\]"):
        similarity(torch.rand(2, 8, 8), torch.rand(2, 9, 8))


def test_other_arguments_are_checked() -> None:
    with pytest.raises(ValueError, match=r"Got maps \[8, 8\]. Allowed are \[B, H, W\]"):
        ssim(torch.rand(8, 8), torch.rand(8, 8))
    with pytest.raises(ValueError, match="pixels_per_cell"):
        hog_similarity(torch.rand(1, 8, 8), torch.rand(1, 8, 8), pixels_per_cell=0)
