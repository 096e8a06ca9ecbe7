"""SMOE Scale and the plain statistics: the paper's numbers, scipy as oracle, properties, precision, layout, memory."""

from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np
import pytest
import scipy.stats
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from lightning_saliency.functional import statistics as S
from lightning_saliency.functional.statistics import STATISTICS, Statistic, get_statistic, smoe_scale

NAMES = list(STATISTICS)
RECTIFIED = [name for name in NAMES if not STATISTICS[name].pre_activation]
# Sums run in another order in another layout, and exp() multiplies a rounding error by its exponent.
CLOSE: dict[str, float] = {"rtol": 2e-5, "atol": 1e-6}
seeds = st.integers(0, 2**32 - 1)


def eq_1(activations: Tensor) -> Tensor:
    """Eq. 1 as it stands, in float64."""
    x = activations.double().clamp_min(0) + 1e-6
    mean = x.mean(1)
    return mean * (mean.log2() - x.log2().mean(1))


def relu_columns(seed: int, *shape: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed)).relu()


# ---- SMOE Scale: the paper


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
    assert S.mean(column).item() == pytest.approx(mean)
    assert S.std(column).item() == pytest.approx(std)
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


@pytest.mark.parametrize("scale", [1e-4, 1e4, 1e9, 1e10, 1e15, 1e30])
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


@settings(max_examples=30, deadline=None)
@given(seed=seeds, name=st.sampled_from(NAMES))
def test_the_order_of_channels_does_not_matter(seed: int, name: str) -> None:
    activations = torch.randn((2, 21, 3, 3), generator=torch.Generator().manual_seed(seed)).double()
    order = torch.randperm(21, generator=torch.Generator().manual_seed(seed))
    statistic = STATISTICS[name]
    torch.testing.assert_close(statistic(activations[:, order]), statistic(activations), rtol=1e-9, atol=1e-9)


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
    smoe, gamma = smoe_scale(activations).flatten(), S.gamma_scale(activations).flatten()
    assert scipy.stats.kendalltau(smoe, gamma).statistic > kendall
    assert scipy.stats.spearmanr(smoe, gamma).statistic > spearman
    # No other statistic of Table 1 comes as close.
    rivals = [name for name in NAMES if name not in ("smoe_scale", "gamma_scale")]
    best = max(scipy.stats.kendalltau(STATISTICS[name](activations).flatten(), gamma).statistic for name in rivals)
    assert best < 0.85


# ---- the plain statistics against scipy and numpy


def test_mean_std_and_max_against_numpy() -> None:
    activations = torch.randn(2, 9, 4, 3)
    x = activations.relu().double().numpy()
    np.testing.assert_allclose(S.mean(activations), x.mean(1), rtol=1e-6)
    np.testing.assert_allclose(S.std(activations), x.std(1), rtol=1e-6)
    np.testing.assert_allclose(S.max(activations), x.max(1), rtol=0)


def test_std_survives_a_large_offset_and_extreme_sizes() -> None:
    x = torch.rand(1, 50, 8) + 1e4
    np.testing.assert_allclose(S.std(x), x.double().numpy().std(1), rtol=1e-5)
    big = torch.rand(1, 50, 8) * 1e30
    np.testing.assert_allclose(S.std(big), big.double().numpy().std(1), rtol=1e-5)
    assert (S.std(torch.full((1, 50, 8), 0.1)) == 0).all()


def test_shannon_entropy_against_scipy() -> None:
    activations = torch.randn(2, 17, 4, 3)
    expected = scipy.stats.entropy(activations.relu().double().numpy(), base=2, axis=1)
    np.testing.assert_allclose(S.shannon_entropy(activations), expected, rtol=1e-5)


@settings(max_examples=30, deadline=None)
@given(seed=seeds, order=st.sampled_from([0.0, 0.5, 1.0, 2.0, 5.0, 40.0, math.inf]))
def test_entropies_are_bounded_and_fall_with_the_order(seed: int, order: float) -> None:
    activations = relu_columns(seed, 2, 12, 3, 3)
    entropy = S.renyi_entropy(activations, order=order)
    assert (entropy >= 0).all()
    assert (entropy <= math.log2(12) + 1e-5).all()
    assert (entropy <= S.renyi_entropy(activations, order=order / 2 if order < math.inf else 50.0) + 1e-4).all()


def test_renyi_entropy_by_its_formula_and_in_its_limits() -> None:
    p = relu_columns(5, 2, 12, 3, 3).double()
    p = p / p.sum(1, keepdim=True)
    torch.testing.assert_close(S.renyi_entropy(p), -p.square().sum(1).log2())
    torch.testing.assert_close(S.renyi_entropy(p, order=0.5), 2 * p.sqrt().sum(1).log2())
    torch.testing.assert_close(S.renyi_entropy(p, order=0), (p > 0).sum(1).double().log2())
    torch.testing.assert_close(S.renyi_entropy(p, order=1), S.shannon_entropy(p))
    torch.testing.assert_close(S.renyi_entropy(p, order=1 + 1e-6), S.shannon_entropy(p), rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(S.renyi_entropy(p, order=math.inf), -p.amax(1).log2())
    torch.testing.assert_close(S.renyi_entropy(p, order=500), S.renyi_entropy(p, order=math.inf), rtol=1e-2, atol=1e-2)


def test_a_dead_column_has_no_entropy_and_a_uniform_one_has_all() -> None:
    for entropy in (S.shannon_entropy, S.renyi_entropy):
        assert entropy(torch.zeros(1, 8, 2)).eq(0).all()
        torch.testing.assert_close(entropy(torch.full((1, 8, 2), 0.3)), torch.full((1, 2), 3.0))


# ---- what holds for every statistic


@pytest.mark.parametrize("name", NAMES)
def test_precision_and_result_types(name: str) -> None:
    statistic = STATISTICS[name]
    activations = torch.randn(2, 33, 5, 4)
    reference = statistic(activations.double())
    assert reference.dtype == torch.float64
    tolerance = 1e-4 * reference.abs().max().item()
    single = statistic(activations)
    assert single.dtype == torch.float32
    torch.testing.assert_close(single.double(), reference, rtol=1e-4, atol=tolerance)
    for dtype in (torch.float16, torch.bfloat16):
        halved = activations.to(dtype)
        result = statistic(halved)
        assert result.dtype == torch.float32
        # Upcast before anything: the half-precision values themselves are the only error.
        torch.testing.assert_close(result, statistic(halved.float()), rtol=0, atol=0)


def test_half_precision_costs_only_the_rounding_of_the_activations() -> None:
    activations = relu_columns(6, 4, 128, 8, 8)
    reference = eq_1(activations)
    for dtype, tolerance in ((torch.float16, 1e-3), (torch.bfloat16, 8e-3)):
        error = (smoe_scale(activations.to(dtype)).double() - reference).abs() / reference
        assert error.max() < tolerance


@pytest.mark.parametrize("name", NAMES)
def test_layouts(name: str) -> None:
    statistic = STATISTICS[name]
    activations = torch.randn(2, 11, 5, 4)
    expected = statistic(activations)
    views = {
        "channels_last": (activations.to(memory_format=torch.channels_last), 1),
        "NHWC": (activations.permute(0, 2, 3, 1).contiguous(), -1),
        "NHWC view": (activations.permute(0, 2, 3, 1), 3),
        "channels first of all": (activations.permute(1, 0, 2, 3).contiguous(), 0),
    }
    for layout, (view, dim) in views.items():
        torch.testing.assert_close(
            statistic(view, dim=dim), expected, **CLOSE, msg=lambda text, at=layout: f"{at}: {text}"
        )
    tokens = activations.flatten(2).transpose(1, 2).contiguous()
    torch.testing.assert_close(statistic(tokens, dim=-1), expected.flatten(1), **CLOSE)
    strided = torch.randn(4, 22, 5, 8)[::2, ::2, :, ::2]
    torch.testing.assert_close(statistic(strided), statistic(strided.contiguous()), **CLOSE)


@pytest.mark.parametrize("name", NAMES)
def test_the_input_is_left_as_it_was(name: str) -> None:
    for dtype in (torch.float32, torch.float16, torch.float64):
        activations = torch.randn(2, 9, 3, 3, dtype=dtype)
        before = activations.clone()
        STATISTICS[name](activations)
        assert torch.equal(activations, before)


@pytest.mark.parametrize("name", NAMES)
def test_degenerate_shapes_and_columns_give_finite_maps(name: str) -> None:
    statistic = STATISTICS[name]
    assert statistic(torch.randn(0, 8, 5, 4)).shape == (0, 5, 4)
    assert statistic(torch.randn(2, 8, 0)).shape == (2, 0)
    assert statistic(torch.randn(1, 8, 1, 1)).shape == (1, 1, 1)
    assert statistic(torch.randn(8), dim=0).shape == ()
    columns = [torch.zeros(8), torch.full((8,), 3.0), torch.full((8,), -3.0), torch.eye(8)[0], 1e30 * torch.eye(8)[0]]
    columns += [
        torch.linspace(-1, 1, 8) * 1e30,
        torch.linspace(-1, 1, 8) * 1e-30,
        torch.linspace(-1, 1, 8) * 1e-3 - 1e6,
    ]
    assert statistic(torch.stack(columns)).isfinite().all()
    assert statistic(torch.randn(2, 1, 3)).isfinite().all()


@pytest.mark.parametrize("name", NAMES)
def test_gradients(name: str) -> None:
    statistic = STATISTICS[name]
    activations = (torch.rand(2, 5, 2, dtype=torch.float64) + 0.5).requires_grad_()
    assert torch.autograd.gradcheck(statistic, (activations,))
    # Dead and constant columns: the value is the one computed without a graph, and no gradient is NaN.
    awkward = torch.stack(
        [torch.zeros(6), torch.ones(6), torch.tensor([0.0, 0.0, -1.0, 2.0, 0.5, 0.0])]
    ).requires_grad_()
    result = statistic(awkward)
    torch.testing.assert_close(result.detach(), statistic(awkward.detach()))
    result.sum().backward()
    assert awkward.grad is not None
    assert awkward.grad.isfinite().all()


@pytest.mark.parametrize("name", NAMES)
def test_modes(name: str) -> None:
    statistic = STATISTICS[name]
    activations = torch.randn(2, 8, 4, 4)
    expected = statistic(activations)
    with torch.inference_mode():
        torch.testing.assert_close(statistic(activations.clone()).clone(), expected)
    with torch.no_grad():
        torch.testing.assert_close(statistic(activations.clone().requires_grad_()), expected)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        result = statistic(activations)
    assert result.dtype == torch.float32
    torch.testing.assert_close(result, expected)


@pytest.mark.parametrize("name", NAMES)
def test_nan_stays_in_its_column(name: str) -> None:
    activations = torch.randn(2, 8, 3, 3)
    expected = STATISTICS[name](activations)
    activations[1, 4, 2, 0] = math.nan
    result = STATISTICS[name](activations)
    assert result[1, 2, 0].isnan()
    others = torch.ones(2, 3, 3, dtype=torch.bool)
    others[1, 2, 0] = False
    torch.testing.assert_close(result[others], expected[others])


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("channels_last", [False, True])
def test_pieces_join_to_the_whole(name: str, channels_last: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    activations = torch.randn(3, 7, 5, 9)
    if channels_last:
        activations = activations.to(memory_format=torch.channels_last)
    whole = STATISTICS[name](activations)
    for limit in (1, 20, 100, 400):
        monkeypatch.setattr("lightning_saliency.functional._columns._CPU_PIECE", limit)
        torch.testing.assert_close(STATISTICS[name](activations), whole, **CLOSE)


@pytest.mark.parametrize("name", RECTIFIED)
def test_rectify(name: str) -> None:
    function = STATISTICS[name].function
    activations = torch.randn(2, 8, 3)
    torch.testing.assert_close(function(activations), function(activations.relu()))
    torch.testing.assert_close(function(activations, rectify="abs"), function(activations.abs()))
    softplus = torch.nn.functional.softplus(activations)
    torch.testing.assert_close(function(activations, rectify="softplus"), function(softplus))
    with pytest.raises(ValueError, match="relu, abs, softplus"):
        function(activations, rectify="gelu")


@pytest.mark.parametrize("name", NAMES)
def test_clear_errors(name: str) -> None:
    statistic = STATISTICS[name]
    for dtype in (torch.int64, torch.uint8, torch.bool, torch.complex64):
        with pytest.raises(TypeError, match="Expected `activations` to be a real floating-point tensor"):
            statistic(torch.ones(1, 3, 2, 2).to(dtype))
    with pytest.raises(ValueError, match="Expected `dim` to be one of the 2 dimensions"):
        statistic(torch.ones(1, 3), dim=2)
    with pytest.raises(ValueError, match="at least one channel"):
        statistic(torch.ones(1, 0, 2, 2))


def test_parameters_are_checked() -> None:
    for function in (S.smoe_scale, S.lognormal_mean, S.lognormal_entropy, S.gamma_scale):
        for eps in (0.0, -1e-6, math.nan, math.inf):
            with pytest.raises(ValueError, match="Expected `eps`"):
                function(torch.ones(1, 3), eps=eps)
    for order in (-1.0, math.nan):
        with pytest.raises(ValueError, match="Expected `order`"):
            S.renyi_entropy(torch.ones(1, 3), order=order)


# ---- the registry


def test_registry_holds_table_1_and_more() -> None:
    table_1 = {"smoe_scale", "std", "shannon_entropy", "mean", "lognormal_mean", "lognormal_entropy"}
    table_1 |= {"truncnormal_mean", "truncnormal_std", "truncnormal_entropy"}
    assert set(STATISTICS) == table_1 | {"gamma_scale", "renyi_entropy", "max"}
    for name, statistic in STATISTICS.items():
        assert statistic.name == name
        assert statistic.function is getattr(S, name)
        assert statistic.pre_activation == name.startswith("truncnormal")


def test_get_statistic() -> None:
    own = Statistic("range", lambda activations, *, dim=1: activations.amax(dim) - activations.amin(dim))
    assert get_statistic(own) is own
    assert own(torch.tensor([[1.0, 4.0]])).item() == 3.0
    assert get_statistic("std") is STATISTICS["std"]
    with pytest.raises(ValueError, match=r"smoe_scale, std, .* but got 'smoe'"):
        get_statistic("smoe")


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
