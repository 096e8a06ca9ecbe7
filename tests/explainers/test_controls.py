"""Control maps, which know nothing of the network: each keeps what it says, and nothing else."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from lightning_saliency.explainers.controls import CenterGaussian, OtherImage, RandomBlobs, RandomMap, shuffled_blobs


def _generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def test_random_maps_depend_on_the_image_and_the_seed_only():
    images, model = torch.rand(3, 3, 9, 7), nn.Identity()
    maps = RandomMap(model)(images, torch.tensor([0, 1, 0]))
    alone = RandomMap(model)(images[1:2], 1)
    assert torch.equal(maps[1], alone[0])
    assert torch.equal(RandomMap(model)(images[1:2]), alone)
    assert not torch.equal(RandomMap(model, seed=1)(images[1:2], 1), alone)
    assert not torch.equal(maps[0], maps[2])


def test_the_central_gaussian():
    one = CenterGaussian(nn.Identity(), sigma=0.2)(torch.rand(2, 3, 9, 5), 0)
    y, x = torch.meshgrid(torch.arange(9.0) - 4, torch.arange(5.0) - 2, indexing="ij")
    expected = torch.exp(-0.5 * ((y / 1.8) ** 2 + (x / 1.0) ** 2))
    expected = (expected - expected.min()) / (expected.max() - expected.min())
    assert torch.allclose(one[0], expected, atol=1e-6)
    assert torch.equal(one[0], one[1])
    with pytest.raises(ValueError, match="sigma=0"):
        CenterGaussian(nn.Identity(), sigma=0)


def _autocorrelation(maps: torch.Tensor, shift: int) -> torch.Tensor:
    centred = maps - maps.mean((1, 2), keepdim=True)
    return (centred * centred.roll(shift, 2)).mean((1, 2)) / centred.square().mean((1, 2))


def test_random_blobs_keep_values_area_and_autocorrelation_but_not_the_place():
    cells = torch.randn(64, 7, 7, generator=_generator(3))
    maps = nn.functional.interpolate(cells[:, None], 56, mode="bilinear")[:, 0].relu()
    blobs = shuffled_blobs(maps, _generator(1))
    assert torch.equal(blobs.flatten(1).sort(1).values, maps.flatten(1).sort(1).values)
    masks, others = (values > values.mean((1, 2), keepdim=True) for values in (maps, blobs))
    # The very values: their sum, and so the threshold, differs by rounding alone.
    assert (masks.sum((1, 2)) - others.sum((1, 2))).abs().max() <= 1
    for shift in (1, 4, 8):
        own, theirs = (_autocorrelation(values, shift).mean().item() for values in (maps, blobs))
        assert own == pytest.approx(theirs, abs=0.06)
    noise = torch.rand(64, 56, 56, generator=_generator(2))
    assert _autocorrelation(noise, 4).abs().mean() < 0.1 < _autocorrelation(blobs, 4).mean()
    overlap = (masks & others).sum() / masks.sum()
    assert overlap == pytest.approx(masks.float().mean().item(), abs=0.1)  # as by chance
    assert torch.equal(blobs, shuffled_blobs(maps, _generator(1)))
    assert not torch.equal(blobs, shuffled_blobs(maps, _generator(2)))
    assert shuffled_blobs(maps[:0], _generator()).shape == (0, 56, 56)


def test_every_image_gets_anothers_map():
    maps = torch.arange(5.0)[:, None, None].expand(-1, 2, 2)
    other = OtherImage()
    for seed in range(20):
        turned = other(maps, _generator(seed))[:, 0, 0]
        assert not (turned == torch.arange(5.0)).any()
        assert sorted(turned.tolist()) == [0, 1, 2, 3, 4]
    alone = OtherImage()
    assert alone(maps[3:4], _generator()).amax() == 0  # of no use: nothing came before
    assert alone(maps[1:2], _generator())[0, 0, 0] == 3
    assert alone(maps[:0], _generator()).shape == (0, 2, 2)


def test_random_blobs_of_a_given_area():
    blobs = RandomBlobs(nn.Identity(), grid=5, area=0.3)(torch.rand(8, 3, 20, 30), 0)
    assert set(blobs.unique().tolist()) == {0.0, 1.0}
    assert blobs.mean((1, 2)).tolist() == pytest.approx([0.3] * 8)
    assert len({tuple(map_.flatten().tolist()) for map_ in blobs}) == 8
    for wrong in ({"grid": 1}, {"grid": 2.5}, {"area": 0.0}, {"area": 1.0}):
        with pytest.raises(ValueError, match="Allowed"):
            RandomBlobs(nn.Identity(), **wrong)
