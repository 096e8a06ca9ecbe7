"""Where a map puts its weight: properties, ties, empty masks, extreme values, boxes."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torchvision.ops import masks_to_boxes

from lightning_saliency.functional.localization import (
    bbox_score,
    boxes_to_masks,
    energy_pointing_game,
    pointing_game,
    top_fraction_iou,
)
from lightning_saliency.functional.masking import top_fraction

AgainstMasks = Callable[[Tensor, Tensor], Tensor]
ALL = pytest.mark.parametrize("score", [energy_pointing_game, pointing_game, top_fraction_iou, bbox_score])
RANKED = pytest.mark.parametrize("score", [pointing_game, top_fraction_iou, bbox_score])


def maps_and_masks(batch: int = 6, height: int = 12, width: int = 15) -> tuple[Tensor, Tensor]:
    saliency = torch.rand(batch, height, width)
    masks = torch.zeros(batch, height, width, dtype=torch.bool)
    masks[:, 2:9, 4:13] = True
    masks[::2, 6:] = False
    return saliency, masks


def test_a_map_equal_to_the_mask_is_perfect() -> None:
    _, masks = maps_and_masks()
    saliency = masks.float() * 0.2
    torch.testing.assert_close(energy_pointing_game(saliency, masks), torch.ones(6))
    assert bbox_score(saliency, masks).tolist() == [1.0] * 6
    assert pointing_game(saliency, masks).tolist() == [1.0] * 6
    fraction = masks[1].float().mean().item()
    assert top_fraction_iou(saliency, masks, fraction)[1::2].tolist() == [1.0] * 3


def test_energy_of_constant_and_empty_maps_is_the_area_of_the_object() -> None:
    _, masks = maps_and_masks()
    area = masks.float().mean((1, 2))
    for value in (0.0, 1e-40, 0.7, 1e37, -1.0):
        torch.testing.assert_close(energy_pointing_game(torch.full(masks.shape, value), masks), area)


def test_negative_values_have_energy_too() -> None:
    saliency = torch.tensor([[[3.0, -1.0], [-2.0, 4.0]]])
    assert energy_pointing_game(saliency, torch.tensor([[[True, False], [True, False]]])).tolist() == [0.5]
    assert energy_pointing_game(saliency, torch.tensor([[[True, True], [False, False]]])).tolist() == [
        pytest.approx(0.4)
    ]


def test_energy_does_not_depend_on_the_maps_size() -> None:
    saliency, masks = maps_and_masks()
    saliency, plain = saliency.double(), energy_pointing_game(saliency.double(), masks)
    for factor in (-2.0, 1e-300, 1e300):
        torch.testing.assert_close(energy_pointing_game(saliency * factor, masks), plain)
    assert (energy_pointing_game(saliency, masks) + energy_pointing_game(saliency, ~masks)).tolist() == pytest.approx(
        [1.0] * 6
    )


@RANKED
def test_scores_by_rank_are_unchanged_by_monotone_transformations(score: AgainstMasks) -> None:
    saliency, masks = maps_and_masks(batch=20)
    plain = score(saliency.double(), masks)
    assert 0 < plain.mean() < 1
    for transformed in ((5 * saliency.double()).exp(), saliency.double() ** 3 - 4, saliency.double().logit()):
        assert torch.equal(score(transformed, masks), plain)


@ALL
def test_flipping_map_and_mask_together_changes_nothing(score: AgainstMasks) -> None:
    saliency, masks = maps_and_masks()
    torch.testing.assert_close(score(saliency.flip(1, 2), masks.flip(1, 2)), score(saliency, masks))


def test_rounding_finds_no_more_energy_than_there_is() -> None:
    assert energy_pointing_game(torch.rand(200, 17, 19), torch.ones(200, 17, 19, dtype=torch.bool)).max() <= 1


def test_no_pixel_and_no_object_share_nothing() -> None:
    saliency, masks = maps_and_masks()
    assert top_fraction_iou(saliency, torch.zeros_like(masks), fraction=0.0).tolist() == [0.0] * 6


@ALL
def test_an_empty_mask_scores_nothing(score: AgainstMasks) -> None:
    saliency, masks = maps_and_masks()
    assert score(saliency, torch.zeros_like(masks)).tolist() == [0.0] * 6


@ALL
def test_each_image_is_by_itself(score: AgainstMasks) -> None:
    saliency, masks = maps_and_masks()
    assert torch.equal(
        score(saliency, masks), torch.cat([score(saliency[i : i + 1], masks[i : i + 1]) for i in range(6)])
    )
    assert score(saliency[:0], masks[:0]).shape == (0,)
    assert torch.equal(score(torch.ones(2, 1, 1), torch.ones(2, 1, 1, dtype=torch.bool)) >= 0, torch.ones(2).bool())


@ALL
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.uint8])
def test_lower_precision_is_computed_in_float32(score: AgainstMasks, dtype: torch.dtype) -> None:
    saliency, masks = maps_and_masks()
    saliency = (saliency * 255).to(dtype)
    assert score(saliency, masks).dtype == torch.float32
    torch.testing.assert_close(score(saliency, masks), score(saliency.float(), masks), atol=0, rtol=0)


def test_the_first_of_equal_maxima_points() -> None:
    """A constant map hits nothing but what lies in the first corner; torch's and numpy's argmax agree on it."""
    saliency = torch.zeros(3, 2, 3)
    saliency[2, 0, 2] = saliency[2, 1, 0] = 1.0
    masks = torch.zeros(3, 2, 3, dtype=torch.bool)
    masks[0, 0, 0] = masks[1, 1, 2] = masks[2, 0, 2] = True
    assert pointing_game(saliency, masks).tolist() == [1.0, 0.0, 1.0]


@settings(max_examples=60, deadline=None)
@given(row=st.integers(0, 6), column=st.integers(0, 8), tolerance=st.floats(0, 9), seed=st.integers(0, 1000))
def test_tolerance_is_a_euclidean_dilation(row: int, column: int, tolerance: float, seed: int) -> None:
    masks = torch.rand(1, 7, 9, generator=torch.Generator().manual_seed(seed)) > 0.95
    saliency = torch.zeros(1, 7, 9)
    saliency[0, row, column] = 1.0
    distances = [math.hypot(row - r, column - c) for r, c in masks[0].nonzero().tolist()]
    assert pointing_game(saliency, masks, tolerance).item() == float(any(d <= tolerance for d in distances))


def test_top_fraction_iou_takes_the_pixels_of_top_fraction() -> None:
    saliency, masks = maps_and_masks()
    saliency = (saliency * 3).round()  # many ties
    for fraction in (0.0, 0.2, 0.5, 1.0):
        top = top_fraction(saliency, fraction)
        assert (top.sum((1, 2)) == round(fraction * 180)).all()
        expected = (top & masks).sum((1, 2)) / (top | masks).sum((1, 2))
        torch.testing.assert_close(top_fraction_iou(saliency, masks, fraction), expected)


def test_bbox_score_takes_as_many_pixels_as_the_object_has() -> None:
    saliency, masks = maps_and_masks()
    saliency = (saliency * 3).round()
    masks[1] = False
    masks[2] = True
    for one, mask, value in zip(saliency, masks, bbox_score(saliency, masks), strict=True):
        size = int(mask.sum())
        inside = (top_fraction(one, size / 180) & mask).sum()
        assert value.item() == pytest.approx(inside.item() / max(size, 1))


def test_boxes_with_whole_coordinates_are_the_inverse_of_masks_to_boxes() -> None:
    masks = torch.zeros(3, 10, 14, dtype=torch.bool)
    masks[0, 2:5, 3:13] = True
    masks[1, 9:, :1] = True
    masks[2] = True
    boxes = masks_to_boxes(masks) + torch.tensor([0, 0, 1, 1])  # its ends are inclusive
    assert torch.equal(boxes_to_masks(boxes[:, None], (10, 14)), masks)
    assert torch.equal(boxes_to_masks(boxes[:, None].long(), (10, 14)), masks)


@settings(max_examples=60, deadline=None)
@given(
    box=st.tuples(*[st.floats(-3, 12, width=32)] * 4),
    more=st.lists(st.tuples(*[st.integers(-2, 9)] * 4), max_size=3),
)
def test_boxes_cover_what_they_overlap(box: tuple[float, ...], more: list[tuple[int, ...]]) -> None:
    expected = torch.zeros(7, 9, dtype=torch.bool)
    for x1, y1, x2, y2 in [box, *more]:
        if x2 > x1 and y2 > y1:
            for i in range(7):
                for j in range(9):
                    across = min(x2, j + 1) - max(x1, j)
                    down = min(y2, i + 1) - max(y1, i)
                    if across > 0 and down > 0:
                        expected[i, j] = True
    boxes = torch.tensor([box, *more], dtype=torch.float32)
    assert torch.equal(boxes_to_masks(boxes[None], (7, 9))[0], expected)
    assert torch.equal(boxes_to_masks([boxes], (7, 9))[0], expected)


def test_padding_boxes_cover_nothing() -> None:
    one = torch.tensor([[1.0, 1.0, 3.0, 2.0]])
    none = torch.zeros(0, 4)
    listed = boxes_to_masks([one, none, torch.cat([one, one + 2])], (5, 6))
    padded = torch.full((3, 4, 4), math.nan)
    padded[0, 2] = padded[2, 0] = one[0]
    padded[2, 3] = one[0] + 2
    padded[0, 0] = torch.tensor([2.5, 2.5, 2.5, 4.0])  # no width
    padded[1, 0] = torch.tensor([0.0, 2.5, 4.0, 2.5])  # no height
    padded[1, 1] = torch.tensor([4.0, 0.0, 1.0, 3.0])  # ends before it begins
    assert torch.equal(boxes_to_masks(padded, (5, 6)), listed)
    assert listed.sum((1, 2)).tolist() == [2, 0, 4]
    assert boxes_to_masks([], (5, 6)).shape == (0, 5, 6)
    assert boxes_to_masks(torch.zeros(2, 0, 4), (5, 6)).sum() == 0
    assert boxes_to_masks(torch.ones(2, 1, 4), (0, 6)).shape == (2, 0, 6)
    assert boxes_to_masks(torch.ones(2, 1, 4), (5, 0)).shape == (2, 5, 0)


def test_a_map_with_nan_scores_nan() -> None:
    saliency, masks = maps_and_masks(batch=2)
    saliency[0, 5, 5] = torch.nan
    for score in (energy_pointing_game, pointing_game, bbox_score):
        assert score(saliency, masks).isnan().tolist() == [True, False]
    with pytest.raises(ValueError, match="NaN"):
        top_fraction_iou(saliency, masks)


@ALL
def test_arguments_are_checked(score: AgainstMasks) -> None:
    saliency, masks = maps_and_masks()
    with pytest.raises(ValueError, match=r"Got saliency maps \[12, 15\]. Allowed are \[B, H, W\]"):
        score(saliency[0], masks[0])
    with pytest.raises(ValueError, match=r"Got masks \[1, 12, 15\] for saliency maps \[6, 12, 15\]"):
        score(saliency, masks[:1])
    with pytest.raises(TypeError, match=r"Got masks of torch.float32. Allowed is torch.bool"):
        score(saliency, masks.float())


def test_options_are_checked() -> None:
    saliency, masks = maps_and_masks()
    with pytest.raises(ValueError, match="tolerance"):
        pointing_game(saliency, masks, tolerance=-1)
    with pytest.raises(ValueError, match="fraction"):
        top_fraction_iou(saliency, masks, fraction=20)
    with pytest.raises(ValueError, match=r"Got boxes \[3, 4\]"):
        boxes_to_masks(torch.zeros(3, 4), (5, 5))
    with pytest.raises(ValueError, match=r"zeros\(0, 4\)"):
        boxes_to_masks([torch.zeros(1, 4), torch.zeros(0)], (5, 5))
    with pytest.raises(ValueError, match="size"):
        boxes_to_masks(torch.zeros(1, 1, 4), (-5, 5))
