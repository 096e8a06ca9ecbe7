"""Eq. 3 and the weights of the scales."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from lightning_saliency.functional.fusion import PRIOR_WEIGHTS, combine, overlay_weights, scale_weights


def test_the_papers_weights() -> None:
    assert scale_weights("equal", 5) == (1, 1, 1, 1, 1)
    assert scale_weights("ramp", 5) == (1, 2, 3, 4, 5)
    assert scale_weights("prior", 5) == PRIOR_WEIGHTS == (0.18, 0.15, 0.37, 0.4, 0.72)
    assert scale_weights([0, 2, 1], 3) == (0, 2, 1)
    assert scale_weights("ramp", 1) == (1,)


@pytest.mark.parametrize(
    ("sides", "weights"),
    [
        ([56, 28, 14, 7], (0, 0, 1, 1)),
        ([24, 12, 6, 3, 2], (0, 0, 1, 0, 0)),
        ([16, 8, 4, 2, 1], (0, 0, 1, 0, 0)),
        ([3, 2], (0, 1)),
        ([3, 3, 2, 1], (0, 0, 1, 1)),
        ([2], (1,)),
    ],
)
def test_overlays_take_the_deeper_half_of_the_scales_that_can_say_where(sides, weights) -> None:
    assert overlay_weights([(side, side) for side in sides]) == weights
    assert overlay_weights([(side, 99) for side in sides]) == weights


@pytest.mark.parametrize("count", [1, 4, 6])
def test_prior_weights_are_for_five_scales(count: int) -> None:
    with pytest.raises(
        ValueError, match=rf"for {count} scales\. Allowed are 5 scales, .* use 'ramp', 'equal' or {count} numbers"
    ):
        scale_weights("prior", count)


@pytest.mark.parametrize(
    ("weights", "message"),
    [
        ("linear", "Got weights='linear'. Allowed are 'equal', 'ramp', 'deep', 'prior' and 3 numbers"),
        ([1, 2], "Got 2 weights for 3 scales.*Allowed is one weight for each"),
        ([1, 2, 3, 4], "Got 4 weights for 3 scales.*Allowed is one weight for each"),
        ([1, -1, 2], "Got weights=.*from 0, not all 0"),
        ([0, 0, 0], "Got weights=.*from 0, not all 0"),
        ([1, math.nan, 1], "finite"),
        ([1, math.inf, 1], "finite"),
        ([], "Got 0 weights"),
    ],
)
def test_wrong_weights(weights: str | list[float], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        scale_weights(weights, 3)
    with pytest.raises(ValueError, match=message):
        combine(torch.rand(1, 3, 2, 2), weights)


def test_count_must_be_positive() -> None:
    with pytest.raises(ValueError, match=r"Got count=0. Allowed are whole numbers from 1"):
        scale_weights("equal", 0)


@pytest.mark.parametrize("weights", ["equal", "ramp", "prior", [0.0, 0.0, 3.0, 0.0, 0.5]])
def test_eq_3_pixel_by_pixel(weights: str | list[float]) -> None:
    maps = torch.rand(2, 5, 4, 3, dtype=torch.float64)
    numbers = scale_weights(weights, 5)
    result = combine(maps, weights)
    for b in range(2):
        for i in range(4):
            for j in range(3):
                above = sum(maps[b, k, i, j].item() * numbers[k] for k in range(5))
                assert result[b, i, j].item() == pytest.approx(above / sum(numbers), rel=1e-12)


@settings(max_examples=40, deadline=None)
@given(seed=st.integers(0, 2**32 - 1), weights=st.lists(st.floats(1e-3, 1e3), min_size=1, max_size=7))
def test_a_mean_lies_between_its_values_and_ignores_the_unit_of_the_weights(seed: int, weights: list[float]) -> None:
    maps = torch.rand((2, len(weights), 3, 3), generator=torch.Generator().manual_seed(seed))
    result = combine(maps, weights)
    assert (result >= maps.amin(1)).all()
    assert (result <= maps.amax(1)).all()
    torch.testing.assert_close(combine(maps, [weight * 7 for weight in weights]), result)
    torch.testing.assert_close(combine(maps.flip(1), weights[::-1]), result)


def test_rounding_never_leaves_the_range() -> None:
    """In float32 the shares 1/K of several K add up to a little more or less than 1."""
    for count in range(1, 40):
        ones = torch.ones(1, count, 2, 2)
        assert torch.equal(combine(ones), torch.ones(1, 2, 2))
        assert torch.equal(combine(ones, "ramp"), torch.ones(1, 2, 2))
    assert torch.equal(combine(torch.ones(1, 4, 2, 2), [1e-30, 1e30, 0.7, 1e300]), torch.ones(1, 2, 2))


def test_a_weight_of_0_leaves_a_scale_out() -> None:
    maps = torch.rand(2, 3, 4, 4)
    torch.testing.assert_close(combine(maps, [0, 5, 0]), maps[:, 1])


def test_precision_modes_gradient_and_empty_batch() -> None:
    maps = torch.rand(2, 3, 4, 4)
    assert combine(maps.double()).dtype == torch.float64
    assert combine(maps.bfloat16()).dtype == torch.float32
    assert torch.equal(combine(maps.half(), "ramp"), combine(maps.half().float(), "ramp"))
    assert combine(torch.rand(0, 3, 4, 4)).shape == (0, 4, 4)
    torch.testing.assert_close(combine(maps.to(memory_format=torch.channels_last)), combine(maps))
    with torch.inference_mode(), torch.autocast("cpu", dtype=torch.bfloat16):
        assert combine(maps.clone()).dtype == torch.float32
    tracked = torch.rand(1, 3, 2, 2, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda x: combine(x, "ramp"), (tracked,))
    maps[0, 1, 2, 3] = math.nan
    assert combine(maps).isnan().nonzero().tolist() == [[0, 2, 3]]


def test_clear_errors() -> None:
    with pytest.raises(TypeError, match=r"Got maps of torch.int64. Allowed are real floating-point tensors"):
        combine(torch.ones(1, 3, 2, 2, dtype=torch.int64))
    for shape in ((3, 2, 2), (1, 0, 2, 2)):
        with pytest.raises(ValueError, match=r"Allowed are \[B, K, H, W\]"):
            combine(torch.ones(shape))
