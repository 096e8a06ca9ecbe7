"""The rule of `find_scales` in its details, each on a network made for it."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from lightning_saliency.scales.find import find_scales
from lightning_saliency.scales.tracing.trace import trace
from tests.networks import Chain, ConvNet, EncoderDecoder, TokenBlock, brief, conv_block


class Beside(nn.Module):
    """Multiplies what it is given by what a module makes of it, brought back to its grid: an excursion."""

    def __init__(self, *inner):
        super().__init__()
        self.inner = nn.Sequential(*inner)

    def forward(self, x):
        return x * F.interpolate(self.inner(x), x.shape[2:])


HEAD = (lambda x: x.mean((2, 3)), nn.Linear(8, 10))
# What the network is made of, and the scales it has.
CASES = {
    "squeeze-and-excitation": (
        lambda: (conv_block(3, 8), Beside(nn.AdaptiveAvgPool2d(1), nn.Conv2d(8, 8, 1)), nn.MaxPool2d(2), *HEAD),
        ["m2 in 32 8"],
    ),
    "keys on a smaller grid, in every block": (
        lambda: (conv_block(3, 8), *(Beside(nn.Conv2d(8, 8, 4, 4)) for _ in range(2)), *HEAD),
        ["m2 out 32 8"],
    ),
    "four blocks or more on the only grid are depths": (
        lambda: (*(conv_block(channels, 8) for channels in (3, 8, 8, 8, 8, 8)), *HEAD),
        ["m0 out 32 8", "m2 out 32 8", "m3 out 32 8", "m5 out 32 8"],
    ),
    "three blocks on the only grid": (
        lambda: (*(conv_block(channels, 8) for channels in (3, 8, 8)), *HEAD),
        ["m2 out 32 8"],
    ),
    "the image enlarged by a module": (
        lambda: (nn.Upsample(scale_factor=2), conv_block(3, 8), nn.MaxPool2d(2), *HEAD),
        ["m2 in 64 8"],
    ),
    "the image enlarged by a function": (
        lambda: (lambda x: F.interpolate(x, (64, 64)), conv_block(3, 8, 2), nn.MaxPool2d(2), *HEAD),
        ["m2 in 32 8"],
    ),
    "unpadded convolutions are one scale, read last": (
        lambda: (nn.Conv2d(3, 8, 5), nn.Conv2d(8, 8, 3), nn.AvgPool2d(2), nn.Conv2d(8, 8, 3), *HEAD),
        ["m2 in 26 8", "m3 out 11 8"],
    ),
    "a stem that passes over an intermediate grid": (
        lambda: (nn.Sequential(conv_block(3, 8, 2), conv_block(8, 8, 2)), *HEAD),
        ["m0.1 in 16 8", "m0 out 8 8"],
    ),
    "a stem that begins on the image's own grid": (
        lambda: (nn.Sequential(conv_block(3, 8), conv_block(8, 8, 2)), nn.MaxPool2d(2), *HEAD),
        ["m1 in 16 8"],
    ),
    "windows folded into the batch": (
        lambda: (
            conv_block(3, 8),
            lambda x: x.unfold(2, 8, 8).unfold(3, 8, 8).permute(0, 2, 3, 4, 5, 1).reshape(-1, 64, 8),
            TokenBlock(8),
            lambda x: x.view(1, 4, 4, 8, 8, 8).permute(0, 5, 1, 3, 2, 4).reshape(1, 8, 32, 32),
            nn.MaxPool2d(2),
            *HEAD,
        ),
        ["m4 in 32 8"],
    ),
    "a gate at the top level, from a vector back to the grid": (
        lambda: (
            conv_block(3, 8),
            lambda x: x.mean((2, 3)),
            nn.Linear(8, 8),
            lambda x: x[:, :, None, None].expand(-1, -1, 32, 32),
            conv_block(8, 8),
            nn.AvgPool2d(2),
            *HEAD,
        ),
        ["m5 in 32 8"],
    ),
    "a gate at the top level, by modules": (
        lambda: (conv_block(3, 8), nn.AdaptiveAvgPool2d(1), nn.Upsample((32, 32)), conv_block(8, 8), *HEAD),
        ["m3 out 32 8"],
    ),
    "an auto-encoder whose bottleneck is a vector": (
        lambda: (
            conv_block(3, 8, 2),
            conv_block(8, 8, 2),
            nn.Flatten(),
            nn.Linear(512, 512),
            nn.Unflatten(1, (8, 8, 8)),
            nn.ConvTranspose2d(8, 8, 2, 2),
            nn.ConvTranspose2d(8, 3, 2, 2),
        ),
        ["m1 in 16 8", "m2 in 8 8"],
    ),
    "a map of logits, averaged": (
        lambda: (conv_block(3, 8), nn.MaxPool2d(2), conv_block(8, 12), nn.Conv2d(12, 10, 1), lambda x: x.mean((2, 3))),
        ["m1 in 32 8", "m3 in 16 12"],
    ),
    "a map of logits, enlarged": (
        lambda: (conv_block(3, 8), nn.MaxPool2d(2), conv_block(8, 12), nn.Conv2d(12, 5, 1), nn.Upsample((32, 32))),
        ["m1 in 32 8", "m3 in 16 12"],
    ),
    "features that happen to be as many as the logits": (
        lambda: (conv_block(3, 8), nn.MaxPool2d(2), conv_block(8, 10), lambda x: x.mean((2, 3)), nn.Linear(10, 10)),
        ["m1 in 32 8", "m2 out 16 10"],
    ),
    "no head": (
        lambda: (conv_block(3, 8), nn.MaxPool2d(2), conv_block(8, 12)),
        ["m1 in 32 8", "m2 out 16 12"],
    ),
    "a grid on which no layer with weights works": (
        lambda: (conv_block(3, 8), nn.MaxPool2d(2), nn.AdaptiveAvgPool2d(7), nn.Flatten(), nn.Linear(392, 10)),
        ["m1 in 32 8"],
    ),
    "a normalisation is no layer with weights": (
        lambda: (nn.BatchNorm2d(3), conv_block(3, 8, 2), nn.MaxPool2d(2), nn.BatchNorm2d(8), *HEAD),
        ["m2 in 16 8"],
    ),
    "strides in one dimension only": (
        lambda: (conv_block(3, 8), nn.MaxPool2d((2, 1)), conv_block(8, 12), nn.AdaptiveAvgPool2d(1)),
        ["m1 in 32 8", "m3 in 16x32 12"],
    ),
}


@pytest.mark.parametrize("case", CASES)
def test_the_rule_in_its_details(case):
    steps, expected = CASES[case]
    assert brief(find_scales(Chain(*steps()), torch.rand(1, 3, 32, 32))) == expected


class Nested(nn.Module):
    """An encoder-decoder that contains the next smaller one, as in pix2pix."""

    def __init__(self, inner):
        super().__init__()
        self.down, self.inner, self.up = nn.Conv2d(8, 8, 2, 2), inner, nn.ConvTranspose2d(8, 8, 2, 2)

    def forward(self, x):
        return x + self.up(self.inner(self.down(x)))


class Encoder(nn.Module):
    """Returns all its stages, the finest first."""

    def __init__(self, stride):
        super().__init__()
        self.stage1, self.stage2 = conv_block(3, 8, stride), conv_block(8, 12, 2)

    def forward(self, x):
        fine = self.stage1(x)
        return [fine, self.stage2(fine)]


def test_an_encoder_decoder_is_looked_into_wherever_it_is():
    inside = brief(find_scales(Chain(EncoderDecoder()), torch.rand(1, 3, 32, 32)))
    assert inside == ["m0.pool1 in 32 8", "m0.pool2 in 16 12", "m0.bottleneck out 8 16"]
    nested = Chain(conv_block(3, 8), Nested(Nested(conv_block(8, 8))), nn.Conv2d(8, 5, 1))
    assert brief(find_scales(nested, torch.rand(1, 3, 32, 32))) == [
        "m1.down in 32 8",
        "m1.inner.down in 16 8",
        "m1.inner.inner out 8 8",
    ]


@pytest.mark.parametrize(("stride", "fine"), [(1, 32), (2, 16)])
def test_an_encoder_that_returns_all_its_stages_is_looked_into(stride, fine):
    merge = Chain(lambda stages: stages[0] + F.interpolate(stages[1], (fine, fine))[:, :8], nn.Conv2d(8, 5, 1))
    scales = find_scales(Chain(Encoder(stride), merge), torch.rand(1, 3, 32, 32))
    assert brief(scales) == [f"m0.stage2 in {fine} 8", f"m0.stage2 out {fine // 2} 12"]


def test_branches_side_by_side_do_not_end_the_way_down():
    class Branches(nn.Module):
        def __init__(self):
            super().__init__()
            self.stem, self.left = conv_block(3, 8), conv_block(8, 8, 2)
            self.before, self.right = conv_block(8, 8), conv_block(8, 8, 2)
            self.pool, self.last = nn.MaxPool2d(2), nn.Conv2d(16, 8, 1)
            self.head = nn.Linear(8, 10)

        def forward(self, x):
            x = self.stem(x)
            left = self.left(x)
            x = torch.cat([left, self.right(self.before(x))], 1)
            return self.head(self.last(self.pool(x)).mean((2, 3)))

    assert brief(find_scales(Branches(), torch.rand(1, 3, 32, 32))) == ["left in 32 8", "pool in 16 16", "last out 8 8"]


def test_a_branch_that_passes_a_grid_by_does_not_say_what_is_read_there():
    class Bypass(nn.Module):
        def __init__(self):
            super().__init__()
            self.stem, self.left, self.right = conv_block(3, 8), conv_block(8, 8, 2), conv_block(8, 8, 4)
            self.head = nn.Linear(8, 10)

        def forward(self, x):
            x = self.stem(x)
            left = self.left(x)
            return self.head((self.right(x) + F.avg_pool2d(left, 2)).mean((2, 3)))

    expected = ["left in 32 8", "left out 16 8", "right out 8 8"]
    assert brief(find_scales(Bypass(), torch.rand(1, 3, 32, 32))) == expected


def test_tokens_on_a_pyramid_of_grids():
    class MergeTokens(nn.Module):
        def __init__(self, width, side):
            super().__init__()
            self.linear, self.side = nn.Linear(4 * width, 2 * width), side

        def forward(self, x):
            x = x.view(len(x), self.side // 2, 2, self.side // 2, 2, -1).transpose(2, 3).flatten(1, 2).flatten(2)
            return self.linear(x)

    patches = Chain(lambda x: F.unfold(x, 4, stride=4).transpose(1, 2), nn.Linear(48, 8))
    model = Chain(patches, TokenBlock(8), MergeTokens(8, 8), TokenBlock(16), lambda x: x.mean(1), nn.Linear(16, 10))
    assert brief(find_scales(model, torch.rand(1, 3, 32, 32))) == ["m2 in 8 8 tokens", "m3 out 4 16 tokens"]


class Merge(nn.Module):
    """Reduces NHWC by two; of what it does in between, the modules inside see NHWC or, if `permuted`, NCHW."""

    def __init__(self, permuted):
        super().__init__()
        self.permuted = permuted
        self.norm = nn.GroupNorm(1, 8) if permuted else nn.LayerNorm(8)
        self.linear = nn.Linear(8, 4)

    def forward(self, x):
        x = self.norm(x.permute(0, 3, 1, 2)).permute(0, 2, 3, 1) if self.permuted else self.norm(x)
        return self.linear(x[:, ::2, ::2])


class ChannelsLast(nn.Module):
    """Stages in NHWC, of as many channels as the grid has rows: one square image does not tell the layouts apart."""

    def __init__(self, fixed):
        super().__init__()
        self.fixed = fixed
        self.embedding, self.stage, self.merge = nn.Conv2d(3, 8, 4, 4), nn.Linear(8, 8), Merge(permuted=not fixed)

    def forward(self, x):
        if self.fixed and x.shape[2:] != (32, 32):
            raise AssertionError("wrong image size")
        return self.merge(self.stage(self.embedding(x).permute(0, 2, 3, 1))).mean((1, 2))


@pytest.mark.parametrize("fixed", [False, True])
def test_a_cube_is_told_apart_by_a_wider_image_or_by_the_modules(fixed):
    scales = find_scales(ChannelsLast(fixed), torch.rand(1, 3, 32, 32))
    assert brief(scales) == ["merge in 8 8 NHWC", "merge out 4 4 NHWC"]


def test_only_an_ambiguous_network_is_run_twice(monkeypatch):
    passes = []

    def counted(*args, **kwargs):
        passes.append(args[1].shape)
        return trace(*args, **kwargs)

    for module in ("find", "tracing.tensor_refs"):
        monkeypatch.setattr(f"lightning_saliency.scales.{module}.trace", counted)
    find_scales(ConvNet(), torch.rand(4, 3, 32, 32))
    assert passes == [(2, 3, 32, 32)]
    find_scales(ChannelsLast(False), torch.rand(4, 3, 32, 32))
    assert passes[1:] == [(2, 3, 32, 32), (1, 3, 32, 64)]


def test_feature_info_decides_where_a_scale_is_read_but_not_which_scales_there_are():
    model = ConvNet()
    # A stage read elsewhere, one that is not there, and a pooled grid on which no layer works.
    names = ["block1.1", "block2.7", "average", "block3.1"]
    model.feature_info = [{"module": name, "reduction": 1} for name in names]
    expected = ["block1.1 out 32 8", "pool2 in 16 12", "block3.1 out 8 16"]
    assert brief(find_scales(model, torch.rand(1, 3, 32, 32))) == expected
    wrapped = brief(find_scales(Chain(model), torch.rand(1, 3, 32, 32)))
    assert wrapped == [f"m0.{line}" for line in expected]
    model.feature_info = "three stages"
    assert brief(find_scales(model, torch.rand(1, 3, 32, 32)))[0] == "pool1 in 32 8"


def _down(channels, outputs):
    return nn.Sequential(nn.Conv2d(channels, outputs, 3, 2, 1), nn.BatchNorm2d(outputs), nn.ReLU())


def _up(channels, outputs):
    return nn.Sequential(nn.ConvTranspose2d(channels, outputs, 4, 2, 1), nn.ReLU())


class _Wrapper(nn.Module):
    def __init__(self, network):
        super().__init__()
        self.model = network

    def forward(self, images):
        return self.model(images)


COARSE = {
    "heat maps": lambda: nn.Sequential(
        nn.Conv2d(3, 16, 7, 4, 3), _down(16, 32), _down(32, 64), _up(64, 32), nn.Conv2d(32, 5, 1)
    ),
    "depth at stride 2": lambda: nn.Sequential(
        _down(3, 8), _down(8, 16), _down(16, 32), _up(32, 16), _up(16, 8), nn.Conv2d(8, 1, 1)
    ),
    "an encoder inside": lambda: nn.Sequential(
        nn.Sequential(_down(3, 8), _down(8, 16)), nn.Sequential(_up(16, 8), nn.Conv2d(8, 4, 1))
    ),
}


@pytest.mark.parametrize("wraps", [1, 2])
@pytest.mark.parametrize("name", COARSE)
def test_a_wrapper_does_not_hide_an_encoder(name, wraps):
    network = COARSE[name]().eval()
    alone = find_scales(network, torch.rand(1, 3, 64, 64))
    wrapped = network
    for _ in range(wraps):
        wrapped = _Wrapper(wrapped)
    found = find_scales(wrapped, torch.rand(1, 3, 64, 64))
    prefix = "model." * wraps
    assert [(scale.module, scale.read, scale.grid) for scale in found] == [
        (prefix + scale.module, scale.read, scale.grid) for scale in alone
    ]
    assert len(found) >= 2


class _Denoiser(nn.Module):
    def __init__(self):
        super().__init__()
        self.body = nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), nn.ReLU(), nn.Conv2d(8, 6, 3, padding=1), nn.ReLU())
        self.last = nn.Conv2d(6, 3, 3, padding=1)

    def forward(self, images):
        return images - self.last(self.body(images))


FULL = {
    "logits of pixels": (lambda: nn.Sequential(nn.Conv2d(3, 8, 3, 1, 1), nn.ReLU(), nn.Conv2d(8, 5, 1)), 8),
    "a denoiser": (_Denoiser, 6),
    "wrapped": (lambda: _Wrapper(nn.Sequential(nn.Conv2d(3, 8, 3, 1, 1), nn.ReLU(), nn.Conv2d(8, 2, 1))), 8),
}


@pytest.mark.parametrize("name", FULL)
def test_a_network_that_keeps_the_grid_does_not_read_its_output(name):
    make, channels = FULL[name]
    (scale,) = find_scales(make().eval(), torch.rand(1, 3, 32, 32))
    assert scale.grid == (32, 32)
    assert (scale.read, scale.channels) == ("input", channels)
