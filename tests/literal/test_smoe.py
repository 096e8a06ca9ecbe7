"""Statistics, normalisation, combination and LOVI against the SMOE Scale paper's equations as loops."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from lightning_saliency.functional import fusion, normalization, visualization
from lightning_saliency.functional.statistics import get_statistic
from lightning_saliency.scales.maps import ScaleMaps

from .loops import smoe as loop
from .loops.resampling import Array

SHAPES = [(2, 1, 3, 4), (2, 3, 4, 4), (1, 7, 5, 3), (2, 64, 3, 2), (1, 64, 1, 1)]
DTYPES = [torch.float64, torch.float32]

RECTIFIED: dict[str, Callable[[loop.Column], float]] = {
    "smoe_scale": loop.smoe_equation_2,
    "gamma_scale": loop.gamma_scale,
    "std": loop.std,
    "mean": loop.mean,
    "shannon_entropy": loop.shannon_entropy,
    "renyi_entropy": loop.renyi_entropy,
    "lognormal_mean": loop.lognormal_mean,
    "lognormal_entropy": loop.lognormal_entropy,
    "max": max,
}
TRUNCATED: dict[str, Callable[[loop.Column], float]] = {
    "truncnormal_mean": loop.truncnormal_mean,
    "truncnormal_std": loop.truncnormal_std,
    "truncnormal_entropy": loop.truncnormal_entropy,
}


def rectified(shape: tuple[int, ...], seed: int = 0) -> Array:
    """Gamma-distributed values, a third of them exact zeros, one column dead and one of equal values."""
    generator = np.random.default_rng(seed)
    activations = generator.gamma(0.7, 2.0, shape) * (generator.random(shape) > 1 / 3)
    if shape[2] * shape[3] > 2:
        activations[0, :, 0, 0] = 0
        activations[0, :, 1, 1] = 1.5
    return activations


def compare(name: str, function: Callable[[loop.Column], float], activations: Array, dtype: torch.dtype) -> None:
    tensor = torch.from_numpy(activations).to(dtype)
    exact = tensor.double().numpy()
    got = get_statistic(name)(tensor)
    assert got.dtype == dtype
    assert torch.isfinite(got).all()
    expected = loop.per_position(function, exact)
    relative, absolute = (1e-9, 1e-9) if dtype == torch.float64 else (1e-5, 2e-6)
    np.testing.assert_allclose(got.double().numpy(), expected, rtol=relative, atol=absolute)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("name", RECTIFIED)
def test_statistics_of_activations(name: str, shape: tuple[int, ...], dtype: torch.dtype) -> None:
    compare(name, RECTIFIED[name], rectified(shape), dtype)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("name", TRUNCATED)
def test_truncated_normal_statistics(name: str, shape: tuple[int, ...], dtype: torch.dtype) -> None:
    generator = np.random.default_rng(1)
    noise = generator.normal(size=shape)
    noise -= noise.mean(axis=1, keepdims=True)
    if shape[1] > 1:  # the same spread everywhere, so that −μ/σ stays between −2 and 4
        noise *= generator.uniform(0.5, 2, (shape[0], 1, *shape[2:])) / noise.std(axis=1, keepdims=True)
    activations = noise + generator.uniform(-2, 1, (shape[0], 1, *shape[2:]))
    compare(name, TRUNCATED[name], activations, dtype)


@pytest.mark.parametrize("mu", [-60.0, -25.0, -8.0, -4.4, -1.0, 0.0, 0.7, 5.0])
def test_truncated_normal_far_from_zero(mu: float) -> None:
    """Columns of mean μ and deviation 1, up to sixty deviations below the cut, against the integrals themselves."""
    column = [mu - 1, mu + 1] * 4
    expected = dict(zip(TRUNCATED, loop.truncated_moments(loop.mean(column), loop.std(column)), strict=True))
    activations = torch.tensor(column, dtype=torch.float64).reshape(1, 8, 1, 1)
    for name, value in expected.items():
        assert get_statistic(name)(activations).item() == pytest.approx(value, rel=1e-6), name
        if mu > -5:
            closed = dict(zip(TRUNCATED, loop.truncated_closed_form(loop.mean(column), loop.std(column)), strict=True))
            assert closed[name] == pytest.approx(value, rel=1e-8), name


@pytest.mark.parametrize("name", RECTIFIED)
def test_negative_values_count_as_zero(name: str) -> None:
    activations = np.random.default_rng(2).normal(size=(1, 7, 3, 4))
    got = get_statistic(name)(torch.from_numpy(activations))
    expected = loop.per_position(RECTIFIED[name], np.where(activations > 0, activations, 0.0))
    np.testing.assert_allclose(got.numpy(), expected, rtol=1e-9, atol=1e-9)


columns = hnp.arrays(
    np.float64, st.integers(1, 20), elements=st.just(0.0) | st.floats(1e-6, 100) | st.integers(0, 3).map(float)
)


@settings(max_examples=150, deadline=None)
@given(column=columns)
def test_smoe_scale_of_any_column(column: Array) -> None:
    values = [float(x) for x in column]
    equations = [loop.smoe_equation_1(values), loop.smoe_equation_2(values)]
    equations += [loop.smoe_equation_14(values), loop.smoe_equation_15(values)]
    got = get_statistic("smoe_scale")(torch.from_numpy(column).reshape(1, -1, 1, 1)).item()
    assert [*equations[1:], got] == pytest.approx([equations[0]] * 4, rel=1e-9, abs=1e-9)


@settings(max_examples=100, deadline=None)
@given(column=columns)
def test_gamma_scale_of_any_column(column: Array) -> None:
    values = [float(x) for x in column]
    if max(values) - min(values) < 0.1:  # the shape of (nearly) equal values grows without bound
        return
    got = get_statistic("gamma_scale")(torch.from_numpy(column).reshape(1, -1, 1, 1)).item()
    assert got == pytest.approx(loop.gamma_scale(values), rel=1e-8)


def test_shape_parameter_is_monotone_and_its_first_estimate_close() -> None:
    """ "Within 1.5% of the correct answer" (Eq. 12), and k falls as s grows (Fig. 8)."""
    shapes = []
    for exponent in range(-30, 12):
        s = 10 ** (exponent / 10)
        k = loop.gamma_shape_estimate(s)
        for _ in range(50):
            k -= (math.log(k) - loop.digamma(k) - s) / (1 / k - loop.trigamma(k))
        assert loop.gamma_shape_estimate(s) == pytest.approx(k, rel=0.0151)
        shapes.append(k)
    assert shapes == sorted(shapes, reverse=True)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shape", [(2, 3, 5, 7), (4, 8, 8), (3, 1, 1), (2, 1, 9)])
def test_normal_cdf(shape: tuple[int, ...], dtype: torch.dtype) -> None:
    maps = np.random.default_rng(3).gamma(1.0, 2.0, shape)
    maps.reshape(-1, *shape[-2:])[0] = 0.3  # one constant map: 0.5 everywhere
    tensor = torch.from_numpy(maps).to(dtype)
    exact = tensor.double().numpy().reshape(-1, *shape[-2:])
    got = normalization.normal_cdf(tensor)
    assert got.shape == shape
    tolerance = 1e-9 if dtype == torch.float64 else 1e-6
    for result, grid in zip(got.double().numpy().reshape(exact.shape), exact, strict=True):
        np.testing.assert_allclose(result, loop.normal_cdf(grid), atol=tolerance)


@pytest.mark.parametrize(
    ("weights", "numbers"),
    [
        ("equal", [1, 1, 1, 1, 1]),
        ("ramp", [1, 2, 3, 4, 5]),
        ("prior", [0.18, 0.15, 0.37, 0.4, 0.72]),
        ([0.5, 0, 2, 0.1, 7], [0.5, 0, 2, 0.1, 7]),
    ],
)
def test_combine_is_equation_3(weights: str | list[float], numbers: list[float]) -> None:
    maps = np.random.default_rng(4).random((2, 5, 6, 9))
    resolved = fusion.scale_weights(weights, 5)
    got = fusion.combine(torch.from_numpy(maps), resolved)
    for b in range(2):
        np.testing.assert_allclose(got[b].numpy(), loop.combine(maps[b], numbers), atol=1e-9)


@pytest.mark.parametrize("size", [None, (21, 30)])
def test_scale_maps_normalise_first_and_upsample_then(size: tuple[int, int] | None) -> None:
    generator = np.random.default_rng(5)
    statistics = [generator.gamma(1.0, 2.0, (2, h, w)) for h, w in ((12, 16), (6, 8), (3, 4))]
    maps = ScaleMaps.from_statistics(
        [torch.from_numpy(statistic) for statistic in statistics], ("a", "b", "c"), weights=(1, 2, 4), size=size
    )
    height, width = size or (12, 16)
    got = maps.combined()
    assert got.shape == (2, height, width)
    for b in range(2):
        expected = loop.combined_saliency([statistic[b] for statistic in statistics], (1, 2, 4), height, width)
        np.testing.assert_allclose(got[b].numpy(), expected, atol=1e-6)


@pytest.mark.parametrize("count", [2, 3, 5, 8])
def test_lovi(count: int) -> None:
    maps = np.random.default_rng(6).random((2, count, 6, 7))
    maps[0, :, 0, 0] = 0  # black
    maps[0, :, 0, 1] = 0.4  # grey
    for k in range(count):
        maps[0, :, 1, k % 7] = 0
        maps[0, k, 1, k % 7] = 0.9  # one scale alone: a pure colour
    got = visualization.lovi(torch.from_numpy(maps))
    assert got.shape == (2, 3, 6, 7)
    for b in range(2):
        np.testing.assert_allclose(got[b].numpy(), loop.lovi(maps[b]), atol=1e-6)


def test_lovi_end_points_of_the_text() -> None:
    """The first scale is violet, the last red; one scale alone is saturated, all equal are grey."""
    assert loop.lovi_hsv([0.7, 0, 0, 0, 0]) == pytest.approx((300, 1, 0.7))
    assert loop.lovi_hsv([0, 0, 0.6, 0, 0]) == pytest.approx((150, 1, 0.6))
    assert loop.lovi_hsv([0, 0, 0, 0, 1.0]) == pytest.approx((0, 1, 1))
    assert loop.lovi_hsv([0.8] * 5) == pytest.approx((150, 0, 0.8))
