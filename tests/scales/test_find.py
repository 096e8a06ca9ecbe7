"""Which tensors `find_scales` takes for the scales of a network: the rule, network by network."""

from __future__ import annotations

import importlib.util
import json
import logging
from pathlib import Path
from types import SimpleNamespace
from unittest import mock

import pytest
import torch
import torchvision
from torch import nn

from lightning_saliency.scales.find import NoScalesError, find_scales
from lightning_saliency.scales.scale import Scale, as_grid, share_one_grid
from tests.networks import (
    MLP,
    ConvNet,
    EncoderDecoder,
    FunctionalNet,
    GeluNet,
    SharedModulesNet,
    TokenTransformer,
    brief,
)

# module, read, grid, channels, layout; a copy of what the rule gives for five networks, obtained independently of it.
EXPECTED = {
    "alexnet": ["features.2 in 55 64", "features.5 in 27 192", "features.12 in 13 256"],
    "resnet18": ["maxpool in 112 64", "layer2 in 56 64", "layer3 in 28 128", "layer4 in 14 256", "avgpool in 7 512"],
    "shufflenet_v2_x1_0": [
        "maxpool in 112 24",
        "stage2 in 56 24",
        "stage3 in 28 116",
        "stage4 in 14 232",
        "conv5 out 7 1024",
    ],
    "squeezenet1_1": ["features.2 in 111 64", "features.5 in 55 128", "features.8 in 27 256", "classifier in 13 512"],
    "swin_t": [
        "features.2 in 56 96 NHWC",
        "features.4 in 28 192 NHWC",
        "features.6 in 14 384 NHWC",
        "avgpool in 7 768",
    ],
}
TORCHVISION = [
    "alexnet",
    "vgg16",
    "vgg16_bn",
    "resnet18",
    "resnet50",
    "resnext50_32x4d",
    "wide_resnet50_2",
    "densenet121",
    "googlenet",
    "inception_v3",
    "mobilenet_v2",
    "mobilenet_v3_large",
    "efficientnet_b0",
    "efficientnet_v2_s",
    "regnet_y_400mf",
    "mnasnet1_0",
    "shufflenet_v2_x1_0",
    "squeezenet1_1",
    "convnext_tiny",
    "swin_t",
]


def zeros(tensor, *_args, **_kwargs):
    with torch.no_grad():
        return tensor.zero_()


@pytest.fixture(autouse=True, scope="module")
def _no_time_is_spent_on_random_weights():
    """Only shapes matter here, and drawing the weights takes longer than the forward pass."""
    names = ["kaiming_uniform_", "kaiming_normal_", "trunc_normal_", "normal_", "uniform_", "xavier_uniform_"]
    with mock.patch.multiple(torch.nn.init, **dict.fromkeys(names, zeros)):
        yield


def torchvision_network(name):
    fast = {"init_weights": False} if name in ("googlenet", "inception_v3") else {}
    return getattr(torchvision.models, name)(weights=None, **fast).eval()


def read(model, images, scales):
    """The tensors that the scales mean, by plain hooks."""
    tensors = {}
    handles = []
    for scale in scales:
        module = model.get_submodule(scale.module)
        if scale.read == "input":

            def before(_module, args, scale=scale):
                assert scale not in tensors, "read twice"
                tensors[scale] = args[0].clone()

            handles.append(module.register_forward_pre_hook(before))
        else:

            def after(_module, _args, output, scale=scale):
                assert scale not in tensors, "read twice"
                tensors[scale] = output.clone()

            handles.append(module.register_forward_hook(after))
    with torch.no_grad():
        model(images)
    for handle in handles:
        handle.remove()
    return [tensors[scale] for scale in scales]


@pytest.mark.parametrize("name", TORCHVISION)
def test_torchvision_networks_have_the_expected_scales(name):
    table = json.loads((Path(__file__).parent / "scales.json").read_text())
    assert set(table) == set(TORCHVISION)
    expected = [Scale(**(row | {"grid": tuple(row["grid"])})) for row in table[name]["scales"]]
    assert list(find_scales(torchvision_network(name), torch.rand(1, *table[name]["input"]))) == expected


@pytest.mark.parametrize("name", EXPECTED)
def test_five_torchvision_networks_have_the_scales_written_here(name):
    assert brief(find_scales(torchvision_network(name), torch.rand(1, 3, 224, 224))) == EXPECTED[name]


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("swin_v2_t", ["features.2 in 56 96 NHWC", "features.4 in 28 192 NHWC", "features.6 in 14 384 NHWC"]),
        ("maxvit_t", ["blocks.0 in 112 64", "blocks.1 in 56 64", "blocks.2 in 28 128", "blocks.3 in 14 256"]),
    ],
)
def test_window_partitions_are_no_scales(name, expected):
    last = {"swin_v2_t": "avgpool in 7 768", "maxvit_t": "classifier in 7 512"}[name]
    assert brief(find_scales(torchvision_network(name), torch.rand(1, 3, 224, 224))) == [*expected, last]


def test_a_vit_gives_four_blocks_spread_in_depth_and_says_so(caplog):
    with caplog.at_level(logging.INFO, logger="lightning_saliency.scales.find"):
        scales = find_scales(torchvision_network("vit_b_16"), torch.rand(1, 3, 224, 224))
    assert brief(scales) == [f"encoder.layers.encoder_layer_{n} out 14 768 tokens+1" for n in (2, 5, 8, 11)]
    assert share_one_grid(scales)
    assert "VisionTransformer has one grid, 14×14" in caplog.text
    assert not share_one_grid(scales[:1])


@pytest.mark.parametrize(
    ("network", "expected"),
    [
        (ConvNet, ["pool1 in 32 8", "pool2 in 16 12", "average in 8 16"]),
        (GeluNet, ["down in 16 8", "average in 8 16"]),
        (FunctionalNet, ["conv1 out 32 8", "conv2 out 16 12", "conv3 out 8 16"]),
        (SharedModulesNet, ["conv1 out 32 8", "conv2 out 16 12"]),
        (EncoderDecoder, ["pool1 in 32 8", "pool2 in 16 12", "bottleneck out 8 16"]),
        (TokenTransformer, [f"blocks.{n} out 4 16 tokens+1" for n in (0, 2, 3, 5)]),
    ],
)
def test_small_networks_have_the_expected_scales(network, expected):
    assert brief(find_scales(network(), torch.rand(2, 3, 32, 32))) == expected


@pytest.mark.parametrize(
    "network", [ConvNet, GeluNet, FunctionalNet, SharedModulesNet, EncoderDecoder, TokenTransformer]
)
@pytest.mark.parametrize("shape", [(1, 3, 32, 32), (3, 1, 48, 32), (2, 12, 32, 56)])
def test_a_scale_is_what_is_read_there(network, shape):
    model, images = network(channels=shape[1]), torch.rand(shape)
    scales = find_scales(model, images)
    for scale, tensor in zip(scales, read(model, images, scales), strict=True):
        grid, dim = as_grid(tensor, scale)
        assert grid.shape[dim] == scale.channels
        assert tuple(size for axis, size in enumerate(grid.shape) if axis not in (0, dim)) == scale.grid
        assert scale.grid[0] * shape[3] == scale.grid[1] * shape[2]


@pytest.mark.shared
def test_the_cifar_resnet_ends_with_the_output_of_its_last_stage(shared_data):
    spec = importlib.util.spec_from_file_location("cifar_resnet", shared_data / "cifar_resnet.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    scales = find_scales(module.CifarResNet(), torch.rand(1, 3, 32, 32))
    assert brief(scales) == ["layer2 in 32 16", "layer3 in 16 32", "layer3 out 8 64"]


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("resnet18", ["act1 out 64 64", *(f"layer{n + 1} out {32 >> n} {64 << n}" for n in range(4))]),
        ("convnext_atto", [f"stages.{n} out {32 >> n} {40 << n}" for n in range(4)]),
        (
            "efficientnet_b0",
            [f"blocks.{line}" for line in ("0 out 64 16", "1 out 32 24", "2 out 16 40", "4 out 8 112", "6 out 4 320")],
        ),
    ],
)  # fmt: skip
def test_timm_networks_are_read_where_their_feature_info_says(name, expected):
    timm = pytest.importorskip("timm")
    assert brief(find_scales(timm.create_model(name), torch.rand(1, 3, 128, 128))) == expected


@pytest.mark.parametrize(("options", "prefix"), [({}, "+1"), ({"reg_tokens": 4}, "+5"), ({"class_token": False}, "")])
def test_a_timm_vit_gives_four_blocks_and_its_prefix_tokens(options, prefix):
    vit = pytest.importorskip("timm.models.vision_transformer")
    options |= {"global_pool": "avg"} if options.get("class_token") is False else {}
    model = vit.VisionTransformer(img_size=64, patch_size=8, embed_dim=32, depth=12, num_heads=2, **options)
    expected = [f"blocks.{n} out 8 32 tokens{prefix}" for n in (2, 5, 8, 11)]
    assert brief(find_scales(model, torch.rand(1, 3, 64, 64))) == expected


def test_a_network_without_a_grid_has_no_scales():
    with pytest.raises(NoScalesError, match=r"No scales found in MLP for an input of \[1, 3, 32, 32\].*named_scales"):
        find_scales(MLP(), torch.rand(2, 3, 32, 32))
    with pytest.raises(NoScalesError):
        find_scales(nn.AdaptiveAvgPool2d(1), torch.rand(2, 3, 32, 32))


@pytest.mark.parametrize(
    ("example", "error", "message"),
    [
        (None, TypeError, "Got example_input of type NoneType. Allowed is a tensor of images"),
        (torch.rand(3, 32, 32), ValueError, r"Got example_input \[3, 32, 32\].*image\[None\]"),
        (torch.rand(0, 3, 32, 32), ValueError, r"Got example_input \[0, 3, 32, 32\]"),
    ],
)
def test_what_is_no_batch_of_images_is_refused(example, error, message):
    with pytest.raises(error, match=message):
        find_scales(ConvNet(), example)


def test_lazy_networks_and_other_things_are_refused():
    lazy = nn.Sequential(nn.LazyConv2d(8, 3), nn.ReLU())
    with pytest.raises(ValueError, match=r"parameters 0.weight, 0.bias are lazy"):
        find_scales(lazy, torch.rand(1, 3, 8, 8))
    assert isinstance(lazy[0], nn.LazyConv2d)
    with pytest.raises(TypeError, match=r"Got model of type function. Allowed is a torch.nn.Module"):
        find_scales(brief, torch.rand(1, 3, 8, 8))


@pytest.mark.parametrize(
    "returned",
    [
        lambda logits: {"loss": None, "logits": logits},
        lambda logits: (logits, [logits]),
        lambda logits: SimpleNamespace(logits=logits),
    ],
)
def test_a_network_and_its_parts_may_return_what_they_like(returned):
    class Wrapper(nn.Module):
        def __init__(self, inner):
            super().__init__()
            self.inner = inner

        def forward(self, x):
            return returned(self.inner(x))

    expected = ["pool1 in 32 8", "pool2 in 16 12", "average in 8 16"]
    model = Wrapper(ConvNet())
    assert brief(find_scales(model, torch.rand(1, 3, 32, 32))) == [f"inner.{line}" for line in expected]
    assert brief(find_scales(Wrapper(model), torch.rand(1, 3, 32, 32))) == [f"inner.inner.{line}" for line in expected]
