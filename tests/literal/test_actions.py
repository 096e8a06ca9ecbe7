"""Each action of the augmentation against a loop over pixels."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor

from lightning_saliency.callbacks import Hide, Keep, Mix, Protect, Swap

from .loops import actions as loop
from .loops.augmentation import binarise
from .loops.group_cam import blur_of, gaussian_blur
from .networks import random_images

SIZES = [(16, 16), (12, 20)]
COUNT = 4


def images_and_maps(height: int, width: int) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(height)
    maps = torch.rand((COUNT, height, width), generator=generator, dtype=torch.float64)
    return random_images(COUNT, height, width), (maps * 8).round() / 8  # with ties


def generator() -> torch.Generator:
    return torch.Generator().manual_seed(5)


@pytest.mark.parametrize(("height", "width"), SIZES)
def test_keep(height: int, width: int) -> None:
    images, maps = images_and_maps(height, width)
    got = Keep()(images, maps, generator())
    for b in range(COUNT):
        image = images[b].numpy()
        mask = binarise(maps[b].numpy())
        np.testing.assert_array_equal(got.masks[b].numpy(), mask)
        behind = gaussian_blur(image, *blur_of(image))
        np.testing.assert_allclose(got.pixels[b].numpy(), loop.laid_over(image, behind, mask), atol=1e-9)


@pytest.mark.parametrize(("height", "width"), SIZES)
@pytest.mark.parametrize("fill", ["zero", "mean"])
@pytest.mark.parametrize(("share", "sigmas"), [(None, None), (0.3, None), (None, 1.0)])
def test_hide(height: int, width: int, fill: str, share: float | None, sigmas: float | None) -> None:
    images, maps = images_and_maps(height, width)
    got = Hide(share, sigmas, fill)(images, maps, generator())
    for b in range(COUNT):
        image, saliency = images[b].numpy(), maps[b].numpy()
        region = loop.region_above(saliency, sigmas) if sigmas else loop.region_of_share(saliency, share or 0.1)
        assert 0 < region.mean() < 0.5
        means = image.mean((1, 2))[:, None, None] * np.ones_like(image)
        behind = means if fill == "mean" else np.zeros_like(image)
        np.testing.assert_allclose(got.pixels[b].numpy(), loop.laid_over(behind, image, region), atol=1e-9)
        np.testing.assert_allclose(got.masks[b].numpy(), 1 - region)


@pytest.mark.parametrize(("height", "width"), SIZES)
@pytest.mark.parametrize("softness", [0.0, 0.1])
def test_protect(height: int, width: int, softness: float) -> None:
    images, maps = images_and_maps(height, width)
    got = Protect(lambda image: 1 - image.flip(-1), softness=softness)(images, maps, generator())
    for b in range(COUNT):
        region = loop.region_of_share(maps[b].numpy(), 0.25)
        region = loop.softened(region, softness) if softness else region
        expected = loop.protected(images[b].numpy(), region, lambda image: 1 - image[..., ::-1])
        np.testing.assert_allclose(got.pixels[b].numpy(), expected, atol=1e-6)


@pytest.mark.parametrize(("height", "width"), SIZES)
def test_swap(height: int, width: int) -> None:
    images, maps = images_and_maps(height, width)
    got = Swap(share=0.2, softness=0.08, fill="mean")(images, maps, generator())
    regions = [loop.softened(loop.region_of_share(saliency.numpy(), 0.2), 0.08) for saliency in maps]
    for b in range(COUNT):
        candidates = []
        for other in set(range(COUNT)) - {b}:
            shown = images[other].numpy()
            fill = shown.mean((1, 2))[:, None, None] * np.ones_like(shown)
            candidates.append(loop.swapped(images[b].numpy(), regions[b], shown, regions[other], fill))
        differences = sorted(abs(candidate - got.pixels[b].numpy()).max() for candidate in candidates)
        assert differences[0] < 1e-6 < 0.01 < differences[1]  # it is one of them


@pytest.mark.parametrize(("height", "width"), SIZES)
@pytest.mark.parametrize("labels", ["mass", "area"])
def test_mix(height: int, width: int, labels: str) -> None:
    images, maps = images_and_maps(height, width)
    got = Mix(labels=labels)(images, maps, generator())
    assert got.partners is not None
    assert got.weights is not None
    shares = torch.from_numpy(
        1 - np.random.default_rng(int(torch.randint(2**31, (), generator=generator()))).beta(1.0, 1.0, COUNT)
    )
    assert sorted(got.partners.tolist()) == list(range(COUNT))
    for b in range(COUNT):
        other = int(got.partners[b])
        assert other != b
        expected, pasted, weight = loop.mixed(
            images[b].numpy(), maps[b].numpy(), images[other].numpy(), maps[other].numpy(), float(shares[b])
        )
        np.testing.assert_allclose(got.pixels[b].numpy(), expected, atol=1e-9)
        np.testing.assert_array_equal(got.masks[b].numpy(), 1 - pasted)
        assert got.weights[b].item() == pytest.approx(weight if labels == "mass" else 1 - pasted.mean(), abs=1e-6)
