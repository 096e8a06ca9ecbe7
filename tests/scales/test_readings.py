"""Where a scale is read: behind a normalisation and ReLU, at one tensor of several, not at a table or at logits."""

from __future__ import annotations

from collections import namedtuple

import pytest
import torch
import torch.ao.quantization as quantization
from torch import nn
from torch.nn import functional as F

from lightning_saliency.scales import find_scales, named_scales
from lightning_saliency.scales.first_pass import FirstPass
from tests.networks import Chain, ConvNet, EncoderDecoder, brief, conv_block

IMAGES = torch.rand(2, 3, 32, 32)


class Dense(nn.Module):
    """A block of a DenseNet: what it makes is added as channels, and nothing is rectified at its end."""

    def __init__(self):
        super().__init__()
        self.layer = nn.Sequential(nn.BatchNorm2d(8), nn.ReLU(inplace=True), nn.Conv2d(8, 4, 3, padding=1))

    def forward(self, x):
        return torch.cat([x, self.layer(x)], 1)


class Inverted(nn.Module):
    """A block of MobileNetV2: widens, reduces by a depthwise convolution, and ends without ReLU."""

    def __init__(self, stride, activation=nn.ReLU6):
        super().__init__()
        self.widen = nn.Sequential(nn.Conv2d(8, 24, 1), nn.BatchNorm2d(24), activation())
        self.depthwise = nn.Sequential(nn.Conv2d(24, 24, 3, stride, 1, groups=24), nn.BatchNorm2d(24), activation())
        self.narrow = nn.Sequential(nn.Conv2d(24, 8, 1), nn.BatchNorm2d(8))
        self.stride = stride

    def forward(self, x):
        y = self.narrow(self.depthwise(self.widen(x)))
        return x + y if self.stride == 1 else y


class PreActivation(nn.Module):
    """A block of a ResNet of the second kind: normalisation and ReLU before the convolution."""

    def __init__(self, norm, stride):
        super().__init__()
        self.norm, self.relu, self.conv = norm(8), nn.ReLU(), nn.Conv2d(8, 8, 3, stride, 1)
        self.stride = stride

    def forward(self, x):
        return F.avg_pool2d(x, self.stride) + self.conv(self.relu(self.norm(x)))


class NormAct(nn.BatchNorm2d):
    """A normalisation with its activation inside."""

    def __init__(self, channels):
        super().__init__(channels)
        self.act = nn.ReLU(inplace=True)

    def forward(self, x):
        return self.act(super().forward(x))


class Bottleneck(nn.Module):
    """A block of a ResNet, which is rectified at its end."""

    def __init__(self, stride):
        super().__init__()
        self.body = nn.Sequential(conv_block(8, 8), nn.Conv2d(8, 8, 3, stride, 1), nn.BatchNorm2d(8))
        self.relu, self.stride = nn.ReLU(), stride

    def forward(self, x):
        return self.relu(F.avg_pool2d(x, self.stride) + self.body(x))


def transition():
    return nn.Sequential(nn.BatchNorm2d(12), nn.ReLU(), nn.Conv2d(12, 8, 1), nn.AvgPool2d(2))


STEM = nn.Conv2d(3, 8, 3, 1, 1)
HEAD = (lambda x: x.mean((2, 3)), nn.Linear(8, 10))
BEHIND = {
    "DenseNet": (lambda: (conv_block(3, 8), Dense(), transition(), nn.Conv2d(8, 8, 1), *HEAD),
        ["m2.1 out 32 12", "m3 out 16 8"],
    ),
    "MobileNetV2": (
        lambda: (conv_block(3, 8), Inverted(1), Inverted(2), Inverted(1), *HEAD),
        ["m2.widen out 32 24", "m3 out 16 8"],
    ),
    "pre-activation": (
        lambda: (STEM, PreActivation(nn.BatchNorm2d, 1), PreActivation(nn.BatchNorm2d, 2), *HEAD),
        ["m2.relu out 32 8", "m2 out 16 8"],
    ),
    "pre-activation with GroupNorm": (
        lambda: (nn.Conv2d(3, 8, 3, 1, 1), PreActivation(lambda c: nn.GroupNorm(2, c), 2), *HEAD),
        ["m1.relu out 32 8", "m1 out 16 8"],
    ),
    "a normalisation with its activation inside": (
        lambda: (nn.Conv2d(3, 8, 3, 1, 1), nn.Sequential(NormAct(8), nn.MaxPool2d(2), nn.Conv2d(8, 8, 1)), *HEAD),
        ["m1.0 out 32 8", "m1 out 16 8"],
    ),
    "already rectified": (
        lambda: (conv_block(3, 8), Bottleneck(1), Bottleneck(2), *HEAD),
        ["m2 in 32 8", "m2 out 16 8"],
    ),
    "another activation": (
        lambda: (conv_block(3, 8), Inverted(1), Inverted(2, nn.SiLU), *HEAD),
        ["m2 in 32 8", "m2 out 16 8"],
    ),
    "reduced at once": (
        lambda: (nn.Conv2d(3, 8, 3, 1, 1), nn.Sequential(nn.MaxPool2d(2), nn.BatchNorm2d(8), nn.ReLU()),
                 nn.Conv2d(8, 8, 1), *HEAD),
        ["m1 in 32 8", "m2 out 16 8"],
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", BEHIND)
def test_a_scale_is_read_behind_the_normalisation_and_relu_that_follow_it(case):
    steps, expected = BEHIND[case]
    model = Chain(*steps()).eval()
    assert brief(find_scales(model, IMAGES)) == expected
    with FirstPass(model, IMAGES) as first:
        model(IMAGES)
    scales, _, found = first.result()
    assert brief(scales) == expected
    assert [tuple(map_.shape) for map_ in found.maps] == [(2, *scale.grid) for scale in scales]
    assert all(map_.isfinite().all() for map_ in found.maps)


Both = namedtuple("Both", ["map", "pooled"])


class Backbone(nn.Module):
    def __init__(self, pack):
        super().__init__()
        self.c1, self.c2, self.pack = conv_block(3, 8, 2), conv_block(8, 12, 2), pack

    def forward(self, x):
        x = self.c2(self.c1(x))
        return self.pack(x, x.mean((2, 3)))


@pytest.mark.parametrize(
    ("pack", "pooled"),
    [
        (lambda x, y: (x, y), lambda out: out[1]),
        (lambda x, y: {"features": x, "pooled": y}, lambda out: out["pooled"]),
        (lambda x, y: {"pooled": y, "features": x}, lambda out: out["pooled"]),
        (Both, lambda out: out.pooled),
        (lambda x, y: [x, F.avg_pool2d(x, 2)], lambda out: out[1].mean((2, 3))),
    ],
)
def test_a_backbone_that_returns_several_tensors_is_read_inside(pack, pooled):
    model = Chain(Backbone(pack), pooled, nn.Linear(12, 5))
    assert brief(find_scales(model, IMAGES)) == ["m0.c2 in 16 8", "m0.c2 out 8 12"]


class Around(nn.Module):
    """Hands images on, and does something with what comes back."""

    def __init__(self, network, after):
        super().__init__()
        self.model, self.after = network, after

    def forward(self, images):
        return self.after(self.model(images), images)


def coarse():
    """An encoder-decoder whose output has a fourth of the image's side."""
    up = nn.Sequential(nn.ConvTranspose2d(16, 8, 2, 2), nn.ReLU())
    return nn.Sequential(conv_block(3, 8, 2), conv_block(8, 8, 2), conv_block(8, 16, 2), up, nn.Conv2d(8, 5, 1))


@pytest.mark.parametrize(
    "after",
    [
        lambda out, images: F.interpolate(out, images.shape[2:]),
        lambda out, images: {"out": F.interpolate(out, images.shape[2:]), "aux": out},
        lambda out, images: out.softmax(1),
        lambda out, images: (out, out.mean((2, 3))),
    ],
)
def test_an_encoder_is_found_whatever_is_done_with_a_coarse_output(after):
    expected = ["model.1 in 16 8", "model.2 in 8 8", "model.2 out 4 16"]
    assert brief(find_scales(Around(coarse(), after), IMAGES)) == expected
    twice = Around(Around(coarse(), after), lambda out, images: out)
    assert brief(find_scales(twice, IMAGES)) == [f"model.{line}" for line in expected]


def test_the_last_activation_of_a_network_that_keeps_the_grid_is_not_read():
    model = nn.Sequential(nn.Conv2d(3, 8, 3, 1, 1), nn.ReLU(), nn.Conv2d(8, 3, 3, 1, 1), nn.Sigmoid())
    for network, prefix in ((model, ""), (Around(model, lambda out, images: out), "model.")):
        assert brief(find_scales(network, IMAGES)) == [f"{prefix}2 in 32 8"]


class Table(nn.Module):
    """A table of positions, of the first dimension 1 as images have it."""

    def __init__(self, *shape):
        super().__init__()
        self.values = nn.Parameter(torch.rand(1, *shape))
        self.linear = nn.Linear(shape[-1], shape[-1])

    def forward(self):
        return self.linear(self.values)


class Positioned(nn.Module):
    """Adds something made of a table to what a convolution makes."""

    def __init__(self, table, added):
        super().__init__()
        self.conv, self.table, self.added = nn.Conv2d(3, 8, 4, 4), table, added
        self.block, self.head = conv_block(8, 8), nn.Linear(8, 5)

    def forward(self, x):
        return self.head(self.block(self.conv(x) + self.added(self.table())).mean((2, 3)))


@pytest.mark.parametrize(
    ("shape", "added"),
    [
        ((8, 4, 4), lambda table: table.mean()),
        ((3, 3, 8), lambda table: table.mean((1, 2))[:, :, None, None]),
        ((16, 8), lambda table: F.interpolate(table.transpose(1, 2).reshape(1, 8, 4, 4), (8, 8))),
    ],
)
def test_a_table_of_positions_is_no_grid(shape, added):
    assert brief(find_scales(Positioned(Table(*shape), added), IMAGES)) == ["block out 8 8"]


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(
    "network",
    [
        ConvNet,
        EncoderDecoder,
        # A weight [1, C, 3, 3] lies on no grid, though its first dimension is that of one image.
        lambda: nn.Sequential(
            *(conv_block(3, 8, 2), conv_block(8, 8, 2)),
            *(nn.Conv2d(8, 1, 3, padding=1), nn.AdaptiveAvgPool2d(1), nn.Flatten()),
        ),
    ],
)  # fmt: skip
def test_quantisation_aware_networks_have_the_scales_of_the_plain_ones(network):
    model = network().train()
    expected = brief(find_scales(model, IMAGES))
    model.qconfig = quantization.get_default_qat_qconfig("x86")
    prepared = quantization.prepare_qat(model)
    prepared(IMAGES)
    assert brief(find_scales(prepared, IMAGES)) == expected


def test_a_network_that_takes_one_image_at_a_time_has_scales():
    model = Chain(conv_block(3, 8), lambda x: x.view(1, 8, 32, 32), nn.MaxPool2d(2), nn.Conv2d(8, 8, 1), *HEAD)
    assert brief(find_scales(model, IMAGES)) == ["m2 in 32 8", "m3 out 16 8"]


def test_layers_may_be_given_as_modules():
    model = EncoderDecoder()
    layers = [model.encoder2, "pool1:input", model.bottleneck[0]]
    expected = ["encoder2 out 16 12", "pool1 in 32 8", "bottleneck.0 out 8 16"]
    assert brief(named_scales(model, layers, IMAGES)) == expected
    holder = Around(model, lambda out, images: out)
    with FirstPass(holder, IMAGES, layers=layers[:1]) as first:
        holder(IMAGES)
    assert brief(first.result()[0]) == ["model.encoder2 out 16 12"]
    with FirstPass(holder, IMAGES, layers=model.encoder2) as first:
        holder(IMAGES)
    assert brief(first.result()[0]) == ["model.encoder2 out 16 12"]
    with pytest.raises(ValueError, match=r"Got a Sequential that is no module of EncoderDecoder"):
        named_scales(model, [EncoderDecoder().encoder1], IMAGES)
    with pytest.raises(TypeError, match=r"give \[module\]"):
        named_scales(model, model.encoder1, IMAGES)


def test_networks_of_fabric_are_read_by_their_own_names():
    fabric = pytest.importorskip("lightning.fabric").Fabric(accelerator="cpu", devices=1)
    for network, layer in ((ConvNet(), "block3"), (EncoderDecoder(), "bottleneck"), (coarse(), "2")):
        wrapped = fabric.setup(network)
        assert find_scales(wrapped, IMAGES) == find_scales(network, IMAGES)
        named = named_scales(wrapped, [layer, network.get_submodule(layer)], IMAGES)
        assert named[0] == named[1] == named_scales(network, [layer], IMAGES)[0]
