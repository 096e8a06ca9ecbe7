"""What holds for every statistic, the plain ones against scipy and numpy, and the registry."""

from __future__ import annotations

import math

import numpy as np
import pytest
import scipy.stats
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from lightning_saliency.functional import statistics as S
from lightning_saliency.functional.statistics import STATISTICS, Statistic, get_statistic

NAMES = list(STATISTICS)
RECTIFIED = [name for name in NAMES if not STATISTICS[name].pre_activation]
# Sums run in another order in another layout, and exp() multiplies a rounding error by its exponent.
CLOSE: dict[str, float] = {"rtol": 2e-5, "atol": 1e-6}
seeds = st.integers(0, 2**32 - 1)


def relu_columns(seed: int, *shape: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed)).relu()


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


@settings(max_examples=30, deadline=None)
@given(seed=seeds, name=st.sampled_from(NAMES))
def test_the_order_of_channels_does_not_matter(seed: int, name: str) -> None:
    activations = torch.randn((2, 21, 3, 3), generator=torch.Generator().manual_seed(seed)).double()
    order = torch.randperm(21, generator=torch.Generator().manual_seed(seed))
    statistic = STATISTICS[name]
    torch.testing.assert_close(statistic(activations[:, order]), statistic(activations), rtol=1e-9, atol=1e-9)


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
    with pytest.raises(ValueError, match="Allowed are 'relu', 'abs', 'softplus'"):
        function(activations, rectify="gelu")


@pytest.mark.parametrize("name", NAMES)
def test_clear_errors(name: str) -> None:
    statistic = STATISTICS[name]
    for dtype in (torch.int64, torch.uint8, torch.bool, torch.complex64):
        with pytest.raises(TypeError, match=r"Got activations of .*Allowed are real floating-point tensors"):
            statistic(torch.ones(1, 3, 2, 2).to(dtype))
    with pytest.raises(ValueError, match=r"Got dim=.*Allowed are their 2 dimensions"):
        statistic(torch.ones(1, 3), dim=2)
    with pytest.raises(ValueError, match=r"without a channel in .*Allowed is at least one"):
        statistic(torch.ones(1, 0, 2, 2))


def test_parameters_are_checked() -> None:
    for function in (S.smoe_scale, S.lognormal_mean, S.lognormal_entropy, S.gamma_scale):
        for eps in (0.0, -1e-6, math.nan, math.inf):
            with pytest.raises(ValueError, match=r"Got eps="):
                function(torch.ones(1, 3), eps=eps)
    for order in (-1.0, math.nan):
        with pytest.raises(ValueError, match=r"Got order="):
            S.renyi_entropy(torch.ones(1, 3), order=order)


# ---- the registry


def test_registry_holds_table_1_and_more() -> None:
    table_1 = {"smoe_scale", "std", "shannon_entropy", "mean", "lognormal_mean", "lognormal_entropy"}
    table_1 |= {"truncnormal_mean", "truncnormal_std", "truncnormal_entropy"}
    assert set(STATISTICS) >= table_1
    for name, statistic in STATISTICS.items():
        assert statistic.name == name
        assert statistic.function is getattr(S, name)
        assert statistic.pre_activation == name.startswith("truncnormal")


def test_get_statistic() -> None:
    own = Statistic("range", lambda activations, *, dim=1: activations.amax(dim) - activations.amin(dim))
    assert get_statistic(own) is own
    assert own(torch.tensor([[1.0, 4.0]])).item() == 3.0
    assert get_statistic("std") is STATISTICS["std"]
    with pytest.raises(ValueError, match=r"Got statistic='smoe'. Allowed are 'smoe_scale', 'std', "):
        get_statistic("smoe")
