"""Marks that give the class away: where they are, what they change, and that they are the same each time."""

import colorsys

import pytest
import torch

from lightning_saliency.data.shortcuts import (
    BackgroundTint,
    ClassBlur,
    ClassBorder,
    CornerMark,
    RandomMark,
    Watermark,
    class_colors,
    watermark_patterns,
)

ALL = [CornerMark(), RandomMark(), Watermark(), BackgroundTint(), ClassBorder(), ClassBlur()]
GREY, DRAWS = torch.full((4, 3, 16, 24), 0.5), torch.tensor([[0.0, 0.0], [0.99, 0.99], [0.5, 0.2], [0.1, 0.8]])


def textured(count=4):
    return torch.rand(count, 3, 16, 24, generator=torch.Generator().manual_seed(0))


def test_the_colours_are_those_of_a_wheel():
    expected = [colorsys.hsv_to_rgb(k / 7, 1, 1) for k in range(7)]
    assert torch.allclose(class_colors(7), torch.tensor(expected), atol=1e-6)


@pytest.mark.parametrize("shortcut", ALL, ids=lambda each: type(each).__name__)
def test_a_mark_tells_the_class_and_nothing_else_changes(shortcut):
    images, cues = textured(1).expand(4, -1, -1, -1), torch.tensor([0, 1, 0, 4])
    before = images.clone()
    same_place = DRAWS[:1].expand(4, 2)
    planted, mask = shortcut.plant(images, cues, 5, same_place)
    assert torch.equal(images, before)
    assert planted.shape == images.shape
    assert planted.min() >= 0
    assert planted.max() <= 1
    assert torch.equal(planted[0], planted[2])
    assert not torch.equal(planted[0], planted[1])
    assert not torch.equal(planted[0], planted[3])
    outside = ~mask[:, None].expand_as(planted)
    assert torch.equal(planted[outside], images[outside])
    again, _ = shortcut.plant(images, cues, 5, same_place)
    assert torch.equal(planted, again)


@pytest.mark.parametrize(
    ("corner", "rows", "columns"),
    [
        ("upper_left", slice(0, 4), slice(0, 4)),
        ("upper_right", slice(0, 4), slice(20, 24)),
        ("lower_left", slice(12, 16), slice(0, 4)),
        ("lower_right", slice(12, 16), slice(20, 24)),
    ],
)
def test_a_corner_mark_by_hand(corner, rows, columns):
    planted, mask = CornerMark(0.25, corner).plant(GREY, torch.tensor([0, 1, 2, 0]), 3, DRAWS)
    expected = GREY.clone()
    for image, color in enumerate([[1.0, 0, 0], [0, 1.0, 0], [0, 0, 1.0], [1.0, 0, 0]]):
        expected[image, :, rows, columns] = torch.tensor(color)[:, None, None]
    assert torch.equal(planted, expected)
    assert torch.equal(mask, (expected != GREY).any(1))


def test_a_random_mark_is_where_its_numbers_say():
    _, mask = RandomMark(0.25).plant(GREY, torch.zeros(4, dtype=torch.int64), 3, DRAWS)
    assert mask.sum((1, 2)).tolist() == [16] * 4
    corners = [tuple(torch.nonzero(one)[0].tolist()) for one in mask]
    # Thirteen rows and twenty-one columns to begin in.
    assert corners == [(0, 0), (12, 20), (6, 4), (1, 16)]


def test_a_watermark_lets_the_image_shine_through():
    images = textured()
    planted, mask = Watermark(0.5, 0.25).plant(images, torch.arange(4), 4, DRAWS)
    assert mask[:, 8:, :8].all()
    assert mask.sum() == 4 * 64
    pattern = watermark_patterns(4).repeat_interleave(2, 1).repeat_interleave(2, 2)[:, None]
    assert torch.allclose(planted[:, :, 8:, :8], 0.75 * images[:, :, 8:, :8] + 0.25 * pattern, atol=1e-6)


def test_the_patterns_differ_and_are_equally_bright():
    patterns = watermark_patterns(50)
    assert len({tuple(each.flatten().tolist()) for each in patterns}) == 50
    assert set(patterns.sum((1, 2)).tolist()) == {8.0}
    assert torch.equal(patterns[:10], watermark_patterns(10))
    with pytest.raises(ValueError, match="Got 20000 classes"):
        watermark_patterns(20000)


def test_a_tinted_background_ends_at_the_boxes():
    boxes = torch.tensor([[[2.0, 3.0, 6.0, 9.0], [20.0, 0.0, 24.0, 2.0]]]).expand(4, -1, -1)
    planted, mask = BackgroundTint(0.5).plant(GREY, torch.zeros(4, dtype=torch.int64), 3, DRAWS, boxes)
    inside = torch.zeros(16, 24, dtype=torch.bool)
    inside[3:9, 2:6] = inside[0:2, 20:24] = True
    assert torch.equal(mask, ~inside.expand(4, -1, -1))
    assert planted[0, :, 0, 0].tolist() == [0.75, 0.25, 0.25]
    assert BackgroundTint().plant(GREY, torch.zeros(4, dtype=torch.int64), 3, DRAWS)[1].all()


def test_a_border_is_as_wide_as_asked():
    _, mask = ClassBorder(0.125).plant(GREY, torch.zeros(4, dtype=torch.int64), 3, DRAWS)
    assert not mask[:, 2:14, 2:22].any()
    assert mask.sum() == 4 * (16 * 24 - 12 * 20)


def test_blur_runs_in_the_direction_of_the_class():
    stripes = torch.zeros(2, 3, 16, 16)
    stripes[:, :, ::2] = 1
    # Of two classes the first blurs along the rows and the second along the columns.
    planted, _ = ClassBlur(0.5).plant(stripes, torch.tensor([0, 1]), 2, DRAWS[:2])
    assert torch.allclose(planted[0], stripes[0], atol=1e-6)
    middle = planted[1, :, 5:11]
    assert float((middle - 0.5).abs().max()) < 0.1


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: CornerMark(0.0), "Got size=0.0"),
        (lambda: CornerMark(corner="middle"), "Got corner='middle'"),
        (lambda: RandomMark(1.5), "Got size=1.5"),
        (lambda: Watermark(opacity=0.0), "Got opacity=0.0"),
        (lambda: BackgroundTint(2.0), "Got strength=2.0"),
        (lambda: ClassBorder(0.75), r"Got width=0.75.*\(0, 0.5\]"),
        (lambda: ClassBlur(-1.0), "Got length=-1.0"),
    ],
)
def test_wrong_arguments(build, message):
    with pytest.raises(ValueError, match=message):
        build()
