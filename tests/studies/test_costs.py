"""The cost of a map, told by a part of it."""

from __future__ import annotations

import pytest
import torch

from lightning_saliency.explainers import RISE, SISE, CaptumExplainer, GroupCAM, ScoreCAM, build_explainer
from lightning_saliency.explainers.mask_scoring import limited_scoring
from lightning_saliency.networks import build_network
from lightning_saliency.studies.costs import map_cost, timing_cell
from lightning_saliency.studies.passes import counted_passes

EXPLAINERS = {
    "rise": lambda network: RISE(network, masks=300),
    "score_cam": ScoreCAM,
    "group_cam": GroupCAM,
    "sise": SISE,
}


@pytest.mark.parametrize("name", EXPLAINERS)
def test_passes_told_by_a_few_are_those_that_a_whole_map_takes(name):
    torch.manual_seed(0)
    network, images, targets = build_network("small_cnn", 10).eval(), torch.rand(2, 3, 32, 32), torch.tensor([1, 2])
    explainer = EXPLAINERS[name](network)
    explainer(images, targets)  # layers are looked for the first time
    with counted_passes((32, 32)) as count:
        explainer(images, targets)
    told = map_cost(explainer, images, targets, budget=0.0)
    assert told.passes == count[0] / 2 > 10
    assert told.seconds > 0


@pytest.mark.parametrize("side", [64, 128, 192])
@pytest.mark.parametrize("name", ["smoe", "grad_cam", "fast_cam"])
def test_a_fast_map_is_told_without_the_search_for_its_layers(name, side):
    network, targets = build_network("small_cnn", 10).eval(), torch.tensor([1])
    for budget in (0.0, 60.0):
        explainer = build_explainer(name, network)
        assert map_cost(explainer, torch.rand(1, 3, side, side), targets, budget=budget).passes == 1


def test_a_timing_of_other_options_is_another_one():
    names = [timing_cell("rise", dict, {}, {"masks": masks}).name for masks in (100, 200, 100)]
    assert names[0] == names[2] != names[1]
    assert names[0].startswith("rise-")


@pytest.mark.parametrize("noise", [None, "smoothgrad_sq"])
@pytest.mark.parametrize("method", ["Saliency", "IntegratedGradients"])
def test_noisy_copies_and_steps_are_told_by_the_first(method, noise):
    network, images, targets = build_network("small_cnn", 10).eval(), torch.rand(2, 3, 32, 32), torch.tensor([1, 2])
    steps = {"n_steps": 40} if method == "IntegratedGradients" else {}
    explainer = CaptumExplainer(network, method, noise_tunnel=noise, samples=6, **steps)
    with counted_passes((32, 32)) as count:
        explainer(images, targets)
    whole = count[0]
    with limited_scoring(0.0) as scoring, counted_passes((32, 32)) as count:
        explainer(images, targets)
    share = (6 if noise else 1) * (5 if steps else 1)  # eight of 40 steps are run, of one of six copies
    assert scoring.asked == share * scoring.run == whole
    assert count[0] == whole / share
    assert map_cost(explainer, images, targets, budget=0.0).passes == whole / 2
