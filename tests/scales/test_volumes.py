"""Volumes and clips ``[B, C, T, H, W]``: the scales, the taps, and the explainers that take them."""

from functools import partial

import pytest
import torch
from torch import nn
from torch.nn import functional as F
from torchvision.models.video import r3d_18

from lightning_saliency.deployment import SaliencyModule
from lightning_saliency.explainers import (
    RISE,
    SMOE,
    FastCAM,
    GradCAM,
    GradCAMPlusPlus,
    LayerCAM,
    SmoothGradCAMPlusPlus,
    XGradCAM,
)
from lightning_saliency.functional.normalization import min_max, normal_cdf
from lightning_saliency.functional.statistics import smoe_scale
from lightning_saliency.scales.find import find_scales, named_scales
from lightning_saliency.scales.maps import combined_statistics
from lightning_saliency.scales.scale import as_grid, scale_table
from tests.networks import TokenTransformer


class VolumeNet(nn.Sequential):
    """Grids of a full and a half of the size."""

    def __init__(self):
        super().__init__(
            *(nn.Conv3d(1, 4, 3, padding=1), nn.ReLU(), nn.MaxPool3d(2)),
            *(nn.Conv3d(4, 6, 3, padding=1), nn.ReLU(), nn.AdaptiveAvgPool3d(1), nn.Flatten(), nn.Linear(6, 3)),
        )


@pytest.fixture
def network():
    return VolumeNet().eval()


@pytest.fixture
def volumes():
    return torch.randn(2, 1, 6, 12, 10)


def brief(scales):
    return [f"{scale.module} {scale.read} {scale.grid} {scale.channels} {scale.layout}" for scale in scales]


def test_scales_of_a_plain_network(network, volumes):
    scales = find_scales(network, volumes)
    assert brief(scales) == ["2 input (6, 12, 10) 4 NCTHW", "5 input (3, 6, 5) 6 NCTHW"]
    assert scale_table(scales)[1] == ("2", "5", "input", "3×6×5", "6", "NCTHW")
    assert brief(named_scales(network, ["3"], volumes)) == ["3 output (3, 6, 5) 6 NCTHW"]


def test_scales_of_video_networks():
    clip = torch.rand(1, 3, 8, 32, 32)
    assert brief(find_scales(r3d_18(), clip)) == [
        "layer2 input (8, 16, 16) 64 NCTHW",
        "layer3 input (4, 8, 8) 128 NCTHW",
        "layer4 input (2, 4, 4) 256 NCTHW",
        "avgpool input (1, 2, 2) 512 NCTHW",
    ]


def test_steps_in_time_alone_make_no_scale():
    """A convolution in space, then one in time, as in R(2+1)D; and a pooling of slices."""
    layers = [
        nn.Conv3d(3, 4, (1, 3, 3), (1, 2, 2), (0, 1, 1)),
        nn.Conv3d(4, 4, (3, 1, 1), (2, 1, 1), (1, 0, 0)),
        nn.ReLU(),
    ]
    network = nn.Sequential(
        *(*layers, nn.MaxPool3d((2, 1, 1)), nn.Conv3d(4, 8, 3, padding=1), nn.ReLU(), nn.MaxPool3d(2)),
        *(nn.Conv3d(8, 8, 1), nn.AdaptiveAvgPool3d(1), nn.Flatten(), nn.Linear(8, 3)),
    )
    assert brief(find_scales(network, torch.rand(1, 3, 16, 24, 32))) == [
        "6 input (4, 12, 16) 8 NCTHW",
        "8 input (2, 6, 8) 8 NCTHW",
    ]


class ClipTransformer(TokenTransformer):
    """Tubelets of 2×8×8 as tokens, behind a class token."""

    def __init__(self):
        super().__init__(depth=4)
        self.embedding = nn.Conv3d(3, 16, (2, 8, 8), (2, 8, 8))


def test_tokens_of_a_clip():
    network, clips = ClipTransformer().eval(), torch.rand(2, 3, 4, 16, 24)
    scales = find_scales(network, clips)
    assert brief(scales) == [f"blocks.{number} output (2, 2, 3) 16 tokens" for number in range(4)]
    assert {scale.prefix_tokens for scale in scales} == {1}
    tokens = []
    network.blocks[0].register_forward_hook(lambda _module, _args, output: tokens.append(output))
    maps = SMOE(network, layers=scales[:1]).scales(clips).maps
    expected = normal_cdf(smoe_scale(tokens[-1][:, 1:], dim=2)[:, None]).reshape(2, 1, 2, 2, 3)
    torch.testing.assert_close(maps, F.interpolate(expected, (4, 16, 24), mode="trilinear"))
    assert GradCAM(network)(clips).shape == (2, 4, 16, 24)
    with pytest.raises(ValueError, match=r"holds 24 patch tokens, but for the example input it held 12 \(2×2×3\)"):
        as_grid(torch.rand(1, 25, 16), scales[0])


def test_smoe_by_hand(network, volumes):
    with torch.no_grad():
        first = network[1](network[0](volumes))
        second = network[4](network[3](network[2](first)))
    maps = []
    for activations in (first, second):
        statistic = smoe_scale(activations)
        # One distribution for the whole volume.
        squashed = normal_cdf(statistic.reshape(2, 1, -1)).reshape(statistic.shape)
        maps.append(F.interpolate(squashed[:, None], (6, 12, 10), mode="trilinear")[:, 0])
    expected = torch.stack(maps).mean(0)
    smoe = SMOE(network)
    scales = smoe.scales(volumes)
    assert scales.maps.shape == (2, 2, 6, 12, 10)
    torch.testing.assert_close(scales.combined(), expected)
    torch.testing.assert_close(combined_statistics([smoe_scale(first), smoe_scale(second)]), expected)
    torch.testing.assert_close(smoe(volumes), min_max(expected.reshape(2, 1, -1)).reshape(expected.shape))
    assert scales.lovi().shape == (2, 3, 6, 12, 10)
    overlay = scales.overlay(volumes.sigmoid())
    assert overlay.shape == (2, 3, 6, 12, 10)
    output, map_ = SaliencyModule(network, volumes)(volumes)
    assert torch.equal(output, network(volumes))
    torch.testing.assert_close(map_, smoe(volumes))


def test_grad_cam_by_hand(network, volumes):
    layers = list(network)
    activations = nn.Sequential(*layers[:5])(volumes).detach().requires_grad_()
    scores = nn.Sequential(*layers[5:])(activations)[:, 1]
    (gradients,) = torch.autograd.grad(scores.sum(), activations)
    weights = gradients.mean((2, 3, 4), keepdim=True)
    raw = F.interpolate((weights * activations).sum(1, keepdim=True).relu(), (6, 12, 10), mode="trilinear")
    expected = min_max(raw.reshape(2, 1, -1)).reshape(2, 6, 12, 10)
    torch.testing.assert_close(GradCAM(network)(volumes, 1), expected)
    torch.testing.assert_close(GradCAM(network, layer="4")(volumes, 1), expected)


@pytest.mark.parametrize(
    "build",
    [
        *(GradCAM, GradCAMPlusPlus, XGradCAM, LayerCAM, FastCAM),
        # Without noise, which has other values in each slice.
        partial(SmoothGradCAMPlusPlus, samples=2, stdevs=0.0),
    ],
)
def test_a_still_clip_has_the_map_of_its_picture_in_every_slice(build):
    """A network that looks at each slice by itself, on a clip that stands still."""
    torch.manual_seed(1)
    flat = nn.Sequential(nn.Conv2d(3, 6, 3, 2, 1), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(6, 3))
    deep = nn.Sequential(
        *(nn.Conv3d(3, 6, (1, 3, 3), (1, 2, 2), (0, 1, 1)), nn.ReLU(), nn.AdaptiveAvgPool3d(1)),
        *(nn.Flatten(), nn.Linear(6, 3)),
    )
    weights = deep.state_dict()
    deep.load_state_dict({name: value.reshape(weights[name].shape) for name, value in flat.state_dict().items()})
    images = torch.rand(2, 3, 16, 12)
    expected = build(flat.eval())(images, 2)
    found = build(deep.eval())(images[:, :, None].expand(-1, -1, 4, -1, -1).contiguous(), 2)
    # FastCAM's SMOE is read at the same place.
    torch.testing.assert_close(found, expected[:, None].expand(-1, 4, -1, -1), rtol=1e-4, atol=1e-5)


def test_others_say_that_they_take_no_volumes(network, volumes):
    with pytest.raises(ValueError, match="volumes and clips are explained by SMOE, the class"):
        RISE(network, masks=4)(volumes)
