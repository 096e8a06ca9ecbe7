"""The explainer of your own that the page shows for TorchRay, with a stand-in: nothing here depends on TorchRay."""

from __future__ import annotations

import sys
from types import ModuleType

import pytest
import torch
from torch import nn

from tests.pages.blocks import code_blocks, run_blocks, text_of

REWARD = object()


def stand_in(model, input, target, areas, reward_func):
    """Takes and returns what TorchRay's function does: masks ``[areas, 1, H, W]`` and a history.

    Like it, it needs one image, a class that is an ``int`` and gradients, and leaves the parameters without theirs.
    """
    assert (len(input), type(target), reward_func) == (1, int, REWARD)
    for parameter in model.parameters():
        parameter.requires_grad_(False)
    seen = input.clone().requires_grad_()
    model(seen)[0, target].backward()
    return seen.grad.abs().sum(dim=1, keepdim=True).expand(len(areas), -1, -1, -1), torch.zeros(len(areas), 2, 0)


@pytest.fixture
def torchray(monkeypatch):
    names = ("torchray", "torchray.attribution", "torchray.attribution.extremal_perturbation")
    package, attribution, module = map(ModuleType, names)
    package.attribution, attribution.extremal_perturbation = attribution, module
    module.contrastive_reward, module.extremal_perturbation = REWARD, stand_in
    for name, each in zip(names, (package, attribution, module), strict=True):
        monkeypatch.setitem(sys.modules, name, each)


@pytest.mark.usefixtures("torchray")
def test_extremal_perturbation_of_the_page_has_the_masks_and_leaves_the_network_as_it_was():
    [block] = [block for block in code_blocks(text_of("docs/explainers.md")) if "torchray" in block]
    network = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten()).eval()
    images, targets = torch.rand(2, 3, 12, 12), torch.tensor([3, 1])
    maps = run_blocks([block])["ExtremalPerturbation"](network)(images, targets)
    assert all(parameter.requires_grad for parameter in network.parameters())
    assert maps.shape == (2, 12, 12)
    for image, target, map_ in zip(images, targets, maps, strict=True):
        [[mask]], _ = stand_in(network, image[None], int(target), [0.12], REWARD)
        assert mask.unique().numel() > 1
        torch.testing.assert_close(map_, (mask - mask.min()) / (mask.max() - mask.min()))
