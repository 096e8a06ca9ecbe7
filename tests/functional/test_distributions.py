"""The distribution statistics against scipy, and against high precision where scipy's own formulas lose theirs."""

from __future__ import annotations

import math

import mpmath
import numpy as np
import pytest
import scipy.stats
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from lightning_saliency.functional.statistics import distributions as D


def column(mu: float, sigma: float, count: int = 16) -> torch.Tensor:
    """A column with exactly this mean and population standard deviation."""
    half = torch.full((count // 2,), sigma, dtype=torch.float64)
    return torch.cat([mu + half, mu - half]).unsqueeze(0)


def truncated(alpha: float) -> tuple[float, float, float]:
    """λ(α), λ(α) − α and the spread of the standard normal truncated below at α, with 60 digits."""
    with mpmath.workdps(60):
        a = mpmath.mpf(alpha)
        hazard = mpmath.npdf(a) / (mpmath.erfc(a / mpmath.sqrt(2)) / 2)
        return float(hazard), float(hazard - a), float(mpmath.sqrt(1 + a * hazard - hazard**2))


# ---- log-normal


def test_lognormal_against_scipy() -> None:
    activations = torch.rand(3, 20, 4, dtype=torch.float64) + 0.01
    logs = np.log(activations.numpy() + 1e-6)
    mu, sigma = logs.mean(1), logs.std(1)
    np.testing.assert_allclose(D.lognormal_mean(activations), scipy.stats.lognorm(s=sigma, scale=np.exp(mu)).mean())
    np.testing.assert_allclose(
        D.lognormal_entropy(activations), scipy.stats.lognorm(s=sigma, scale=np.exp(mu)).entropy()
    )


def test_lognormal_of_sparse_columns_stays_finite() -> None:
    columns = torch.tensor([[0.0, 0.0, 0.0, 1e3], [0.0, 1e30, 0.0, 1e30], [0.0, 0.0, 0.0, 0.0], [2.0, 2.0, 2.0, 2.0]])
    mean, entropy = D.lognormal_mean(columns), D.lognormal_entropy(columns)
    assert mean.isfinite().all()
    assert entropy.isfinite().all()
    assert mean[1] > 0.99 * torch.finfo(torch.float32).max
    torch.testing.assert_close(mean[2:], torch.tensor([1e-6, 2.0]), rtol=1e-5, atol=0)
    # σ = 0 counts as 1e-6.
    degenerate = scipy.stats.lognorm(s=1e-6, scale=2.0 + 1e-6).entropy()
    assert entropy[3].item() == pytest.approx(degenerate, rel=1e-6)


# ---- truncated normal


@settings(max_examples=25, deadline=None)
@given(alpha=st.floats(-8, 8), sigma=st.floats(0.1, 10))
def test_truncated_normal_against_scipy(alpha: float, sigma: float) -> None:
    mu = -alpha * sigma
    # Nothing is left 50 σ above the truncation point; scipy's entropy is NaN for an end at infinity.
    reference = scipy.stats.truncnorm(alpha, alpha + 50, loc=mu, scale=sigma)
    x = column(mu, sigma)
    assert D.truncnormal_mean(x).item() == pytest.approx(reference.mean(), rel=1e-8)
    assert D.truncnormal_std(x).item() == pytest.approx(reference.std(), rel=1e-6)
    if alpha < 4:  # beyond, scipy's entropy loses its digits to 1 − cdf
        assert D.truncnormal_entropy(x).item() == pytest.approx(reference.entropy(), rel=1e-6, abs=1e-6)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("alpha", [-1e4, -30.0, -3.0, 0.0, 1.0, 3.9, 4.1, 4.4, 7.5, 20.0, 300.0, 1e4])
def test_truncated_normal_far_from_its_mean(alpha: float, dtype: torch.dtype) -> None:
    """log(1 − cdf) is off by 0.2 nats at α = 4.4 in float32 and NaN beyond 7."""
    sigma = 0.5
    x = column(-alpha * sigma, sigma).to(dtype)
    hazard, excess, spread = truncated(alpha)
    entropy = math.log(sigma) + 0.5 + alpha * excess / 2 - math.log(hazard) if hazard else 0.0
    if alpha <= -30:
        entropy = 0.5 * math.log(2 * math.pi * math.e * sigma**2)
    rel = 1e-5 if dtype == torch.float32 else 1e-9
    assert D.truncnormal_mean(x).item() == pytest.approx(sigma * excess, rel=rel)
    assert D.truncnormal_std(x).item() == pytest.approx(sigma * spread, rel=rel)
    assert D.truncnormal_entropy(x).item() == pytest.approx(entropy, rel=rel, abs=rel)


def test_truncated_normal_moments_are_those_of_the_survivors() -> None:
    """By simulation: draw from the fitted normal, drop what lies below 0."""
    draws = torch.randn(400_000, dtype=torch.float64) * 1.3 - 0.7
    survivors = draws[draws > 0]
    x = draws.unsqueeze(0)
    assert D.truncnormal_mean(x).item() == pytest.approx(survivors.mean().item(), rel=0.01)
    assert D.truncnormal_std(x).item() == pytest.approx(survivors.std().item(), rel=0.01)


def test_columns_without_spread() -> None:
    x = torch.tensor([[2.0, 2.0], [0.0, 0.0], [-2.0, -2.0], [-1.0, 1.0]])
    torch.testing.assert_close(D.truncnormal_mean(x)[:3], torch.tensor([2.0, 0.0, 0.0]), rtol=0, atol=0)
    torch.testing.assert_close(D.truncnormal_std(x)[:3], torch.zeros(3), rtol=0, atol=0)
    entropy = D.truncnormal_entropy(x)
    assert entropy.isfinite().all()
    assert (entropy[:3] < entropy[3]).all()
    assert entropy[0].item() == pytest.approx(scipy.stats.norm(scale=1e-6).entropy(), rel=1e-6)


def test_bounds_of_the_truncated_normal() -> None:
    x = torch.randn(64, 32) * torch.rand(64, 1) * 5 + torch.randn(64, 1) * 4
    mean, std = D.truncnormal_mean(x), D.truncnormal_std(x)
    assert (mean >= x.mean(1).clamp_min(0) - 1e-5).all()
    assert (std >= 0).all()
    assert (std <= x.std(1, correction=0) * (1 + 1e-5)).all()


# ---- gamma


@pytest.mark.parametrize("shape", [0.3, 1.0, 5.0, 200.0])
def test_gamma_scale_is_scipys_maximum_likelihood_fit(shape: float) -> None:
    generator = np.random.default_rng(0)
    x = generator.gamma(shape, 2.0, size=(4, 50))
    expected = [scipy.stats.gamma.fit(row + 1e-6, floc=0)[2] for row in x]
    np.testing.assert_allclose(D.gamma_scale(torch.from_numpy(x)), expected, rtol=1e-6)
    np.testing.assert_allclose(D.gamma_scale(torch.from_numpy(x).float()), expected, rtol=2e-5)


def test_newton_has_converged_for_every_s() -> None:
    s = torch.logspace(-12, 3, 1000, dtype=torch.float64)
    shape = D.gamma_shape(s)
    # Eq. 13 as printed leaves it where it is, and it solves the equation it was derived from.
    left = shape.log() - torch.digamma(shape) - s
    step = left / (1 / shape - torch.polygamma(1, shape))
    seen = s > 1e-5  # below, the difference of the two logarithms loses its digits, which is why there is a series
    assert (step[seen] / shape[seen]).abs().max() < 1e-9
    small = s < 1e-3
    torch.testing.assert_close(shape[small] * 2 * s[small], 1 + s[small] / 3, rtol=1e-6, atol=0)
    assert (shape.diff() < 0).all()  # Fig. 8: monotonic


def test_gamma_scale_of_columns_without_spread_and_of_nearly_constant_ones() -> None:
    flat = torch.tensor([[0.0] * 6, [3.0] * 6])
    torch.testing.assert_close(D.gamma_scale(flat), torch.zeros(2), rtol=0, atol=0)
    # θ → σ²/μ as the spread vanishes.
    x = 5 + 1e-3 * torch.randn(1, 1000, dtype=torch.float64)
    assert D.gamma_scale(x).item() == pytest.approx((x.var(1, correction=0) / x.mean(1)).item(), rel=1e-3)


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 2**32 - 1), factor=st.floats(0.01, 100))
def test_gamma_scale_has_the_unit_of_the_activations(seed: int, factor: float) -> None:
    x = torch.rand((3, 20), generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    torch.testing.assert_close(
        D.gamma_scale(x * factor, eps=1e-6 * factor), D.gamma_scale(x) * factor, rtol=1e-8, atol=0
    )
