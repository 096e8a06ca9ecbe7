"""Where maps point in common, and whether what lies there depends on the class."""

import math

import pytest
import torch

from lightning_saliency.functional.position_bias import (
    MAX_CLASSES,
    PositionSums,
    cell_features,
    position_bias,
)

COUNT, CLASSES = 300, 5


def _data(seed=0, marked=True, pointed=True, moving=False):
    """Random images and maps; the upper left corner may carry the class's brightness, and the maps may point there."""
    generator = torch.Generator().manual_seed(seed)
    labels = torch.arange(COUNT) % CLASSES
    images, maps = (torch.rand(COUNT, *shape, generator=generator) for shape in ((3, 32, 32), (32, 32)))
    for index, label in enumerate(labels.tolist()):
        row, column = torch.randint(0, 29, (2,), generator=generator).tolist() if moving else (0, 0)
        place = slice(row, row + 8), slice(column, column + 8)
        if marked:
            images[index][(slice(None), *place)] = label / CLASSES
        if pointed:
            maps[index][place] += 1
    return maps, labels, images


def test_a_marked_corner_that_maps_point_to():
    found = position_bias(*_data())
    assert max(found.cell) < 4
    assert found.share == 1
    assert found.explained == pytest.approx(1, abs=1e-3)
    assert found.bias == pytest.approx(found.share * found.explained)
    assert found.content > 0.9
    assert (found.count, found.classes) == (COUNT, CLASSES)


@pytest.mark.parametrize("options", [{"marked": False}, {"marked": False, "pointed": False}])
def test_without_marks_there_is_none(options):
    found = position_bias(*_data(**options))
    assert found.bias < 0.1
    assert abs(found.content) < 0.1


def test_marks_that_no_map_points_to_are_none():
    assert position_bias(*_data(pointed=False)).bias < 0.2


def test_shuffled_classes_have_none():
    maps, labels, images = _data()
    shuffled = labels[torch.randperm(COUNT, generator=torch.Generator().manual_seed(1))]
    found = position_bias(maps, shuffled, images)
    assert found.bias < 0.05
    assert abs(found.content) < 0.05


def test_moving_marks_are_seen_in_the_content_alone():
    found = position_bias(*_data(moving=True))
    assert found.content > 0.9
    assert found.bias < 0.2


def test_epsilon_squared_is_that_of_an_analysis_of_variance():
    generator = torch.Generator().manual_seed(0)
    labels = torch.arange(40) % 3
    values = torch.rand(40, generator=generator).double() + 0.3 * labels
    images = values.float()[:, None, None, None].expand(-1, 1, 16, 16)
    maps = torch.zeros(40, 16, 16)
    maps[:, 3, 4] = 1.0
    grand = sum(values) / 40
    total = sum((value - grand) ** 2 for value in values)
    within = 0.0
    for label in range(3):
        own = [value for value, each in zip(values, labels, strict=True) if each == label]
        within += sum((value - sum(own) / len(own)) ** 2 for value in own)
    expected = 1 - (within / (40 - 3)) / (total / (40 - 1))
    assert position_bias(maps, labels, images).content == pytest.approx(float(expected), abs=1e-5)


def test_batches_and_processes_add_up():
    maps, labels, images = _data()
    whole, parts = PositionSums(), [PositionSums(), PositionSums()]
    whole.add(maps, labels, images)
    for start in range(0, COUNT, 60):
        part = slice(start, start + 60)
        parts[start // 60 % 2].add(maps[part], labels[part], cell_features(images[part]))
    total = PositionSums(CLASSES)
    total.load(parts[0].vector() + parts[1].vector())
    one, other = whole.result(), total.result()
    assert one.cell == other.cell
    assert one.bias == pytest.approx(other.bias, abs=1e-4)
    assert one.content == pytest.approx(other.content, abs=1e-4)
    torch.testing.assert_close(whole.mean_map(), total.mean_map())
    torch.testing.assert_close(whole.class_means()[3], total.class_means()[3])


def test_images_without_a_class_count_for_the_places_alone():
    maps, labels, images = _data()
    with_more, sums = PositionSums(), PositionSums()
    sums.add(maps, labels, images)
    with_more.add(maps, labels, images)
    with_more.add(maps[:10], None, images[:10])
    with_more.add(maps[:10], torch.tensor([-1] * 5 + [MAX_CLASSES] * 5), images[:10])
    assert with_more.result().count == COUNT
    assert with_more.result().explained == pytest.approx(sums.result().explained, abs=1e-5)
    assert float(with_more.count.sum()) == COUNT + 20


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_what_is_no_number_is_left_out(bad):
    maps, labels, images = _data()
    before = position_bias(maps[2:], labels[2:], images[2:])
    maps[0, 0, 0] = images[1, 0, 0, 0] = bad
    assert position_bias(maps, labels, images) == before


@pytest.mark.parametrize("labels", [torch.zeros(20, dtype=torch.int64), torch.arange(20)])
def test_one_class_or_one_image_a_class_say_nothing(labels):
    found = position_bias(torch.rand(20, 16, 16), labels, torch.rand(20, 3, 16, 16))
    assert math.isnan(found.bias)
    assert math.isnan(found.content)


def test_any_number_of_channels_and_small_maps():
    for channels in (1, 2, 4, 12):
        assert cell_features(torch.rand(2, channels, 20, 24)).shape == (2, 5, 16, 16)
        assert position_bias(torch.rand(40, 7, 7), torch.arange(40) % 2, torch.rand(40, channels, 9, 9)).bias < 0.5


def test_a_constant_map_points_nowhere_and_a_sparse_one_to_what_it_shows():
    """Also where the first rows of the image tell the class, which come first among equals."""
    labels = torch.arange(60) % 3
    images = torch.rand(60, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    images[:, :, :6] = (labels / 3)[:, None, None, None]
    maps = torch.zeros(60, 16, 16)
    sums = PositionSums()
    sums.add(maps, labels, images)
    found = sums.result()
    assert (found.bias, found.share) == (0.0, 0.0)
    # What lies under it is the whole image.
    torch.testing.assert_close(sums.core.sum(0)[:3], images.mean((2, 3)).sum(0))
    maps[:, 10, 10:12] = torch.rand(60, 2, generator=torch.Generator().manual_seed(1)) + 0.5
    sums = PositionSums()
    sums.add(maps, labels, images)
    assert sums.shares().nonzero().tolist() == [[10, 10], [10, 11]]


def test_errors():
    with pytest.raises(ValueError, match="same B"):
        position_bias(torch.rand(3, 16, 16), torch.arange(2), torch.rand(3, 3, 16, 16))
    with pytest.raises(ValueError, match="NaN comes from"):
        position_bias(torch.full((2, 16, 16), math.nan), torch.arange(2), torch.rand(2, 3, 16, 16))
    assert PositionSums().result() is None
