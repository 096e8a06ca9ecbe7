"""RISE: its masks, its estimator, and that neither batch nor chunk nor the global generator has a say."""

from __future__ import annotations

import weakref

import pytest
import torch
from torch import nn

from lightning_saliency.explainers import rise
from lightning_saliency.explainers.rise import RISE, draw_masks, random_masks


@pytest.fixture
def network() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(3, 6, 3, padding=1), nn.ReLU(), nn.AdaptiveAvgPool2d(3), nn.Flatten(), nn.Linear(54, 4)
    ).eval()


@pytest.fixture
def images() -> torch.Tensor:
    return torch.randn(4, 3, 20, 33, generator=torch.Generator().manual_seed(2))


TARGETS = torch.tensor([0, 3, 1, 1])


def test_it_is_the_formula(network, images):
    maps = RISE(network, masks=30, grid=4, probability=0.4, seed=7)(images, TARGETS)
    masks = random_masks(*draw_masks(30, 4, 0.4, (20, 33), seed=7), (20, 33))
    for image, target, found in zip(images, TARGETS, maps, strict=True):
        raw = torch.zeros(20, 33)
        for mask in masks:
            with torch.no_grad():
                raw += network((image * mask)[None]).softmax(1)[0, target] * mask / (30 * 0.4)
        assert torch.allclose(found, (raw - raw.min()) / (raw.max() - raw.min()), atol=1e-4)


@pytest.mark.parametrize("size", [(20, 33), (224, 224), (5, 3), (1, 1)])
@pytest.mark.parametrize("grid", [1, 4, 7])
def test_masks_are_smooth_shifted_grids(size, grid):
    cells, shifts = draw_masks(200, grid, 0.3, size, seed=0)
    masks = random_masks(cells, shifts, size)
    assert masks.shape == (200, *size)
    assert masks.amin() >= 0
    assert masks.amax() <= 1 + 1e-6
    assert abs(cells.float().mean() - 0.3) < 0.1
    cell = torch.tensor([-(-side // grid) for side in size])
    assert (shifts >= 0).all()
    assert (shifts < cell).all()
    assert (shifts.amax(0) >= 0.9 * (cell - 1)).all()
    assert (shifts.amin(0) <= 0.1 * (cell - 1)).all()


def test_a_mask_is_the_upsampled_grid_cut_out_at_its_shift():
    cells = torch.tensor([[[True, False], [False, True]]])
    upsampled = nn.functional.interpolate(cells[None].float(), size=(15, 9), mode="bilinear", align_corners=False)[0, 0]
    mask = random_masks(cells, torch.tensor([[3, 2]]), (10, 6))
    assert torch.equal(mask[0], upsampled[3:13, 2:8])


def test_masks_depend_on_the_seed_alone(network, images):
    before = torch.get_rng_state()
    first = RISE(network, masks=20, grid=3)(images, TARGETS)
    assert torch.equal(before, torch.get_rng_state())
    torch.manual_seed(99)
    assert torch.equal(RISE(network, masks=20, grid=3)(images, TARGETS), first)
    assert not torch.allclose(RISE(network, masks=20, grid=3, seed=1)(images, TARGETS), first, atol=0.05)


@pytest.mark.parametrize("batch_size", [1, 3, 17, 1000])
def test_neither_batch_nor_chunk_matter(network, images, batch_size):
    together = RISE(network, masks=23, grid=3, batch_size=batch_size)(images, TARGETS)
    explainer = RISE(network, masks=23, grid=3)
    alone = torch.cat([explainer(images[i : i + 1], TARGETS[i : i + 1]) for i in range(4)])
    assert torch.allclose(together, alone, atol=1e-4)


def test_as_many_forward_passes_as_masks(network, images):
    seen = []
    network.register_forward_pre_hook(lambda _module, args: seen.append(len(args[0])))
    RISE(network, masks=23, grid=3)(images, TARGETS)
    assert sum(seen) == 4 * 23


def test_it_finds_the_only_place_the_network_looks_at():
    class Corner(nn.Module):
        def forward(self, images):
            seen = images[:, :, :8, 24:].mean((1, 2, 3))
            return torch.stack([4 * seen - 2, torch.zeros_like(seen)], dim=1)

    maps = RISE(Corner(), masks=1000, grid=4)(torch.ones(2, 3, 32, 32), 0)
    assert maps[:, :8, 24:].mean() > 0.8
    assert (maps[:, :8, 24:].amax((1, 2)) == 1).all()
    assert maps[:, 16:, :16].mean() < 0.3


@pytest.mark.parametrize("masks", [16, 160])
def test_masks_are_made_when_needed_and_not_kept(network, images, monkeypatch, masks):
    made: list[weakref.ref] = []

    def recorded(*args):
        assert sum(reference() is not None for reference in made) <= 1
        result = random_masks(*args)
        assert len(result) <= 2
        made.append(weakref.ref(result))
        return result

    monkeypatch.setattr(rise, "random_masks", recorded)
    RISE(network, masks=masks, grid=3, batch_size=8)(images, TARGETS)
    assert len(made) == masks // 2


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"masks": 0}, "masks=0"),
        ({"masks": 10.5}, "masks=10.5. Allowed are whole numbers"),
        ({"grid": 0}, "grid=0"),
        ({"grid": 2.5}, "grid=2.5. Allowed are whole numbers"),
        ({"probability": 1.0}, "probability=1.0"),
    ],
)
def test_bad_options_are_refused_with_what_is_allowed(network, options, message):
    with pytest.raises(ValueError, match=message):
        RISE(network, **options)
