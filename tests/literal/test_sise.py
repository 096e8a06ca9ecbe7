"""SISE, Otsu's threshold and the fusion cascade against loops over feature maps and pixels."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from lightning_saliency.explainers import SISE
from lightning_saliency.functional import fusion as fast

from .loops import sise as loop
from .loops.resampling import Array, min_max
from .networks import TinyNetwork, random_images

LAYERS = ("block1", "block2", "block3")


def visualization_maps(
    model: TinyNetwork, image: torch.Tensor, layers: tuple[str, ...], target: int, mu: float
) -> list[Array]:
    """Eq. 12 for each layer. One without a selected feature map has no expectation, and no part in the fusion."""
    maps = []
    for layer in layers:
        with torch.no_grad():
            activations = model.until(image[None], layer)

        def head(x: torch.Tensor, layer: str = layer) -> torch.Tensor:
            return model.after(x, layer)

        visualization = loop.visualization_map(model, image.numpy(), head, activations, target, mu)
        if visualization is not None:
            maps.append(visualization)
    return maps


@pytest.mark.parametrize("mu", [0.0, 0.3, 0.75])
@pytest.mark.parametrize(("height", "width", "layers"), [(16, 16, LAYERS), (12, 20, LAYERS), (12, 20, ("block2",))])
def test_sise(height: int, width: int, layers: tuple[str, ...], mu: float) -> None:
    model, images = TinyNetwork(), random_images(2, height, width)
    explainer = SISE(model, mu=mu, layers=layers)
    compared = 0
    for targets in (torch.tensor([0, 1]), torch.tensor([2, 3])):
        got = explainer(images, targets)
        for b in range(2):
            maps = visualization_maps(model, images[b], layers, int(targets[b]), mu)
            expected = min_max(loop.cascade(maps)) if maps else np.zeros((height, width))
            compared += expected.max() > 0
            np.testing.assert_allclose(got[b].numpy(), expected, atol=1e-6)
    assert compared >= 2


def test_selection_keeps_the_positive_gradients() -> None:
    """Eq. 6 is printed with <, which would keep what the text calls features of other classes."""
    scores = [0.5, -0.2, 0.0, 1.0, 0.3]
    assert loop.selected_channels(scores, 0.0) == [0, 3, 4]
    assert loop.selected_channels(scores, 0.3) == [0, 3]


@settings(max_examples=40, deadline=None)
@given(
    grid=hnp.arrays(np.float64, st.tuples(st.integers(2, 8), st.integers(2, 8)), elements=st.floats(0, 1, width=32)),
)
def test_otsu_threshold_maximises_the_between_class_variance(grid: Array) -> None:
    values = [float(value) for value in grid.flat]
    got = float(fast.otsu_threshold(torch.from_numpy(grid)[None])[0])
    best = loop.otsu_threshold(grid)
    assert got in values
    assert loop.between_class_variance(values, got) == pytest.approx(
        loop.between_class_variance(values, best), rel=1e-9, abs=1e-15
    )


@pytest.mark.parametrize(("height", "width", "count"), [(8, 8, 5), (6, 11, 3), (5, 4, 1)])
def test_cascade(height: int, width: int, count: int) -> None:
    generator = np.random.default_rng(count)
    maps = generator.random((2, count, height, width)) ** 3 * generator.uniform(0.1, 5, (2, count, 1, 1))
    got = fast.cascade_fusion(torch.from_numpy(maps))
    for b in range(2):
        np.testing.assert_allclose(got[b].numpy(), loop.cascade(list(maps[b])), atol=1e-6)
