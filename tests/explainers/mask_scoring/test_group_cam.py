"""Group-CAM: its cost, its place beside Grad-CAM, and everything that must not disturb it."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest
import torch
import torchvision
from scipy.stats import spearmanr
from torch import nn
from torch.nn.functional import interpolate

from lightning_saliency.explainers import group_cam
from lightning_saliency.explainers.cam import GradCAM
from lightning_saliency.explainers.group_cam import GroupCAM, initial_masks, percentile
from lightning_saliency.functional.fills import blur
from lightning_saliency.scales.scale import Scale


class Network(nn.Module):
    """Two blocks; counts the images that pass through it."""

    def __init__(self, channels: int = 10, classes: int = 4) -> None:
        super().__init__()
        self.block1 = nn.Sequential(nn.Conv2d(3, 6, 3, padding=1), nn.BatchNorm2d(6), nn.ReLU(inplace=True))
        self.pool = nn.MaxPool2d(2)
        self.block2 = nn.Sequential(
            nn.Conv2d(6, channels, 3, padding=1), nn.BatchNorm2d(channels), nn.ReLU(inplace=True)
        )
        self.average = nn.AdaptiveAvgPool2d(1)
        self.head = nn.Linear(channels, classes)
        # Outside of the module, where it is not put back after a pass.
        self.noted = SimpleNamespace(seen=0)
        self.register_forward_pre_hook(self._count)

    @staticmethod
    def _count(module: nn.Module, args: tuple[torch.Tensor]) -> None:
        module.noted.seen += args[0].shape[0]

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return self.head(self.average(self.block2(self.pool(self.block1(images)))).flatten(1)) * 4


@pytest.fixture
def network() -> Network:
    torch.manual_seed(1)
    network = Network()
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.normal_(module.running_mean, std=0.3)
    return network.train()


@pytest.fixture
def images() -> torch.Tensor:
    images = torch.randn(8, 3, 24, 20, generator=torch.Generator().manual_seed(2))
    for index, image in enumerate(images):
        image[:, index : index + 9, 2 * index : 2 * index + 6] += 2
    return images


TARGETS = torch.arange(8) % 4


@pytest.mark.parametrize("options", [{}, {"gradients": False, "theta": None}, {"groups": 3}])
def test_a_batch_gives_the_maps_of_its_images(network, images, options):
    explainer = GroupCAM(network, "block2", **({"groups": 4} | options))
    together = explainer(images, TARGETS)
    alone = torch.cat([explainer(images[i : i + 1], TARGETS[i : i + 1]) for i in range(8)])
    assert together.shape == (8, 24, 20)
    assert together.amax() == 1
    assert torch.allclose(together, alone, atol=1e-4)


@pytest.mark.parametrize("targets", [None, TARGETS, 2])
@pytest.mark.parametrize("gradients", [True, False])
def test_groups_plus_two_forward_passes_an_image(network, images, targets, gradients):
    explainer = GroupCAM(network, "block2", groups=4, gradients=gradients)
    explainer(images[:1], 0)  # Finds the layer's shape, once.
    network.noted.seen = 0
    explainer(images, targets)
    assert network.noted.seen == 8 * (4 + 2)


def test_groups_that_show_nothing_cost_no_pass(network, images):
    with torch.no_grad():  # of the ten channels in five groups, the last four are dead
        network.block2[1].weight[6:] = 0
        network.block2[1].bias[6:] = -1
    exact = GroupCAM(network, "block2", groups=5, score="logit")
    exact(images[:1], 0)  # Finds the layer's shape, once.
    network.noted.seen = 0
    maps = exact(images, TARGETS)
    activations, gradients = _read(network, images, TARGETS)
    masks = initial_masks(activations, gradients, 5, 70.0)
    shown = int(masks.flatten(2).any(2).sum())
    assert 8 <= shown <= 8 * 3
    assert network.noted.seen == 8 * 2 + shown
    blurred = blur(images, exact.kernel_size, exact.sigma)
    with torch.no_grad():
        network.eval()
        every = [network(images * up + blurred * (1 - up))[range(8), TARGETS] for up in _upsampled(masks, images)]
        gains = torch.stack(every, 1) - network(blurred)[range(8), TARGETS][:, None]
    raw = interpolate((gains[..., None, None] * masks).sum(1, keepdim=True), images.shape[2:], mode="bilinear")[:, 0]
    raw = raw.relu()
    low, high = raw.amin((1, 2), keepdim=True), raw.amax((1, 2), keepdim=True)
    assert (high > 1e-3).sum() >= 2
    assert torch.allclose(maps, (raw - low) / torch.where(high > low, high - low, 1), atol=1e-3)


def _read(network, images, targets):
    """The activations of the second block, and the gradients of the class's logit."""
    network.eval()
    hidden = network.block2(network.pool(network.block1(images))).detach().requires_grad_()
    logits = 4 * network.head(network.average(hidden).flatten(1))
    gradients = torch.autograd.grad(logits[range(len(images)), targets].sum(), hidden)[0]
    return hidden.detach(), gradients


def _upsampled(masks, images):
    """The masks of each group in turn, ``[B, 1, H, W]``."""
    for group in masks.unbind(1):
        yield interpolate(group[:, None], images.shape[2:], mode="bilinear")


def test_no_gradient_is_computed_without_gradients_and_one_backward_pass_of_the_head_with_them(
    network, images, monkeypatch
):
    calls = []
    original = torch.autograd.grad
    monkeypatch.setattr(torch.autograd, "grad", lambda *args, **kwargs: calls.append(1) or original(*args, **kwargs))
    backward = []
    network.block1[0].register_full_backward_hook(lambda *_: backward.append(1))
    GroupCAM(network, "block2", groups=4, gradients=False, theta=None)(images, TARGETS)
    assert not calls
    GroupCAM(network, "block2", groups=4)(images, TARGETS)
    assert calls == [1]
    assert not backward


def test_one_group_without_denoising_ranks_pixels_as_grad_cam_does(network, images):
    ours = GroupCAM(network, "block2", groups=1, theta=None)(images)
    grad_cam = GradCAM(network, "block2")(images)
    raised = ours.amax((1, 2)) > 0
    assert raised.sum() >= 4
    for one, other in zip(ours[raised], grad_cam[raised], strict=True):
        assert spearmanr(one.flatten(), other.flatten()).statistic > 0.9999
        assert torch.allclose(one, other, atol=1e-4)


@pytest.mark.parametrize("batch_size", [1, 3, 100, "auto"])
def test_the_chunk_does_not_matter(network, images, batch_size):
    reference = GroupCAM(network, "block2", groups=4, batch_size=7)(images, TARGETS)
    maps = GroupCAM(network, "block2", groups=4, batch_size=batch_size)(images, TARGETS)
    assert torch.allclose(maps, reference, atol=1e-4)


@pytest.mark.parametrize(("channels", "groups", "sizes"), [(10, 4, [3, 3, 2, 2]), (10, 10, [1] * 10), (5, 32, [1] * 5)])
def test_groups_are_as_even_as_possible_and_lose_no_channel(channels, groups, sizes):
    # Channel k is 2^k at its own pixel: the value of a group's sum names its members.
    activations = torch.zeros(1, channels, 1, 2)
    activations[0, :, 0, 1] = 2.0 ** torch.arange(channels)
    ends = np.cumsum(sizes)
    sums = [sum(2**k for k in range(end - size, end)) for size, end in zip(sizes, ends, strict=True)]
    for index, total in enumerate(sums):
        weights = torch.zeros(1, channels, 1, 2)
        weights[0, ends[index] - sizes[index] : ends[index]] = 1.0
        masks = initial_masks(activations, weights, groups, None)
        assert masks.shape == (1, len(sizes), 1, 2)
        assert masks[0, :, 0, 1].nonzero().flatten().tolist() == [index]
        weighted = (activations * weights).sum()
        assert weighted == total


def test_equations_1_to_4_by_hand():
    activations = torch.tensor([[[[1.0, 2.0], [3.0, 4.0]], [[4.0, 3.0], [2.0, 1.0]], [[5.0, 5.0], [5.0, 5.0]]]])
    gradients = torch.tensor([[[[4.0, 0.0], [0.0, 0.0]], [[0.0, -2.0], [0.0, -2.0]], [[1.0, 1.0], [1.0, 1.0]]]])
    # Weights 1, -1, 1. The first group: [[-3, -1], [1, 3]], rectified [[0, 0], [1, 3]]; its 50th percentile is 0.5.
    masks = initial_masks(activations, gradients, groups=2, theta=50)
    assert torch.allclose(masks[0, 0], torch.tensor([[0.0, 0.0], [1 / 3, 1.0]]))
    assert torch.equal(masks[0, 1], torch.zeros(2, 2))
    # The 90th percentile is 1 + 0.7 · 2 = 2.4.
    masks = initial_masks(activations, gradients, groups=2, theta=90)
    assert torch.equal(masks[0, 0], torch.tensor([[0.0, 0.0], [0.0, 1.0]]))
    # What equals the percentile goes.
    masks = initial_masks(torch.tensor([[[[1.0, 2.0, 4.0]]]]), None, groups=1, theta=50)
    assert torch.equal(masks, torch.tensor([[[[0.0, 0.0, 1.0]]]]))


def test_equations_5_to_7_one_group_at_a_time(network, images):
    network.eval()
    maps = GroupCAM(network, "block2", groups=3, theta=40, kernel_size=9, sigma=4.0)(images, TARGETS)
    for image, target, found in zip(images, TARGETS, maps, strict=True):
        hidden = network.block2(network.pool(network.block1(image[None]))).detach().requires_grad_()
        logit = 4 * network.head(network.average(hidden).flatten(1))[0, target]
        masks = initial_masks(hidden.detach(), torch.autograd.grad(logit, hidden)[0], 3, 40)[0]
        masks = interpolate(masks[:, None], size=image.shape[1:], mode="bilinear", align_corners=False)[:, 0]
        blurred = blur(image[None], 9, 4.0)
        raw = torch.zeros(image.shape[1:])
        with torch.no_grad():
            confidence = network(blurred).softmax(1)[0, target]
            for mask in masks:
                seen = image * mask + blurred * (1 - mask)
                raw += (network(seen).softmax(1)[0, target] - confidence) * mask
        raw = raw.relu()
        expected = (raw - raw.min()) / (raw.max() - raw.min()) if raw.max() > raw.min() else raw
        assert torch.allclose(found, expected, atol=1e-3)


@pytest.mark.parametrize("theta", [0, 12.5, 70, 99.9, 100])
@pytest.mark.parametrize("size", [(1, 1), (1, 2), (7, 7), (14, 9)])
def test_percentile_is_numpys(theta, size):
    maps = torch.randn(3, 2, *size, dtype=torch.float64)
    expected = np.percentile(maps.flatten(2).numpy(), theta, axis=2)
    assert np.allclose(percentile(maps, theta).numpy(), expected, atol=1e-12)


def test_a_dead_group_contributes_nothing(network, images):
    with torch.no_grad():
        network.block2[1].weight[:3] = 0
        network.block2[1].bias[:3] = 0
    explainer = GroupCAM(network, "block2", groups=4)
    maps = explainer(images, TARGETS)
    assert maps.isfinite().all()
    assert maps.amax() == 1
    masks = initial_masks(torch.zeros(2, 8, 3, 3), torch.ones(2, 8, 3, 3), 4, 70)
    assert torch.equal(masks, torch.zeros(2, 4, 3, 3))


@pytest.mark.parametrize("value", [0.0, 1.0, -3.0])
def test_constant_images_have_finite_maps(network, value):
    maps = GroupCAM(network, "block2", groups=4)(torch.full((2, 3, 24, 24), value), 1)
    assert maps.isfinite().all()


def test_a_network_of_one_block_and_one_pixel():
    network = nn.Sequential(nn.Conv2d(3, 8, 1), nn.ReLU(), nn.Flatten(), nn.Linear(8, 3))
    pixel = Scale(module="1", read="output", grid=(1, 1), channels=8, layout="NCHW")
    maps = GroupCAM(network, pixel, groups=4)(torch.rand(2, 3, 1, 1))
    assert torch.equal(maps, torch.zeros(2, 1, 1))


def test_the_network_is_left_as_it_was_also_after_an_exception(network, images):
    network.block1[1].eval()
    network(images).sum().backward()
    gradients = [parameter.grad.clone() for parameter in network.parameters()]
    state = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    flags = [module.training for module in network.modules()]
    rng = torch.get_rng_state()
    hooks = [(len(module._forward_hooks), len(module._forward_pre_hooks)) for module in network.modules()]

    def check():
        assert [module.training for module in network.modules()] == flags
        assert all(torch.equal(one.grad, other) for one, other in zip(network.parameters(), gradients, strict=True))
        assert all(torch.equal(tensor, state[name]) for name, tensor in network.state_dict().items())
        assert torch.equal(rng, torch.get_rng_state())
        assert hooks == [(len(module._forward_hooks), len(module._forward_pre_hooks)) for module in network.modules()]
        assert all(parameter.requires_grad for parameter in network.parameters())

    for options in ({}, {"gradients": False}):
        GroupCAM(network, "block2", groups=4, **options)(images, TARGETS)
        check()
    calls = []

    def fail_later(returned):
        calls.append(1)
        if len(calls) == 3:
            raise RuntimeError("on purpose")
        return returned

    with pytest.raises(RuntimeError, match="on purpose"):
        GroupCAM(network, "block2", groups=4, batch_size=2, output=fail_later)(images, TARGETS)
    check()


def _mean_correlation(maps, others):
    """Spearman's, over the images that have a map."""
    raised = others.amax((1, 2)) > 0
    assert raised.sum() >= 4
    pairs = zip(maps[raised], others[raised], strict=True)
    return np.mean([spearmanr(one.flatten(), other.flatten()).statistic for one, other in pairs])


def test_inside_no_grad_inference_mode_and_autocast(network, images):
    explainer = GroupCAM(network, "block2", groups=4)
    expected = explainer(images, TARGETS)
    with torch.no_grad():
        assert torch.equal(explainer(images, TARGETS), expected)
    with torch.inference_mode():
        assert torch.equal(explainer(images.clone(), TARGETS), expected)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        half = explainer(images, TARGETS)
        network(images).sum().backward()
    assert half.dtype == torch.float32
    assert all(parameter.grad is not None for parameter in network.parameters())
    # In half precision the gains of an untrained network are coarse, but its masks are the same.
    assert _mean_correlation(half, expected) > 0.8


def test_fast_and_half_precision_keep_the_map(network, images):
    network.eval()
    exact = GroupCAM(network, "block2", groups=4)(images, TARGETS)
    for options in ({"fast": True, "precision": "bf16"}, {"precision": "bf16"}):
        maps = GroupCAM(network, "block2", groups=4, **options)(images, TARGETS)
        assert not torch.equal(maps, exact)
        assert _mean_correlation(maps, exact) > 0.9


@pytest.mark.parametrize("fast", [False, True])
def test_token_sequences(fast):
    network = torchvision.models.VisionTransformer(
        image_size=32, patch_size=8, num_layers=4, num_heads=2, hidden_dim=16, mlp_dim=32, num_classes=4
    )
    nn.init.normal_(network.heads.head.weight, std=3)
    maps = GroupCAM(network, groups=4, fast=fast)(torch.randn(4, 3, 32, 32))
    assert maps.shape == (4, 32, 32)
    assert maps.isfinite().all()
    assert maps.amax() == 1


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"groups": 0}, "groups=0"),
        ({"groups": 3.5}, "groups=3.5. Allowed are whole numbers"),
        ({"groups": float("nan")}, "groups=nan"),
        ({"theta": 101}, "theta=101"),
        ({"theta": -1.0}, "theta=-1.0"),
        ({"score": "margin"}, "score='margin'"),
    ],
)
def test_bad_options_are_refused_with_what_is_allowed(network, options, message):
    with pytest.raises(ValueError, match=message):
        GroupCAM(network, "block2", **options)


@pytest.mark.parametrize("score", ["sigmoid", "logit"])
def test_other_scores_and_a_head_with_one_output(images, score):
    network = Network(classes=1)
    maps = GroupCAM(network, "block2", groups=4, score=score)(images)
    assert maps.isfinite().all()
    if score == "sigmoid":  # the softmax of the two classes of a yes-no head
        assert torch.equal(GroupCAM(network, "block2", groups=4)(images), maps)


def test_faint_is_an_image_none_of_whose_scores_reaches_a_tenth_of_its_own(monkeypatch):
    model = nn.Sequential(nn.Conv2d(3, 8, 1), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 2))
    nn.init.zeros_(model[-1].weight)
    model[-1].bias.data = torch.tensor([0.8, 0.2]).log()  # the whole images' probabilities
    scores = torch.tensor([[0.019, 0.001, 0.0], [0.0, 0.021, 0.0], [0.001, 0.002, 0.021]])
    given = []

    def scored(self, images, *others, exact=False):
        given.append((images, exact))
        return scores[: len(images)].clone()

    monkeypatch.setattr(GroupCAM, "_scores", scored)
    images = torch.rand(3, 3, 8, 8)
    GroupCAM(model, "1", groups=2, gradients=False, precision="bf16")(images, 1)
    (first, exact), (again, exactly) = given
    assert (exact, exactly) == (False, True)
    assert torch.equal(first, images)
    assert torch.equal(again, images[:1])


def test_faint_images_are_scored_again_exactly(monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(0)
    model = torch.nn.Sequential(
        torch.nn.Conv2d(3, 8, 3, padding=1), torch.nn.ReLU(), torch.nn.AdaptiveAvgPool2d(1), torch.nn.Flatten()
    ).eval()
    images = torch.randn(3, 3, 16, 16)
    exact = GroupCAM(model, layer="1", groups=4)(images, 2)
    monkeypatch.setattr(group_cam, "FAINT", 0.0)
    assert not torch.equal(GroupCAM(model, layer="1", groups=4, fast=True, precision="bf16")(images, 2), exact)
    monkeypatch.setattr(group_cam, "FAINT", 1e9)
    assert torch.equal(GroupCAM(model, layer="1", groups=4, fast=True, precision="bf16")(images, 2), exact)
    assert torch.equal(GroupCAM(model, layer="1", groups=4, precision="bf16")(images, 2), exact)


@pytest.mark.parametrize(
    ("options", "again"), [({}, False), ({"score": "logit", "fast": True}, False), ({"precision": "bf16"}, True)]
)
def test_only_shares_in_half_precision_or_of_a_faster_copy_are_scored_again(
    network, images, monkeypatch, options, again
):
    scored = []
    monkeypatch.setattr(group_cam, "FAINT", 1e9)
    own = GroupCAM._scores
    monkeypatch.setattr(
        GroupCAM, "_scores", lambda self, *args, **more: (scored.append(more), own(self, *args, **more))[1]
    )
    GroupCAM(network, "block2", groups=2, **options)(images[:2], 1)
    assert len(scored) == 1 + again


def test_the_lowest_and_the_highest_percentile_are_allowed(network, images):
    assert GroupCAM(network, "block2", groups=2, theta=0.0)(images[:1], 1).isfinite().all()
    masks = initial_masks(torch.tensor([[[[1.0, 3.0, 5.0]]]]), None, groups=1, theta=0.0)  # the lowest is set to zero
    assert masks.flatten().tolist() == pytest.approx([0.0, 0.6, 1.0])
    assert initial_masks(masks.double(), None, groups=1, theta=0.0).dtype == torch.float64
    assert GroupCAM(network, "block2", groups=2, theta=100.0)(images[:1], 1).max() == 0
