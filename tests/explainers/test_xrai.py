"""XRAI: what the package computes, image by image; skipped where it is not installed."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor

from lightning_saliency.explainers import XRAI, build_explainer
from lightning_saliency.explainers.mask_scoring.budget import limited_scoring
from lightning_saliency.functional.normalization import min_max

from .networks import assert_same, network, snapshot

core = pytest.importorskip("saliency.core")


def pictures() -> Tensor:
    """Two images of a bright patch on a gradient, which segment well."""
    across = torch.linspace(-1, 1, 32).expand(2, 3, 32, 32).clone()
    across[0, :, 4:14, 6:16] = 2
    across[1, :, 18:28, 16:30] = torch.tensor([2.0, -1.0, 0.5]).view(3, 1, 1)
    return across


@pytest.mark.parametrize("algorithm", ["full", "fast"])
def test_it_is_the_packages_map_of_each_image(algorithm: str) -> None:
    model, inputs, targets = network().eval(), pictures(), [3, 1]
    found = XRAI(model, steps=5, algorithm=algorithm)(inputs, torch.tensor(targets))
    for image, target, map_ in zip(inputs, targets, found, strict=True):

        def gradients(batch, call_model_args=None, expected_keys=None, target=target):
            leaf = torch.as_tensor(np.asarray(batch)).float().permute(0, 3, 1, 2).contiguous().requires_grad_()
            model(leaf)[:, target].sum().backward()
            return {core.INPUT_OUTPUT_GRADIENTS: leaf.grad.permute(0, 2, 3, 1).numpy()}

        expected = core.XRAI().GetMask(
            image.permute(1, 2, 0).numpy(),
            gradients,
            extra_parameters=core.XRAIParameters(steps=5, algorithm=algorithm),
        )
        expected = min_max(torch.as_tensor(expected)[None])[0]
        torch.testing.assert_close(map_.double(), expected, atol=1e-3, rtol=0)
    assert found.amax() == 1


def test_nothing_is_left_behind_and_passes_are_counted() -> None:
    model = network().train()
    before = snapshot(model)
    explainer = build_explainer("xrai", model, steps=20, algorithm="fast")
    seen: list[int] = []
    handle = model.conv1.register_forward_hook(lambda _module, args, _output: seen.append(len(args[0])))
    explainer(pictures(), 1)
    assert max(seen) <= 16
    assert sum(seen) == 2 * (1 + 2 * 20)
    with limited_scoring(0.0) as budget:
        explainer(pictures(), 1)
    assert budget.run < budget.asked == 2 * 2 * 20
    handle.remove()
    assert_same(before, snapshot(model))
    with pytest.raises(ValueError, match="5 classes"):
        explainer(pictures(), 9)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_networks_in_half_precision(dtype: torch.dtype) -> None:
    model, inputs = network(), pictures().to(dtype)
    exact = XRAI(model, steps=5)(inputs.float(), 1)
    found = XRAI(model.to(dtype), steps=5)(inputs, 1)
    for half, one in zip(found, exact, strict=True):
        assert np.corrcoef(half.flatten(), one.flatten())[0, 1] > 0.9


def test_wrong_options() -> None:
    with pytest.raises(ValueError, match="algorithm='slow'"):
        XRAI(network(), algorithm="slow")
    with pytest.raises(ValueError, match=r"steps=0\. Allowed are whole numbers from 1"):
        XRAI(network(), steps=0)
    with pytest.raises(ValueError, match=r"steps=1\.5\. Allowed are whole numbers from 1"):
        XRAI(network(), steps=1.5)
