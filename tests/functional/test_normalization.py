"""Maps squashed to [0, 1]: scipy as oracle, properties, degenerate maps, precision."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import pytest
import scipy.stats
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from lightning_saliency.functional.normalization import gamma_cdf, min_max, normal_cdf

ALL = [normal_cdf, gamma_cdf, min_max]
Normalization = Callable[[Tensor], Tensor]
everywhere = pytest.mark.parametrize("normalize", ALL, ids=lambda function: function.__name__)


def test_normal_cdf_against_scipy() -> None:
    maps = torch.randn(3, 2, 7, 5) * 4 + 2
    x = maps.double().numpy()
    mu, sigma = x.mean((-2, -1), keepdims=True), x.std((-2, -1), keepdims=True)
    np.testing.assert_allclose(normal_cdf(maps), scipy.stats.norm.cdf(x, mu, sigma), atol=1e-6)


@pytest.mark.parametrize("shape", [0.5, 1.0, 4.0, 50.0])
def test_gamma_cdf_against_scipys_fit(shape: float) -> None:
    maps = torch.from_numpy(np.random.default_rng(0).gamma(shape, 3.0, size=(2, 8, 8)))
    for map_, result in zip(maps.numpy(), gamma_cdf(maps), strict=True):
        fitted, _, scale = scipy.stats.gamma.fit(map_, floc=0)
        np.testing.assert_allclose(result, scipy.stats.gamma.cdf(map_, fitted, scale=scale), atol=2e-4)
        # The 1e-6 added to each value counts only where a map comes close to 0.
        shifted = map_ / map_.mean() + 1e-6
        fitted, _, scale = scipy.stats.gamma.fit(shifted, floc=0)
        np.testing.assert_allclose(result, scipy.stats.gamma.cdf(shifted, fitted, scale=scale), atol=1e-6)


def test_an_outlier_stays_the_most_salient_pixel() -> None:
    """A truncated series of the incomplete gamma function falls again for large values."""
    maps = torch.distributions.Exponential(1.0).sample((1, 16, 16))
    maps[0, 3, 4] = 60.0
    result = gamma_cdf(maps)
    assert result.argmax() == 3 * 16 + 4
    assert result[0, 3, 4] > 0.999


def test_min_max() -> None:
    maps = torch.randn(4, 3, 6, 5)
    expected = (maps - maps.amin((-2, -1), keepdim=True)) / (
        maps.amax((-2, -1), keepdim=True) - maps.amin((-2, -1), keepdim=True)
    )
    torch.testing.assert_close(min_max(maps), expected)
    assert torch.equal(min_max(maps).amax((-2, -1)), torch.ones(4, 3))
    assert torch.equal(min_max(maps).amin((-2, -1)), torch.zeros(4, 3))


@everywhere
@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 2**32 - 1), factor=st.floats(1e-6, 1e6))
def test_bounds_order_and_unit(normalize: Normalization, seed: int, factor: float) -> None:
    maps = torch.rand((2, 5, 4), generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    result = normalize(maps)
    assert (result >= 0).all()
    assert (result <= 1).all()
    order = maps.flatten(1).argsort()
    assert (result.flatten(1).gather(1, order).diff() >= 0).all()
    torch.testing.assert_close(normalize(maps * factor), result, rtol=1e-6, atol=1e-9)
    # Each map by itself, whatever lies beside it.
    torch.testing.assert_close(normalize(maps[1]), result[1])
    torch.testing.assert_close(normalize(maps.reshape(2, 1, 5, 4)), result.unsqueeze(1))


@everywhere
@pytest.mark.parametrize("value", [0.0, 1e-12, 0.1, 3.0, 1e6, 1e38])
@pytest.mark.parametrize("size", [(1, 1), (7, 7), (3, 41)])
def test_constant_maps(normalize: Normalization, value: float, size: tuple[int, int]) -> None:
    result = normalize(torch.full((2, *size), value))
    assert torch.equal(result, torch.full((2, *size), 0.0 if normalize is min_max else 0.5))


def test_rounding_errors_are_no_spread() -> None:
    maps = torch.full((1, 6, 6), 0.3)
    maps[0, ::2] = torch.nextafter(maps[0, ::2], torch.tensor(1.0))
    assert torch.equal(normal_cdf(maps), torch.full((1, 6, 6), 0.5))
    maps[0, ::2] = 0.3001
    assert normal_cdf(maps).std() > 0.3


@everywhere
def test_extreme_maps_stay_finite_and_in_order(normalize: Normalization) -> None:
    ramp = torch.linspace(0, 1, 12).reshape(1, 3, 4)
    for maps in (ramp * 3e38, ramp * 1e-37, ramp * 1e-37 + 1e-30, (2 * ramp - 1) * 3e38, ramp**30, -ramp):
        result = normalize(maps)
        assert result.isfinite().all()
        assert (result.flatten().gather(0, maps.flatten().argsort()).diff() >= 0).all()


def test_gamma_cdf_has_no_mass_below_0() -> None:
    maps = torch.tensor([[[-2.0, -1.0, 0.0, 1.0, 2.0, 3.0]]])
    torch.testing.assert_close(gamma_cdf(maps), gamma_cdf(maps.clamp_min(0)))
    assert gamma_cdf(maps)[0, 0, 5] > gamma_cdf(maps)[0, 0, 3]


@everywhere
def test_precision_layout_and_modes(normalize: Normalization) -> None:
    maps = torch.rand(2, 3, 6, 5)
    expected = normalize(maps)
    assert expected.dtype == torch.float32
    assert normalize(maps.double()).dtype == torch.float64
    torch.testing.assert_close(normalize(maps.double()).float(), expected, rtol=1e-4, atol=1e-5)
    for dtype in (torch.float16, torch.bfloat16):
        assert torch.equal(normalize(maps.to(dtype)), normalize(maps.to(dtype).float()))
    torch.testing.assert_close(normalize(maps.to(memory_format=torch.channels_last)), expected)
    torch.testing.assert_close(normalize(maps.mT), expected.mT)
    assert normalize(torch.rand(0, 6, 5)).shape == (0, 6, 5)
    with torch.inference_mode(), torch.autocast("cpu", dtype=torch.bfloat16):
        result = normalize(maps.clone())
    assert result.dtype == torch.float32
    torch.testing.assert_close(result.clone(), expected)


@everywhere
def test_gradients_are_finite(normalize: Normalization) -> None:
    maps = torch.stack([torch.rand(4, 4), torch.ones(4, 4), torch.zeros(4, 4)]).requires_grad_()
    (normalize(maps) * torch.rand(3, 4, 4)).sum().backward()
    assert maps.grad is not None
    assert maps.grad.isfinite().all()
    assert maps.grad[0].abs().max() > 0
    if normalize is not gamma_cdf:  # its gradient takes the shape as a constant
        assert torch.autograd.gradcheck(normalize, (torch.rand(2, 3, 3, dtype=torch.float64, requires_grad=True),))


@everywhere
def test_nan_stays_in_its_map(normalize: Normalization) -> None:
    maps = torch.rand(2, 4, 4)
    expected = normalize(maps)
    maps[1, 0, 0] = math.nan
    result = normalize(maps)
    assert result[1].isnan().all()
    torch.testing.assert_close(result[0], expected[0])


@everywhere
def test_clear_errors(normalize: Normalization) -> None:
    with pytest.raises(TypeError, match=r"Got maps of torch\.uint8. Allowed are real floating-point tensors"):
        normalize(torch.zeros(1, 4, 4, dtype=torch.uint8))
    for shape in ((4,), (2, 0, 4)):
        with pytest.raises(ValueError, match=r"Allowed are \[..., h, w\]"):
            normalize(torch.zeros(shape))


def test_normal_cdf_traces_into_one_graph() -> None:
    torch.compiler.reset()
    compiled = torch.compile(normal_cdf, fullgraph=True, backend="aot_eager")
    maps = torch.rand(3, 6, 5)
    maps[2] = 0.7
    torch.testing.assert_close(compiled(maps), normal_cdf(maps))
