"""Large images tile by tile: the map of the whole image, one normalisation, no more memory than a tile."""

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from lightning_saliency.deployment import explain_tiled, tiled_scales, tiles
from lightning_saliency.explainers import SMOE
from lightning_saliency.scales.sampled import SampledStatistic
from lightning_saliency.studies.timing import peak_extra_bytes
from tests.networks import Chain, ConvNet, TokenTransformer

NEAR = {"rtol": 0, "atol": 2e-6}


def image_of(height, width):
    """Smooth, much brighter on one side: a normalisation of each tile by itself would show.

    In float64, since the logarithm of an activation near 0 makes the rounding of a convolution visible.
    """
    grid = torch.rand(1, 3, height // 8 + 2, width // 8 + 2, dtype=torch.float64)
    return F.interpolate(grid, (height, width), mode="bilinear")[0] * torch.linspace(0.1, 3, width)


def local_net():
    """Activations below zero, no pooling: convolutions of stride 2 and kernels of odd and even size."""
    layers = [nn.Conv2d(3, 8, 3, padding=1), nn.GELU(), nn.Conv2d(8, 8, 3, 2, 1), nn.SiLU(), nn.Conv2d(8, 8, 4, 2, 1)]
    return Chain(*layers, nn.GELU(), nn.AdaptiveAvgPool2d(1))


@pytest.mark.parametrize("size", [(96, 160), (97, 130), (64, 64), (40, 200), (131, 64)])
@pytest.mark.parametrize("build", [ConvNet, local_net])
def test_it_is_the_map_of_the_whole_image(build, size):
    network, image = build().eval().double(), image_of(*size)
    map_ = explain_tiled(network, image, tile=64, overlap=16)
    assert map_.shape == size
    torch.testing.assert_close(map_, SMOE(network)(image[None])[0], **NEAR)


def test_tiles_side_by_side_show_seams_that_overlap_takes_away():
    network, image = ConvNet().eval().double(), image_of(128, 128)
    whole = SMOE(network)(image[None])[0]
    errors = [
        (explain_tiled(network, image, tile=64, overlap=overlap) - whole).abs().max().item() for overlap in (0, 4, 12)
    ]
    assert errors[0] > errors[1] > 0.01
    assert errors[2] < 2e-6


@pytest.mark.parametrize("size", [(64, 64), (65, 64), (67, 97), (130, 66)])
def test_tiles_side_by_side_of_images_with_a_rest_that_makes_no_position(size):
    """Each position sees a patch of its own, so that nothing is missing at the seams."""
    network = Chain(nn.Conv2d(3, 8, 2, 2), nn.GELU(), nn.Conv2d(8, 8, 2, 2), nn.GELU()).eval().double()
    image = image_of(*size)
    torch.testing.assert_close(explain_tiled(network, image, tile=32, overlap=0), SMOE(network)(image[None])[0], **NEAR)


def test_convolutions_without_padding():
    layers = [nn.Conv2d(3, 8, 5), nn.ReLU(), nn.MaxPool2d(2), nn.Conv2d(8, 8, 3), nn.ReLU(), nn.MaxPool2d(2)]
    network, image = Chain(*layers, nn.Conv2d(8, 8, 3)).eval().double(), image_of(150, 97)
    whole = SMOE(network)(image[None])[0]
    torch.testing.assert_close(explain_tiled(network, image, tile=64, overlap=20), whole, **NEAR)
    with pytest.raises(ValueError, match="larger overlap"):
        explain_tiled(network, image, tile=64, overlap=4)


def test_a_network_for_one_size_takes_tiles_of_that_size():
    class Fixed(TokenTransformer):
        def forward(self, x):
            assert x.shape[2:] == (32, 32), "images of 32 pixels"
            return super().forward(x)

    network, image = Fixed(depth=4).eval().double(), image_of(64, 96)
    scales = tiled_scales(network, image, tile=32, overlap=0)
    assert scales.maps.shape == (1, 4, 8, 12)
    # The order of the positions in a tile is that of the tile by itself.
    tile = tiled_scales(network, image[:, 32:, 32:64], tile=32, overlap=0).maps[0]
    order = scales.maps[0, :, 4:, 4:8].flatten(1).argsort(dim=1)
    assert torch.equal(order, tile.flatten(1).argsort(dim=1))


def test_options_of_the_explainer_and_pixels_prepared_tile_by_tile():
    network = ConvNet().eval().double()
    image = (image_of(128, 192) * 80).to(torch.uint8)
    seen = []

    def prepare(tile):
        seen.append(tuple(tile.shape))
        return tile.double() / 255 - 0.5

    smoe = SMOE(network, "std", weights=[1, 2, 0])
    whole = prepare(image)[None]
    seen.clear()
    network.train()
    map_ = explain_tiled(smoe, image, tile=64, overlap=16, prepare=prepare)
    assert all(module.training for module in network.modules())
    torch.testing.assert_close(map_, smoe(whole)[0], **NEAR)
    assert set(seen) == {(3, 64, 64)}
    overview = explain_tiled(smoe, image, tile=64, overlap=16, prepare=prepare, size=(16, 24))
    scales = tiled_scales(smoe, image, tile=64, overlap=16, prepare=prepare, size=(16, 24))
    assert overview.shape == (16, 24)
    assert scales.names == smoe.scales(whole).names
    assert scales.lovi().shape == (1, 3, 16, 24)
    assert tiled_scales(smoe, image, tile=64, overlap=16, prepare=prepare).maps.shape == (1, 3, 128, 192)


def test_what_does_not_fit_is_said():
    network, image = ConvNet().eval().double(), image_of(128, 128)
    for arguments, message in (
        ({"tile": 66}, r"Got tile=66. Allowed are multiples of 4, .* give 68"),
        ({"overlap": 6}, r"Got overlap=6. Allowed are multiples of 4, .* give 8"),
        ({"overlap": 32}, r"Got overlap=32. Allowed is less than half of tile=64"),
        ({"tile": 0}, r"Got tile=0"),
        ({"overlap": -4}, r"Got overlap=-4"),
    ):
        with pytest.raises(ValueError, match=message):
            explain_tiled(network, image, **{"tile": 64, "overlap": 8, **arguments})
    enlarging = Chain(nn.Upsample(scale_factor=2), nn.Conv2d(3, 8, 3, 1, 1), nn.ReLU(), nn.MaxPool2d(4)).eval().double()
    with pytest.raises(ValueError, match=r"has 128 positions.* Allowed are .* layers that are no finer than the image"):
        explain_tiled(enlarging, image, tile=64, overlap=8)
    assert explain_tiled(SMOE(enlarging, layers=("m3",)), image, tile=64, overlap=8).shape == (128, 128)
    with pytest.raises(ValueError, match=r"Got an image \[1, 3, 128, 128\]"):
        explain_tiled(network, image[None])


@pytest.mark.parametrize("make", [explain_tiled, tiled_scales])
def test_memory_does_not_grow_with_the_image_where_the_map_does_not(make):
    network = Chain(nn.Conv2d(3, 8, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2), nn.Conv2d(8, 8, 3, 2, 1), nn.ReLU())
    images = [torch.randint(0, 256, (3, side, side), dtype=torch.uint8) for side in (192, 384, 768)]

    def peak(image, size):
        return peak_extra_bytes(lambda: make(network, image, tile=64, overlap=16, prepare=by_255, size=size))

    flat = [peak(image, (32, 32)) for image in images]
    assert max(flat) <= 1.01 * min(flat)
    whole = [peak(image, None) for image in images]
    assert whole[2] > 3 * flat[2]


def by_255(tile):
    return tile / 255


def test_a_map_of_the_images_size_takes_two_of_them():
    image = torch.randint(0, 256, (3, 768, 768), dtype=torch.uint8)
    network = Chain(nn.Conv2d(3, 4, 3, 4, 1), nn.ReLU(), nn.Conv2d(4, 4, 3, 2, 1), nn.ReLU(), nn.Conv2d(4, 4, 3, 2, 1))
    peak = peak_extra_bytes(lambda: explain_tiled(network, image, tile=64, overlap=16, prepare=by_255))
    assert 2 * 4 * 768**2 < peak < 2.5 * 4 * 768**2


@pytest.mark.parametrize("size", [(40, 40), (33, 20), (7, 11), (48, 130)])
def test_a_smaller_map_is_the_same_whether_all_is_kept_or_what_it_needs(size, monkeypatch):
    network, image = local_net().eval().double(), image_of(197, 290)
    options = {"tile": 64, "overlap": 16, "size": size}
    sampled = explain_tiled(network, image, **options), tiled_scales(network, image, **options).maps
    monkeypatch.setattr(tiles, "_room", lambda grid, wanted, like: like.new_empty(1, *grid))
    kept = explain_tiled(network, image, **options), tiled_scales(network, image, **options).maps
    for one, other in zip(sampled, kept, strict=True):
        torch.testing.assert_close(one.float(), other.float(), rtol=0, atol=1e-4)


def test_sampled_statistics_that_are_constant_or_not_finite():
    for value, expected in ((3.0, 0.5), (float("nan"), float("nan"))):
        statistic = torch.full((1, 16, 16), 3.0)
        statistic[0, 5, 5] = value
        sampled = SampledStatistic((16, 16), (2, 2), statistic)
        sampled.put(statistic[:, :7], slice(0, 7), slice(0, 16))
        sampled.put(statistic[:, 7:], slice(7, 16), slice(0, 16))
        torch.testing.assert_close(sampled.normalised(), torch.full((1, 2, 2), expected), equal_nan=True)


def test_sampled_statistics_of_half_precision_are_computed_in_single():
    statistic = torch.rand(1, 16, 16, generator=torch.Generator().manual_seed(0)).half()
    maps = []
    for given in (statistic, statistic.float()):
        sampled = SampledStatistic((16, 16), (3, 3), given)
        sampled.put(given, slice(0, 16), slice(0, 16))
        maps.append(sampled.normalised())
    assert maps[0].dtype == torch.float32
    torch.testing.assert_close(*maps)
