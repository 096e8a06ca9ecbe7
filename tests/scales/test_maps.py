import pytest
import torch
from torch.nn import functional as F

from lightning_saliency.functional.masking import resize_maps
from lightning_saliency.functional.normalization import normal_cdf
from lightning_saliency.scales.maps import ScaleMaps, coarse_statistics, combined_statistics


def test_maps_are_normalised_before_they_are_resized():
    statistics = [torch.rand(2, 8, 12), torch.rand(2, 4, 6)]
    maps = ScaleMaps.from_statistics(statistics, ["a", "b"], size=(16, 24)).maps
    for k, statistic in enumerate(statistics):
        expected = F.interpolate(normal_cdf(statistic)[:, None], size=(16, 24), mode="bilinear", align_corners=False)[
            :, 0
        ]
        torch.testing.assert_close(maps[:, k], expected)


def test_the_default_size_is_the_finest_grid_wherever_it_stands():
    statistics = [torch.rand(2, 4, 6), torch.rand(2, 8, 12)]
    assert ScaleMaps.from_statistics(statistics, ["a", "b"]).maps.shape == (2, 2, 8, 12)


@pytest.mark.parametrize("grids", [[(4, 12), (6, 6)], [(6, 6), (12, 4)], [(2, 9), (5, 4), (9, 2)]])
def test_the_finest_grid_has_the_most_cells(grids):
    statistics = [torch.rand(7, *grid) for grid in grids]
    finest = max(grids, key=lambda grid: grid[0] * grid[1])
    assert combined_statistics(statistics).shape == (7, *finest)
    assert ScaleMaps.from_statistics(statistics, ["a"] * len(grids)).maps.shape[2:] == finest


def test_combined_is_the_weighted_mean():
    maps = ScaleMaps(torch.rand(2, 3, 5, 5), ("a", "b", "c"), (1.0, 2.0, 3.0))
    expected = (maps.maps * torch.tensor([1.0, 2, 3]).reshape(3, 1, 1)).sum(1) / 6
    torch.testing.assert_close(maps.combined(), expected)


def test_views_have_the_images_size_and_range():
    maps = ScaleMaps.from_statistics([torch.rand(2, 8, 8), torch.rand(2, 4, 4)], ["a", "b"], "ramp", size=(16, 16))
    for picture in (maps.lovi(), maps.overlay(torch.rand(2, 3, 16, 16))):
        assert picture.shape == (2, 3, 16, 16)
        assert picture.min() >= 0
        assert picture.max() <= 1


def test_scales_weigh_the_same_unless_told_otherwise():
    statistics = [torch.rand(2, 8, 9), torch.rand(2, 4, 5)]
    maps = ScaleMaps.from_statistics(statistics, ["a", "b"])
    assert maps.weights == (1, 1)
    assert maps.grids == ((8, 9), (4, 5))
    torch.testing.assert_close(combined_statistics(statistics), maps.maps.mean(1))


def test_overlays_show_the_deeper_half_of_the_scales_that_say_where():
    known = ScaleMaps.from_statistics([torch.rand(2, side, side) for side in (8, 4, 2)], "abc")
    torch.testing.assert_close(known.deep(), known.maps[:, 1])
    unknown = ScaleMaps(known.maps, ("a", "b", "c"), (1.0, 1.0, 1.0))
    torch.testing.assert_close(unknown.deep(), known.maps[:, 2])


@pytest.mark.parametrize(("given", "expected"), [({}, [0.625, 0.25, 0.25]), ({"alpha": 0.5}, [0.75, 0.5, 0.5])])
def test_an_overlay_is_a_quarter_the_image_unless_told_otherwise(given, expected):
    """The colour of 1 is (0.5, 0, 0)."""
    maps = ScaleMaps(torch.ones(1, 2, 4, 4), ("a", "b"), (1.0, 1.0))
    torch.testing.assert_close(maps.overlay(torch.ones(1, 3, 4, 4), **given)[0, :, 2, 2], torch.tensor(expected))


# Φ(−1) and Φ(1), what becomes of two values that are equally frequent.
LOW, HIGH = 0.158655, 0.841345


def test_on_a_coarse_grid_finer_scales_are_averaged_and_coarser_ones_interpolated():
    finer = torch.zeros(6, 6)
    finer[:3, :3] = 2.0  # all of the first cell
    finer[:3, 4:] = 2.0  # two thirds of the second
    finer[3:, :1] = 2.0  # a third of the third
    coarser = torch.tensor([[2.0, 0.0]])
    averaged = torch.tensor([[HIGH, (2 * HIGH + LOW) / 3], [(HIGH + 2 * LOW) / 3, LOW]])
    interpolated = torch.tensor([[HIGH, 0.75 * HIGH + 0.25 * LOW, 0.25 * HIGH + 0.75 * LOW, LOW]] * 2)
    options = {"atol": 1e-5, "rtol": 0}
    torch.testing.assert_close(coarse_statistics([finer[None]], (2, 2))[0], averaged, **options)
    torch.testing.assert_close(coarse_statistics([coarser[None]], (2, 4))[0], interpolated, **options)
    both = coarse_statistics([finer[None], coarser[None]], (2, 2))[0]
    torch.testing.assert_close(both, (averaged + interpolated[:, [0, 3]]) / 2, **options)


def test_a_coarse_map_of_a_volume_is_the_mean_of_its_slices():
    volume = torch.tensor([[[0.0, 2.0]], [[2.0, 2.0]], [[0.0, 0.0]]])
    expected = torch.tensor([[(HIGH + 2 * LOW) / 3, (2 * HIGH + LOW) / 3]])
    torch.testing.assert_close(coarse_statistics([volume[None]], (1, 2))[0], expected, atol=1e-5, rtol=0)


def test_names_and_weights_must_fit():
    with pytest.raises(ValueError, match=r"Got 1 names and .* for 2 scales"):
        ScaleMaps(torch.rand(2, 2, 5, 5), ("a",), (1.0, 1.0))
    with pytest.raises(ValueError, match=r"\[B, K, H, W\]"):
        ScaleMaps(torch.rand(2, 5, 5), ("a",), (1.0,))
    with pytest.raises(ValueError, match="at least one scale"):
        ScaleMaps.from_statistics([], [])


def test_an_empty_batch_has_empty_maps():
    maps = ScaleMaps.from_statistics([torch.rand(0, 8, 8), torch.rand(0, 4, 4)], ["a", "b"], size=(16, 16))
    assert maps.combined().shape == (0, 16, 16)
    assert resize_maps(torch.rand(0, 3, 3), (4, 4)).shape == (0, 4, 4)


@pytest.mark.parametrize("weights", ["equal", "ramp", (0.0, 2.0, 1.0)])
def test_combining_at_once_equals_combining_the_maps(weights):
    statistics = [torch.rand(2, 4, 6), torch.rand(2, 8, 12), torch.rand(2, 2, 3)]
    expected = ScaleMaps.from_statistics(statistics, ["a", "b", "c"], weights).combined()
    torch.testing.assert_close(combined_statistics(statistics, weights), expected)
