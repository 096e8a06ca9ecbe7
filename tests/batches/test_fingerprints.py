"""Telling images apart by all of their pixels."""

from __future__ import annotations

import pytest
import torch

from lightning_saliency.batches import content_keys, fingerprint, fingerprints, same_images

EYE = torch.eye(16, dtype=torch.bool)


def _dots(side=64):
    images, places = torch.zeros(16, 3, side, side), torch.randperm(side * side, generator=_seeded())[:16]
    images.flatten(2)[torch.arange(16), :, places] = 1
    return images


def _strokes(ground=0.0):
    images = torch.full((16, 1, 224, 224), ground)
    for number in range(16):
        images[number, :, 10 + 9 * number, 20:60] = 1 - ground
    return images


def _stars():
    images = torch.rand(1, 3, 96, 96, generator=_seeded()).repeat(16, 1, 1, 1) * 0.01  # the same noise in each
    for number in range(16):
        images[number, :, 5 * number : 5 * number + 2, 40:42] += 5
    return images


def _texts():
    images = torch.ones(16, 1, 32, 200)
    for number in range(16):
        for bit in range(4):
            images[number, :, 8:20, 30 * bit : 30 * bit + 3] = float(not number >> bit & 1)
    return images


def _seeded():
    return torch.Generator().manual_seed(0)


SPARSE = {
    "dots": _dots(),
    "one pixel of many": _dots(224),
    "strokes on black": _strokes(),
    "strokes on white": _strokes(1.0),
    "stars": _stars(),
    "texts": _texts(),
    "the same lesion at other places": _dots(32).mean(1, keepdim=True).repeat(1, 4, 1, 1),
    "plain colours": torch.linspace(0, 1, 16)[:, None, None, None].expand(-1, 3, 24, 24),
    "bytes": (_dots() * 255).byte(),
    "normalised": (_dots() - 0.45) / 0.225,
    "dense": torch.rand(16, 3, 48, 48, generator=_seeded()),
}


@pytest.mark.parametrize("kind", SPARSE)
def test_images_are_told_apart(kind):
    images = SPARSE[kind]
    prints = fingerprint(images)
    order = torch.randperm(16, generator=_seeded())
    assert torch.equal(same_images(prints, fingerprint(images[order])), EYE[:, order])
    # One by one and at once, in a list and in memory of another order.
    for others in (list(images), images.contiguous(memory_format=torch.channels_last)):
        assert torch.equal(same_images(prints, fingerprint(others)), EYE)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
@pytest.mark.parametrize("kind", ["dots", "strokes on white", "stars", "texts", "normalised", "dense"])
def test_images_are_the_same_in_another_precision(kind, dtype):
    images = SPARSE[kind].float()
    assert torch.equal(same_images(fingerprint(images), fingerprint(images.to(dtype))), EYE)


@pytest.mark.parametrize("change", [1e-4, 0.01])
def test_images_that_change_a_little_are_others(change):
    images = SPARSE["dense"]
    assert not same_images(fingerprint(images), fingerprint(images + change * torch.rand_like(images))).any()


def test_other_sizes_and_channels_and_nothing():
    images = torch.zeros(2, 3, 8, 8)
    for others in (torch.zeros(2, 3, 8, 9), torch.zeros(2, 1, 8, 8), torch.zeros(0, 3, 8, 8)):
        assert not same_images(fingerprint(images), fingerprint(others)).any()
    assert same_images(fingerprint(images), fingerprint(images)).all()


def test_what_is_not_finite_is_the_same_again():
    images = torch.rand(3, 1, 8, 8)
    images[0, 0, 0, 0], images[1, 0, 1, 1], images[2, 0, 2, 2] = float("nan"), float("inf"), float("-inf")
    assert torch.equal(same_images(fingerprint(images), fingerprint(images)), EYE[:3, :3])


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_a_key_is_that_of_the_bits_and_of_their_places(dtype):
    image = torch.arange(1.0, 17.0).reshape(1, 1, 2, 8).to(dtype)
    negative = image.clone()
    negative[0, 0, 1, 3] *= -1
    others = [image.flip(-1), image.flip(-2), image.roll(1, -1), negative, image.reshape(1, 1, 8, 2), image * 0]
    keys = [key for other in (image, *others) for key in content_keys(other)]
    assert len(set(keys)) == 7
    assert content_keys(torch.cat([image] * 20)) == keys[:1] * 20
    wide = image.repeat(1, 3, 1, 1)
    assert content_keys(wide.contiguous(memory_format=torch.channels_last)) == content_keys(wide)


def test_prints_and_keys_are_the_same_in_every_run():
    images = torch.rand(2, 3, 8, 12)
    found = []
    for seed in (1, 2):
        fingerprints._projection.cache_clear()
        fingerprints._odd_numbers.cache_clear()
        torch.manual_seed(seed)
        before = torch.get_rng_state()
        found.append((fingerprint(images).tolist(), content_keys(images)))
        assert torch.equal(torch.get_rng_state(), before)
    assert found[0] == found[1]
