"""Networks with their maps written to files: the same values, each convolution once."""

import importlib.util
import os
import shutil

import pytest
import torch
from torch import nn
from torchvision.models import convnext, mobilenet_v2, resnet18

from lightning_saliency.cli import main
from lightning_saliency.deployment import ExportError, SaliencyModule, export_network
from lightning_saliency.deployment import export as exporting
from lightning_saliency.explainers import SMOE
from lightning_saliency.functional.statistics import smoe_scale
from tests.networks import ConvNet, GeluNet

ONNX = ("onnx", "onnxscript", "onnxruntime")
needs_onnx = pytest.mark.skipif(
    any(importlib.util.find_spec(name) is None for name in ONNX), reason="the extra `export` is not installed"
)
# A minute of tracing and compiling, for networks of more layers of the same kinds.
at_length = pytest.mark.skipif(not os.environ.get("ALL_COMBINATIONS"), reason="ALL_COMBINATIONS is not set")


def two_scales():
    """A layer is read behind BatchNorm and ReLU, as in DenseNet."""
    layers = [nn.Conv2d(3, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU(inplace=True), nn.MaxPool2d(2)]
    return nn.Sequential(*layers, nn.Conv2d(8, 9, 3, 2, 1), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(9, 4))


def small_convnext(num_classes):
    blocks = [convnext.CNBlockConfig(8, 16, 1), convnext.CNBlockConfig(16, 32, 1), convnext.CNBlockConfig(32, None, 1)]
    return convnext.ConvNeXt(blocks, num_classes=num_classes)


def check(returned, network, images):
    """Output and map are the network's own and the explainer's."""
    output, map_ = returned
    with torch.no_grad():
        torch.testing.assert_close(output, network.eval()(images), rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(map_, SMOE(network)(images), rtol=0, atol=1e-4)


@pytest.mark.parametrize("build", [small_convnext, pytest.param(resnet18, marks=at_length)])
def test_a_graph_of_one_pass_for_batches_of_any_length(build, tmp_path):
    network, images = build(num_classes=5), torch.rand(2, 3, 64, 64)
    modes = [module.training for module in network.modules()]
    exported = export_network(network, tmp_path / "new" / "net.pt2", images)
    assert [module.training for module in network.modules()] == modes
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in network.modules())
    assert all(parameter.requires_grad for parameter in network.parameters())
    assert exported.convolutions == sum(isinstance(module, nn.Conv2d) for module in network.modules())
    assert exported.format == "torch"
    assert exported.dynamic_batch
    assert max(exported.output_difference, exported.map_difference) < 1e-4
    assert [path.name for path in exported.path.parent.iterdir()] == ["net.pt2"]
    images = torch.rand(3, 3, 64, 64)
    check(torch.export.load(exported.path).module()(images), network, images)


def test_a_wrapper_that_explains_runs_the_network_twice():
    """What the module is for; the counting can see a second pass."""
    network, images = two_scales().eval(), torch.rand(2, 3, 16, 16)
    module = SaliencyModule(network, images)

    class Twice(nn.Module):
        def __init__(self):
            super().__init__()
            self.module = module

        def forward(self, images):
            return module.network(images), module(images)[1]

    assert exporting._convolutions(torch.export.export(Twice(), (images,), strict=False)) == 4
    assert exporting._convolutions(torch.export.export(module, (images,), strict=False)) == 2


@pytest.mark.parametrize(("channels", "dtype"), [(1, torch.float32), (3, torch.float64), (18, torch.float32)])
def test_the_exported_statistic(channels, dtype):
    class Module(nn.Module):
        def forward(self, activations):
            return smoe_scale(activations)

    activations = torch.randn(2, channels, 5, 4).to(dtype) * 3
    activations[0, :, 0, 0] *= 1e6
    activations[1, :, 1, 1] = 0
    program = torch.export.export(Module(), (activations,), strict=False)
    torch.testing.assert_close(program.module()(activations), smoe_scale(activations), rtol=2e-5, atol=2e-6)
    # Products of four stay finite.
    huge = torch.full_like(activations, 1e30)
    assert bool(program.module()(huge).isfinite().all())
    assert not any("view.dtype" in str(node.target) for node in program.graph.nodes)


@needs_onnx
def test_onnx(tmp_path):
    import onnxruntime

    network, images = two_scales(), torch.rand(1, 3, 16, 16)
    exported = export_network(network, tmp_path / "net.onnx", images)
    assert exported.dynamic_batch
    assert max(exported.output_difference, exported.map_difference) < 1e-4
    assert [path.name for path in tmp_path.iterdir()] == ["net.onnx"]
    session = onnxruntime.InferenceSession(exported.path)
    assert [each.name for each in session.get_outputs()] == ["output", "map"]
    for batch in (1, 5):
        images = torch.rand(batch, 3, 16, 16)
        returned = session.run(None, {"images": images.numpy()})
        check(map(torch.from_numpy, returned), network, images)


@needs_onnx
@at_length
@pytest.mark.slow
def test_onnx_of_a_larger_network(tmp_path):
    network, images = mobilenet_v2(num_classes=5), torch.rand(2, 3, 64, 64)
    exported = export_network(network, tmp_path / "net.onnx", images)
    assert max(exported.output_difference, exported.map_difference) < 1e-4
    assert exported.dynamic_batch
    assert exported.convolutions == 52


@at_length
@pytest.mark.slow
@pytest.mark.skipif(shutil.which("g++") is None, reason="AOTInductor needs a C++ compiler")
def test_aot_inductor(tmp_path):
    network, images = two_scales(), torch.rand(2, 3, 16, 16)
    exported = export_network(network, tmp_path / "net.pt2", images, format="aot_inductor")
    assert max(exported.output_difference, exported.map_difference) < 1e-4
    images = torch.rand(3, 3, 16, 16)
    check(torch._inductor.aoti_load_package(str(exported.path))(images), network, images)


def test_a_network_whose_code_depends_on_the_length_of_the_batch(tmp_path):
    class Averaging(nn.Module):
        def __init__(self):
            super().__init__()
            self.inner = two_scales()

        def forward(self, images):
            return self.inner(images) * (2.0 if images.shape[0] == 2 else 1.0)

    exported = export_network(Averaging(), tmp_path / "net.pt2", torch.rand(2, 3, 16, 16))
    assert not exported.dynamic_batch
    assert max(exported.output_difference, exported.map_difference) < 1e-4


class Returning(nn.Module):
    """A network that returns what a function makes of images and logits."""

    def __init__(self, returned):
        super().__init__()
        self.inner = two_scales()
        self.returned = returned

    def forward(self, images):
        return self.returned(images, self.inner(images))


def test_one_image_of_a_network_whose_code_fixes_the_length_of_the_batch(tmp_path):
    network = Returning(lambda images, logits: logits + torch.ones(int(images.shape[0]), 1))
    images = torch.rand(1, 3, 16, 16)
    exported = export_network(network, tmp_path / "net.pt2", images)
    assert not exported.dynamic_batch
    check(torch.export.load(exported.path).module()(images), network, images)


@pytest.mark.parametrize(
    "returned",
    [
        lambda images, logits: (None, logits, None),
        lambda images, logits: {"logits": logits, "size": (images.shape[2], images.shape[3]), "scale": 0.5},
    ],
)
def test_outputs_that_are_no_tensors_are_not_compared(returned, tmp_path):
    exported = export_network(Returning(returned), tmp_path / "net.pt2", torch.rand(2, 3, 16, 16))
    assert exported.dynamic_batch
    assert max(exported.output_difference, exported.map_difference) < 1e-4


@needs_onnx
def test_onnx_leaves_out_what_is_none_and_names_the_others(tmp_path):
    import onnxruntime

    network = Returning(lambda images, logits: (None, logits, images.mean()))
    exported = export_network(network, tmp_path / "net.onnx", torch.rand(2, 3, 16, 16))
    outputs = onnxruntime.InferenceSession(exported.path).get_outputs()
    assert [each.name for each in outputs] == ["output_0", "output_1", "map"]
    assert max(exported.output_difference, exported.map_difference) < 1e-4


def test_what_does_not_fit_is_said(tmp_path, monkeypatch):
    network, images = GeluNet(), torch.rand(2, 3, 32, 32)
    for name, format, message in (
        ("net.pth", None, r"Allowed are names that end in \.pt2 or \.onnx"),
        ("net.pt2", "onnx", r"Allowed are 'torch', 'aot_inductor' for \.pt2; name the file net\.onnx"),
        ("net.onnx", "torch", r"name the file net\.pt2"),
        ("net.pt2", "tflite", r"Got format='tflite'"),
    ):
        with pytest.raises(ValueError, match=message):
            export_network(network, tmp_path / name, images, format=format)
    with pytest.raises(ValueError, match=r"Got images \[3, 32, 32\]"):
        export_network(network, tmp_path / "net.pt2", images[0])

    class Branching(ConvNet):
        def forward(self, images):
            return super().forward(images) if bool(images.sum() > 0) else images

    with pytest.raises(ExportError, match="torch cannot trace Branching with its map"):
        export_network(Branching(), tmp_path / "net.pt2", images)
    assert not list(tmp_path.iterdir())
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ImportError, match=r"ONNX needs onnx and onnxscript.*lightning-saliency\[export\]"):
        export_network(network, tmp_path / "net.onnx", images)


def test_the_command(tmp_path, capsys):
    path = tmp_path / "small.pt2"
    arguments = ["export", "--model", "small_cnn", "--num-classes", "3", "--size", "32", "48", "--weights", "1,1,2,2"]
    assert main([*arguments, "--output", str(path)]) == 0
    printed = capsys.readouterr().out
    assert f"{path}: torch" in printed
    assert "any number of images [3, 32, 48]" in printed
    output, map_ = torch.export.load(path).module()(torch.rand(4, 3, 32, 48))
    assert output.shape == (4, 3)
    assert map_.shape == (4, 32, 48)
    assert main([*arguments, "--output", str(tmp_path / "small.bin")]) == 2
    assert "end in .pt2 or .onnx" in capsys.readouterr().err
