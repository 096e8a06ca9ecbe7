"""SMOE Scale: the paper's equations and numbers, its name's promise, range, precision, compilation, memory."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import scipy.stats
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from lightning_saliency.functional.statistics import STATISTICS, gamma_scale, smoe_scale
from lightning_saliency.functional.statistics import mean as mean_of
from lightning_saliency.functional.statistics import std as std_of

seeds = st.integers(0, 2**32 - 1)


def eq_1(activations: Tensor) -> Tensor:
    """Eq. 1 as it stands, in float64."""
    x = activations.double().clamp_min(0) + 1e-6
    mean = x.mean(1)
    return mean * (mean.log2() - x.log2().mean(1))


def relu_columns(seed: int, *shape: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed)).relu()


@pytest.mark.parametrize(
    ("low", "high", "mean", "std", "smoe"),
    [
        (0.5, 1, 0.75, 0.25, 0.064),
        (1, 2, 1.5, 0.5, 0.127),
        (2, 4, 3, 1, 0.255),
        (2, 3, 2.5, 0.5, 0.074),
        (0.6125, 1.8375, 1.225, 0.6125, 0.254),
    ],
)
def test_table_3(low: float, high: float, mean: float, std: float, smoe: float) -> None:
    column = torch.tensor([low, high], dtype=torch.float32).repeat(32).reshape(1, 64, 1, 1)
    assert mean_of(column).item() == pytest.approx(mean)
    assert std_of(column).item() == pytest.approx(std)
    assert smoe_scale(column).item() == pytest.approx(smoe, abs=5e-4)


@pytest.mark.parametrize("channels", [3, 4, 5, 6, 7, 8, 9, 15, 64, 130])
def test_smoe_scale_is_eq_1_whatever_the_number_of_channels(channels: int) -> None:
    activations = relu_columns(0, 3, channels, 6, 5)
    torch.testing.assert_close(smoe_scale(activations).double(), eq_1(activations), rtol=1e-5, atol=2e-6)


def test_smoe_scale_is_eq_2() -> None:
    x = relu_columns(1, 2, 10, 3, 3).double()
    shifted = x + 1e-6
    mean = shifted.mean(1, keepdim=True)
    eq_2 = (mean * (mean / shifted).log2()).mean(1)
    torch.testing.assert_close(smoe_scale(x), eq_2, rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize("scale", [1e-4, 1e4, 1e6, 1e9, 1e10, 1e15, 1e30])
def test_smoe_scale_neither_overflows_nor_underflows(scale: float) -> None:
    activations = relu_columns(2, 2, 40, 4, 4) * scale
    torch.testing.assert_close(smoe_scale(activations).double(), eq_1(activations), rtol=3e-5, atol=0)


@pytest.mark.parametrize("eps", [1e-3, 1e-9, 1e-12, 1e-30])
def test_smoe_scale_takes_any_eps(eps: float) -> None:
    activations = relu_columns(3, 2, 24, 4, 4)
    x = activations.double() + eps
    expected = x.mean(1) * (x.mean(1).log2() - x.log2().mean(1))
    torch.testing.assert_close(smoe_scale(activations, eps=eps).double(), expected, rtol=1e-5, atol=0)


def test_one_large_column_does_not_disturb_the_others() -> None:
    activations = relu_columns(4, 2, 32, 4, 4)
    activations[0, :, 1, 1] *= 1e20
    torch.testing.assert_close(smoe_scale(activations).double(), eq_1(activations), rtol=2e-5, atol=0)


@settings(max_examples=30, deadline=None)
@given(seed=seeds, factor=st.floats(0.25, 1e4))
def test_smoe_scale_is_never_negative_and_grows_with_its_unit(seed: int, factor: float) -> None:
    activations = relu_columns(seed, 2, 23, 3, 3).double()
    base = smoe_scale(activations)
    assert (base >= 0).all()
    # Equivariant in activations and eps together, hence up to eps with eps fixed.
    torch.testing.assert_close(
        smoe_scale(activations * factor, eps=1e-6 * factor), base * factor, rtol=1e-9, atol=1e-12
    )


@pytest.mark.parametrize("value", [0.0, 1e-3, 0.1, 1.0, 3.0, 1e4])
@pytest.mark.parametrize("channels", [1, 3, 64, 100])
def test_a_constant_column_has_exactly_no_smoe_scale(value: float, channels: int) -> None:
    assert (smoe_scale(torch.full((2, channels, 5, 3), value)) == 0).all()


@pytest.mark.parametrize("columns", ["relu", "gamma"])
def test_smoe_scale_keeps_the_order_of_the_gamma_scale(columns: str) -> None:
    """The property the method is named after; the equivalence is close, not exact (errata and pitfalls agree)."""
    if columns == "relu":
        activations = relu_columns(0, 1, 64, 1000)
        kendall, spearman = 0.92, 0.99
    else:
        shape, rate = torch.rand(1000) * 3 + 0.3, torch.rand(1000) * 2 + 0.2
        activations = torch.distributions.Gamma(shape, rate).sample((1, 256))
        kendall, spearman = 0.90, 0.98
    smoe, gamma = smoe_scale(activations).flatten(), gamma_scale(activations).flatten()
    assert scipy.stats.kendalltau(smoe, gamma).statistic > kendall
    assert scipy.stats.spearmanr(smoe, gamma).statistic > spearman
    # No other statistic of Table 1 comes as close.
    rivals = [name for name in STATISTICS if name not in ("smoe_scale", "gamma_scale")]
    best = max(scipy.stats.kendalltau(STATISTICS[name](activations).flatten(), gamma).statistic for name in rivals)
    assert best < 0.85


def test_half_precision_costs_only_the_rounding_of_the_activations() -> None:
    activations = relu_columns(6, 4, 128, 8, 8)
    reference = eq_1(activations)
    for dtype, tolerance in ((torch.float16, 1e-3), (torch.bfloat16, 8e-3)):
        error = (smoe_scale(activations.to(dtype)).double() - reference).abs() / reference
        assert error.max() < tolerance


# ---- compiled, and in little memory


def test_smoe_scale_traces_into_one_graph() -> None:
    torch.compiler.reset()
    compiled = torch.compile(smoe_scale, fullgraph=True, backend="aot_eager")
    for channels, dtype in ((3, torch.float32), (16, torch.float64), (18, torch.bfloat16)):
        activations = torch.randn(2, channels, 5, 4).to(dtype)
        activations[0, :, 0, 0] *= 1e12
        torch.testing.assert_close(compiled(activations), smoe_scale(activations), rtol=2e-5, atol=2e-6)
    tracked = torch.rand(2, 6, 3, requires_grad=True)
    (traced,) = torch.autograd.grad(compiled(tracked).sum(), tracked)
    (eager,) = torch.autograd.grad(smoe_scale(tracked).sum(), tracked)
    torch.testing.assert_close(traced, eager)


@pytest.mark.slow
def test_smoe_scale_compiles_to_the_same_values() -> None:
    torch.compiler.reset()
    compiled = torch.compile(smoe_scale, fullgraph=True)
    activations = torch.randn(2, 18, 12, 12)
    activations[0, :, 0, 0] *= 1e12
    torch.testing.assert_close(compiled(activations), smoe_scale(activations), rtol=2e-5, atol=2e-6)


def test_smoe_scale_needs_at_most_8_mb_whatever_the_batch(tmp_path: Path) -> None:
    activations = torch.rand(16, 64, 112, 112)  # 51 MB; Eq. 1 as it stands needs as much again, twice
    with torch.no_grad():
        smoe_scale(activations)
        with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU], profile_memory=True) as profiler:
            smoe_scale(activations)
    trace = tmp_path / "trace.json"
    profiler.export_chrome_trace(str(trace))
    changes = [
        event["args"]["Bytes"] for event in json.loads(trace.read_text())["traceEvents"] if event["name"] == "[memory]"
    ]
    assert len(changes) > 10
    assert max(np.cumsum(changes)) <= 8e6
