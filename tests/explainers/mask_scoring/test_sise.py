"""SISE: which masks it makes, how many passes they cost, and that every odd case has a finite map."""

from __future__ import annotations

import weakref

import numpy as np
import pytest
import torch
from skimage.filters import threshold_otsu
from torch import nn
from torch.nn.functional import interpolate
from torchvision.models import VisionTransformer

from lightning_saliency.explainers import sise
from lightning_saliency.explainers.sise import SISE, select_feature_maps
from lightning_saliency.functional.masking import attribution_masks


def _block(channels_in: int, channels: int) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(channels_in, channels, 3, padding=1), nn.BatchNorm2d(channels), nn.ReLU(inplace=True)
    )


@pytest.fixture
def network() -> nn.Sequential:
    torch.manual_seed(4)
    network = nn.Sequential(
        _block(3, 6),
        nn.MaxPool2d(2),
        _block(6, 8),
        nn.MaxPool2d(2),
        _block(8, 9),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(9, 4),
    )
    with torch.no_grad():
        network[7].weight.mul_(5)
    return network.eval().double()


@pytest.fixture
def images() -> torch.Tensor:
    return torch.randn(4, 3, 24, 20, generator=torch.Generator().manual_seed(2), dtype=torch.float64)


TARGETS = torch.tensor([0, 3, 1, 1])
LAYERS = ("0", "2", "4")


def _literal(network, image, target, mu=0.0, fill=0.0):
    """The four phases for one image, one mask at a time; also the number of masks."""
    size, maps, count = image.shape[1:], [], 0
    for layer in (1, 3, 5):
        activations = network[:layer](image[None]).detach().clone().requires_grad_()
        probability = network[layer:](activations.clone()).softmax(1)[0, target]
        (gradient,) = torch.autograd.grad(probability, activations)
        alpha = gradient[0].sum((1, 2))
        beta = alpha.max()
        total = torch.zeros(size, dtype=torch.float64)
        kept = 0
        for k in range(len(alpha)):
            if not alpha[k] > mu * beta:
                continue
            mask = interpolate(activations[:, k : k + 1].detach(), size=size, mode="bilinear", align_corners=False)[
                0, 0
            ]
            if mask.max() == mask.min():
                continue
            mask = (mask - mask.min()) / (mask.max() - mask.min())
            with torch.no_grad():
                total += network((image * mask + fill * (1 - mask))[None]).softmax(1)[0, target] * mask / mask.sum()
            kept += 1
        count += kept
        maps.append((total / max(kept, 1)).numpy())
    scaled = [(v - v.min()) / (v.max() - v.min()) for v in maps if v.max() > v.min()]
    fused = scaled[0]
    for v in scaled[1:]:
        distinct, counts = np.unique(v, return_counts=True)
        fused = (fused + v) * (v > threshold_otsu(hist=(counts, distinct)))
    return (fused - fused.min()) / (fused.max() - fused.min()), count


@pytest.mark.parametrize("options", [{}, {"mu": 0.3}, {"mu": 0.75}, {"fill": 0.25}])
def test_it_is_the_four_phases_with_one_pass_a_mask_and_one_more(network, images, options):
    explainer = SISE(network, layers=LAYERS, **options)
    explainer(images[:1])
    expected = [_literal(network, image, target, **options) for image, target in zip(images, TARGETS, strict=True)]
    seen = []
    network.register_forward_pre_hook(lambda _module, args: seen.append(len(args[0])))
    maps = explainer(images, TARGETS)
    assert sum(seen) == sum(count for _, count in expected) + 4
    for found, (literal, _) in zip(maps, expected, strict=True):
        assert np.allclose(found.numpy(), literal, atol=1e-5)


@pytest.mark.parametrize("block", [0, 1, -1, -3])
def test_the_map_of_one_block_costs_that_blocks_masks_alone(network, images, block):
    explainer = SISE(network, layers=LAYERS, block=block)
    alone = SISE(network, layers=LAYERS[block : block + 1 or None])
    for one in (explainer, alone):  # the first call searches for scales
        one(images, TARGETS)
    seen = []
    network.register_forward_pre_hook(lambda _module, args: seen.append(len(args[0])))
    found = explainer(images, TARGETS)
    passes = sum(seen)
    assert torch.allclose(found, alone(images, TARGETS), atol=1e-6)
    assert passes == sum(seen) - passes
    assert not torch.allclose(found, SISE(network, layers=LAYERS)(images, TARGETS), atol=1e-2)


def test_a_block_that_is_not_there(network, images):
    with pytest.raises(ValueError, match=r"block=3 for a network of 3 blocks, '0', '2', '4'\. Allowed are .* -3 to 2"):
        SISE(network, layers=LAYERS, block=3)(images, TARGETS)


@pytest.mark.parametrize("batch_size", [1, 5, 1000])
def test_neither_batch_nor_chunk_matter(network, images, batch_size):
    together = SISE(network, layers=LAYERS, batch_size=batch_size)(images, TARGETS)
    explainer = SISE(network, layers=LAYERS)
    alone = torch.cat([explainer(images[i : i + 1], TARGETS[i : i + 1]) for i in range(4)])
    assert torch.allclose(together, alone, atol=1e-6)


def test_the_predicted_class_costs_no_pass_of_its_own(network, images):
    explainer = SISE(network, layers=LAYERS)
    with torch.no_grad():
        predicted = network(images).argmax(1)
    expected = explainer(images, predicted)
    seen = []
    network.register_forward_pre_hook(lambda _module, args: seen.append(len(args[0])))
    explainer(images, predicted)
    given = sum(seen)
    seen.clear()
    assert torch.equal(explainer(images), expected)
    assert sum(seen) == given


def test_automatic_layers_are_the_inputs_of_the_poolings(network, images):
    assert torch.allclose(SISE(network)(images, TARGETS), SISE(network, layers=LAYERS)(images, TARGETS), atol=1e-6)


@pytest.mark.parametrize(("depth", "blocks"), [(4, ("0", "1", "3:input")), (6, ("0", "2", "3", "5:input"))])
def test_what_enters_the_last_block_of_tokens_is_one_block(depth, blocks):
    """Where the block before is a scale, too, it is the same tensor, and counts once."""
    network = VisionTransformer(
        image_size=16, patch_size=4, num_layers=depth, num_heads=2, hidden_dim=16, mlp_dim=32, num_classes=4
    ).eval()
    nn.init.normal_(network.heads.head.weight, std=3)
    images = torch.randn(2, 3, 16, 16)
    named = SISE(network, layers=[f"encoder.layers.encoder_layer_{block}" for block in blocks])
    expected = named(images, 1)
    assert expected.amax() == 1
    torch.testing.assert_close(SISE(network)(images, 1), expected)


def test_selection_keeps_what_lies_strictly_above_the_threshold():
    gradients = torch.tensor([[-1.0, 0.0, 0.5, 1.0, 2.0], [-3.0, -2.0, -1.0, -1.0, -4.0]]).view(2, 5, 1, 1) / 4
    gradients = gradients.expand(2, 5, 2, 2)
    assert select_feature_maps(gradients, 0.0).tolist() == [[False, False, True, True, True], [False] * 5]
    assert select_feature_maps(gradients, 0.25).tolist() == [[False, False, False, True, True], [False] * 5]
    assert select_feature_maps(gradients, 0.5).tolist() == [[False, False, False, False, True], [False] * 5]
    assert select_feature_maps(gradients, 0.0, max_masks=2).sum(1).tolist() == [2, 0]
    assert select_feature_maps(torch.zeros(1, 5, 1, 1), 0.3).sum() == 0
    # Of equal ones the first.
    assert select_feature_maps(torch.ones(1, 500, 1, 1), 0.3, max_masks=2).nonzero().tolist() == [[0, 0], [0, 1]]


def test_max_masks_bounds_the_passes(network, images):
    explainer = SISE(network, layers=LAYERS, max_masks=2)
    explainer(images[:1])
    seen = []
    network.register_forward_pre_hook(lambda _module, args: seen.append(len(args[0])))
    assert explainer(images, TARGETS).isfinite().all()
    assert sum(seen) <= 4 * (1 + 3 * 2)


def test_masks_survive_a_saturated_probability(network, images):
    with torch.no_grad():
        network[7].weight.mul_(1e4)
        logits = network(images)
    predicted = logits.argmax(1)
    assert (logits.softmax(1).amax(1) == 1).any()
    maps = SISE(network, layers=LAYERS)(images, predicted)
    assert (maps.amax((1, 2)) == 1).all()


@pytest.mark.parametrize("layers", [("0",), "auto"])
def test_a_network_of_one_block(layers):
    network = nn.Sequential(_block(3, 6), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(6, 3))
    maps = SISE(network, layers=layers)(torch.randn(2, 3, 12, 12))
    assert maps.isfinite().all()
    assert maps.shape == (2, 12, 12)


def test_dead_feature_maps_and_blocks_without_masks(network, images):
    explainer = SISE(network, layers=LAYERS)
    explainer(images[:1])
    with torch.no_grad():
        network[0][1].weight[:5] = 0
        network[0][1].bias[:5] = 0.3
    assert explainer(images, TARGETS).isfinite().all()
    with torch.no_grad():
        network[4][1].weight.zero_()
        network[4][1].bias.fill_(1)
    # Nothing reaches the logits: no gradient, no mask, no pass but the first.
    seen = []
    network.register_forward_pre_hook(lambda _module, args: seen.append(len(args[0])))
    assert torch.equal(explainer(images, TARGETS), torch.zeros(4, 24, 20))
    assert seen == [4]


def test_constant_images_are_finite(network):
    assert SISE(network, layers=LAYERS)(torch.zeros(2, 3, 24, 24, dtype=torch.float64)).isfinite().all()
    assert SISE(network, layers=LAYERS)(torch.full((2, 3, 24, 24), 0.5, dtype=torch.float64)).isfinite().all()


@pytest.mark.parametrize("options", [{}, {"block": 0}, {"block": -1}, {"max_masks": 2}])
def test_an_image_that_is_not_finite_has_no_finite_map(network, images, options):
    explainer = SISE(network, layers=LAYERS, **options)
    expected = explainer(images, TARGETS)
    images[1, 0, 3, 3] = torch.nan
    images[2] = torch.inf
    found = explainer(images, TARGETS)
    assert not found[1:3].isfinite().any()
    torch.testing.assert_close(found[[0, 3]], expected[[0, 3]])


def test_a_network_in_half_precision(network, images):
    maps = SISE(network.bfloat16(), layers=LAYERS)(images.bfloat16(), TARGETS)
    assert maps.dtype == torch.float32
    exact = SISE(network.float(), layers=LAYERS)(images.bfloat16().float(), TARGETS)
    for half, one in zip(maps, exact, strict=True):
        assert np.corrcoef(half.flatten(), one.flatten())[0, 1] > 0.9


@pytest.mark.parametrize("channels", [8, 64])
def test_masks_are_made_when_needed_and_not_kept(images, monkeypatch, channels):
    network = nn.Sequential(
        nn.Conv2d(3, channels, 3, stride=4, padding=1),
        nn.ReLU(),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(channels, 3),
    ).double()
    made: list[weakref.ref] = []

    def recorded(feature_maps, size):
        assert sum(reference() is not None for reference in made) <= 1
        masks, sums = attribution_masks(feature_maps, size)
        assert len(masks) <= 4
        made.append(weakref.ref(masks))
        return masks, sums

    monkeypatch.setattr(sise, "attribution_masks", recorded)
    SISE(network, layers=("1",), batch_size=4)(images, TARGETS.clamp(max=2))
    assert len(made) >= channels // 4


def test_the_network_is_left_as_it_was_also_after_an_exception(network, images):
    network.train()
    network[2][1].eval()
    flags = [module.training for module in network.modules()]
    state = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    rng = torch.get_rng_state()
    calls = []

    def fail_later(returned):
        calls.append(1)
        if len(calls) == 4:
            raise RuntimeError("on purpose")
        return returned

    explainer = SISE(network, layers=LAYERS, batch_size=2, output=fail_later)
    with pytest.raises(RuntimeError, match="on purpose"):
        explainer(images, TARGETS)
    for _ in range(2):
        assert [module.training for module in network.modules()] == flags
        assert all(torch.equal(tensor, state[name]) for name, tensor in network.state_dict().items())
        assert torch.equal(rng, torch.get_rng_state())
        assert not any(module._forward_hooks or module._forward_pre_hooks for module in network.modules())
        assert all(parameter.requires_grad and parameter.grad is None for parameter in network.parameters())
        explainer(images, TARGETS)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"mu": 1.0}, "mu=1.0"),
        ({"mu": -0.1}, "mu=-0.1"),
        ({"max_masks": 0}, "max_masks=0"),
        ({"max_masks": 1.5}, "max_masks=1.5. Allowed are whole numbers"),
        ({"layers": "layer1"}, "layers='layer1'"),
        ({"layers": ()}, "layers="),
    ],
)
def test_bad_options_are_refused_with_what_is_allowed(network, options, message):
    with pytest.raises(ValueError, match=message):
        SISE(network, **options)
