"""Curves, localisation scores, Drop%, Increase% and rank correlation against loops over pixels."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from lightning_saliency import functional as fast
from lightning_saliency.functional.masking import keep_most_salient

from .loops import scores as loop
from .loops import smoe
from .loops.group_cam import blur_of, gaussian_blur, probability
from .loops.masking import Mask
from .loops.resampling import Array
from .networks import TinyNetwork, random_images

SIZES = [(4, 4), (5, 10), (11, 7), (16, 16)]


def maps_and_masks(height: int, width: int, batch: int = 4, ties: bool = False) -> tuple[Array, Mask]:
    """Maps in [0, 1) and a rectangle of truth in each."""
    generator = np.random.default_rng(height * width)
    saliency = generator.random((batch, height, width))
    if ties:
        saliency = np.floor(saliency * 5) / 5
    masks = np.zeros((batch, height, width), dtype=bool)
    for b in range(batch):
        top, left = generator.integers(0, height - 1), generator.integers(0, width - 1)
        masks[b, top : top + 1 + height // 3, left : left + 1 + width // 3] = True
    return saliency, masks


@pytest.mark.parametrize("curve", ["insertion_curve", "deletion_curve"])
@pytest.mark.parametrize(
    ("height", "width", "steps", "ties"), [(8, 8, 100, False), (8, 12, 100, True), (10, 13, 7, False), (5, 9, 30, True)]
)
def test_curves_over_a_blurred_baseline(curve: str, height: int, width: int, steps: int, ties: bool) -> None:
    model, images = TinyNetwork(), random_images(2, height, width)
    saliency, _ = maps_and_masks(height, width, batch=2, ties=ties)
    targets = torch.tensor([0, 2])
    got = getattr(fast, curve)(model, images, torch.from_numpy(saliency), targets, steps=steps)
    assert got.shape == (2, steps + 1)
    for b in range(2):
        image = images[b].numpy()
        baseline = gaussian_blur(image, *blur_of(image))
        assert abs(baseline - image).mean() > 0.1  # a blur of few pixels, but a blur
        target = int(targets[b])
        expected = getattr(loop, curve)(
            lambda changed, target=target: probability(model, changed, target), image, baseline, saliency[b], steps
        )
        assert max(expected) - min(expected) > 0.005
        np.testing.assert_allclose(got[b].numpy(), expected, atol=1e-6)
        assert fast.auc(got[b]).item() == pytest.approx(loop.auc(expected), abs=1e-6)


@pytest.mark.parametrize("curve", ["insertion_curve", "deletion_curve"])
def test_curves_over_a_baseline_of_ones_own(curve: str) -> None:
    model, images, baseline = TinyNetwork(), random_images(2, 8, 10), random_images(2, 8, 10, seed=7)
    saliency, _ = maps_and_masks(8, 10, batch=2)
    got = getattr(fast, curve)(model, images, torch.from_numpy(saliency), 1, steps=10, fill=baseline)
    for b in range(2):
        expected = getattr(loop, curve)(
            lambda changed: probability(model, changed, 1), images[b].numpy(), baseline[b].numpy(), saliency[b], 10
        )
        np.testing.assert_allclose(got[b].numpy(), expected, atol=1e-6)


@settings(max_examples=50, deadline=None)
@given(curve=st.lists(st.floats(0, 1), min_size=2, max_size=30))
def test_auc(curve: list[float]) -> None:
    assert fast.auc(torch.tensor(curve, dtype=torch.float64)).item() == pytest.approx(loop.auc(curve), abs=1e-12)


@pytest.mark.parametrize("ties", [False, True])
@pytest.mark.parametrize("tolerance", [0, 1, 2.5, 15])
@pytest.mark.parametrize(("height", "width"), SIZES)
def test_pointing_game(height: int, width: int, tolerance: float, ties: bool) -> None:
    saliency, masks = maps_and_masks(height, width, batch=8, ties=ties)
    got = fast.pointing_game(torch.from_numpy(saliency), torch.from_numpy(masks), tolerance)
    assert [bool(hit) for hit in got] == [
        loop.pointing_game(s, g, tolerance) for s, g in zip(saliency, masks, strict=True)
    ]


def test_pointing_game_tolerance_reaches_exactly_that_far() -> None:
    saliency = np.zeros((9, 9))
    saliency[0, 0] = 1
    truth = np.zeros((9, 9), dtype=bool)
    truth[3, 4] = True  # 5 pixels away
    for tolerance, hit in ((4.99, False), (5.0, True)):
        assert loop.pointing_game(saliency, truth, tolerance) is hit
        got = fast.pointing_game(torch.from_numpy(saliency)[None], torch.from_numpy(truth)[None], tolerance)
        assert bool(got[0]) is hit


@pytest.mark.parametrize("ties", [False, True])
@pytest.mark.parametrize(("height", "width"), SIZES)
@pytest.mark.parametrize("score", ["energy_pointing_game", "top_fraction_iou", "bbox_score"])
def test_localisation(score: str, height: int, width: int, ties: bool) -> None:
    saliency, masks = maps_and_masks(height, width, ties=ties)
    got = getattr(fast, score)(torch.from_numpy(saliency), torch.from_numpy(masks))
    expected = [getattr(loop, score)(s, g) for s, g in zip(saliency, masks, strict=True)]
    assert len(set(expected)) > 1
    np.testing.assert_allclose(got.numpy(), expected, atol=1e-9)


def test_drop_and_increase_of_the_most_important_15_percent() -> None:
    model, images = TinyNetwork(), random_images(6, 16, 16)
    saliency, _ = maps_and_masks(16, 16, batch=6)
    maps = torch.from_numpy(saliency)
    drops, increases = [], []
    for target in range(4):
        with torch.no_grad():
            full = torch.softmax(model(images), dim=1)[:, target]
            masked = torch.softmax(model(keep_most_salient(images, maps, 0.15)), dim=1)[:, target]
        for b in range(6):
            whole = probability(model, images[b].numpy(), target)
            part = probability(model, loop.most_important_only(images[b].numpy(), saliency[b]), target)
            drops.append(loop.drop(whole, part))
            increases.append(loop.increase(whole, part))
        np.testing.assert_allclose(fast.drop(full, masked).numpy(), drops[-6:], atol=1e-6)
        np.testing.assert_allclose(fast.increase(full, masked).numpy(), increases[-6:], atol=1e-6)
    assert set(increases) == {0.0, 100.0}
    assert min(drops) == 0.0
    assert max(drops) > 1.0


@settings(max_examples=60, deadline=None)
@given(
    pair=hnp.arrays(
        np.float64, st.tuples(st.just(2), st.integers(2, 40)), elements=st.integers(0, 6) | st.floats(-5, 5, width=32)
    )
)
def test_spearman_with_ties(pair: Array) -> None:
    if pair[0].min() == pair[0].max() or pair[1].min() == pair[1].max():
        return
    got = fast.spearman(torch.from_numpy(pair[:1]), torch.from_numpy(pair[1:]))
    assert got.item() == pytest.approx(loop.spearman(list(pair[0]), list(pair[1])), abs=1e-9)


@settings(max_examples=40, deadline=None)
@given(data=hnp.arrays(np.float64, st.tuples(st.just(4), st.integers(1, 6)), elements=st.floats(0.01, 1)))
def test_retraining_scores(data: Array) -> None:
    """Eq. 8 and 9 for any number of scales; the paper's own numbers are in test_paper_tables.py."""
    columns = [torch.from_numpy(row) for row in data]
    lists = [[float(value) for value in row] for row in data]
    assert fast.difference_score(*columns).item() == pytest.approx(smoe.difference_score(*lists), abs=1e-9)
    assert fast.information_score(*columns).item() == pytest.approx(smoe.information_score(*lists), abs=1e-9)
