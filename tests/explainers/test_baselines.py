"""The baselines by name: what captum and torchcam compute, with nothing left in the network or the generators."""

from __future__ import annotations

import copy
import importlib
import importlib.util
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torchcam import methods as torchcam
from torchvision.models import VisionTransformer, mobilenet_v2, resnet18, squeezenet1_0

from lightning_saliency.explainers import (
    EXPLAINERS,
    XRAI,
    CaptumExplainer,
    Explainer,
    TorchcamExplainer,
    build_explainer,
    find_explainer,
)
from lightning_saliency.explainers.libraries.baselines import CAPTUM_METHODS
from lightning_saliency.functional.masking import resize_maps
from lightning_saliency.functional.normalization import min_max
from lightning_saliency.scales.scale import Scale


def network() -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(3, 6, 3),
        nn.BatchNorm2d(6),
        nn.ReLU(inplace=True),
        nn.MaxPool2d(2),
        nn.Conv2d(6, 8, 3),
        nn.ReLU(inplace=True),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Dropout(0.5),
        nn.Linear(8, 5),
    )


def images(batch: int = 3) -> Tensor:
    return torch.randn(batch, 3, 16, 16)


TARGETS = torch.tensor([4, 0, 2])


def summed(attributions: Tensor) -> Tensor:
    return min_max(attributions.detach().abs().sum(dim=1))


# --- what captum computes


def test_the_gradient_is_autograds() -> None:
    model, inputs = network().eval(), images()
    leaf = inputs.clone().requires_grad_()
    model(leaf).gather(1, TARGETS[:, None]).sum().backward()
    assert leaf.grad is not None
    torch.testing.assert_close(CaptumExplainer(model)(inputs, TARGETS), summed(leaf.grad))
    torch.testing.assert_close(CaptumExplainer(model, "InputXGradient")(inputs, TARGETS), summed(leaf.grad * inputs))


def test_integrated_gradients_are_the_mean_gradient_on_the_way_from_black() -> None:
    model, inputs = network().eval(), images()
    total = torch.zeros_like(inputs)
    for alpha, weight in zip(*(numbers.tolist() for numbers in gauss_legendre(12)), strict=True):
        leaf = (alpha * inputs).requires_grad_()
        model(leaf).gather(1, TARGETS[:, None]).sum().backward()
        total += weight * leaf.grad
    found = CaptumExplainer(model, "IntegratedGradients", n_steps=12)(inputs, TARGETS)
    torch.testing.assert_close(found, summed(total * inputs), atol=1e-4, rtol=0)


def gauss_legendre(steps: int) -> tuple[Tensor, Tensor]:
    """Nodes and weights on [0, 1]."""
    polynomial = importlib.import_module("numpy.polynomial.legendre")
    nodes, weights = polynomial.leggauss(steps)
    return torch.tensor((nodes + 1) / 2), torch.tensor(weights / 2)


def test_occlusion_by_loops() -> None:
    model, inputs = network().eval(), images(2)
    explainer = CaptumExplainer(model, "Occlusion", sliding_window_shapes=(3, 4, 8), strides=(3, 4, 8))
    with torch.no_grad():
        score = model(inputs)[:, 1]
        expected = torch.zeros(2, 16, 16)
        for top in range(0, 16, 4):
            for left in range(0, 16, 8):
                occluded = inputs.clone()
                occluded[:, :, top : top + 4, left : left + 8] = 0
                drop = score - model(occluded)[:, 1]
                expected[:, top : top + 4, left : left + 8] = 3 * drop.abs()[:, None, None]
    torch.testing.assert_close(explainer(inputs, 1), min_max(expected), atol=1e-5, rtol=0)
    default = CaptumExplainer(model, "Occlusion")(inputs, 1)
    assert default.shape == (2, 16, 16)
    assert default.amax() == 1


class GuidedReLU(torch.autograd.Function):
    """Passes on positive gradients of positive inputs only."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        ctx.save_for_backward(x)
        return x.clamp(min=0)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        (x,) = ctx.saved_tensors
        return gradient.clamp(min=0) * (x > 0)


class Guided(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return GuidedReLU.apply(x)


class PreActivation(nn.Module):
    """The ReLU's input also goes round it; one ReLU is shared by both blocks."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 4, 3, padding=1)
        self.convs = nn.ModuleList(nn.Conv2d(4, 4, 3, padding=1) for _ in range(2))
        self.relu = nn.ReLU()
        self.head = nn.Linear(4, 10)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        for conv in self.convs:
            x = x + conv(self.relu(x))
        return self.head(x.mean(dim=(2, 3)))


@pytest.mark.parametrize("build", [resnet18, squeezenet1_0, PreActivation])
def test_guided_backprop_by_definition(build: Callable[[], nn.Module]) -> None:
    """With shared and in-place ReLUs (ResNet, SqueezeNet) and with a way round them."""
    torch.manual_seed(0)
    model = build().train()
    in_place = [module.inplace for module in model.modules() if isinstance(module, nn.ReLU)]
    inputs = torch.randn(2, 3, 64, 64)
    found = CaptumExplainer(model, "GuidedBackprop")(inputs, 3)
    assert [module.inplace for module in model.modules() if isinstance(module, nn.ReLU)] == in_place
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in model.modules())
    for module in list(model.modules()):
        for name, child in list(module.named_children()):
            if isinstance(child, nn.ReLU):
                setattr(module, name, Guided())
    leaf = inputs.clone().requires_grad_()
    model.eval()(leaf)[:, 3].sum().backward()
    assert leaf.grad is not None
    torch.testing.assert_close(found, summed(leaf.grad), atol=1e-4, rtol=0)


def test_guided_backprop_needs_relu_modules() -> None:
    with pytest.raises(ValueError, match=r"method='GuidedBackprop' for a network without nn\.ReLU modules"):
        CaptumExplainer(mobilenet_v2(weights=None), "GuidedBackprop")
    assert CaptumExplainer(mobilenet_v2(weights=None), "Saliency")(torch.randn(1, 3, 32, 32)).amax() == 1


@pytest.mark.filterwarnings("ignore:Setting backward hooks")
@pytest.mark.parametrize("tunnel", ["smoothgrad", "smoothgrad_sq", "vargrad"])
@pytest.mark.parametrize(
    ("method", "options"), [("Saliency", {}), ("GuidedBackprop", {}), ("IntegratedGradients", {"n_steps": 5})]
)
@pytest.mark.parametrize("stdevs", [None, 0.3])
def test_noise_tunnels_image_by_image(tunnel: str, method: str, options: dict[str, Any], stdevs: float | None) -> None:
    model, inputs = network().eval(), images() * torch.tensor([1.0, 3.0, 0.2]).view(3, 1, 1, 1)
    found = CaptumExplainer(model, method, noise_tunnel=tunnel, samples=4, stdevs=stdevs, seed=7, **options)(
        inputs, TARGETS
    )
    attribution = getattr(importlib.import_module("captum.attr"), method)(model)
    for image, target, map_ in zip(inputs, TARGETS.tolist(), found, strict=True):
        generator = torch.Generator().manual_seed(7)
        deviation = 0.15 * float(image.max() - image.min()) if stdevs is None else stdevs
        samples = []
        for _ in range(4):
            noisy = image[None] + deviation * torch.randn(1, 3, 16, 16, generator=generator)
            samples.append(attribution.attribute(noisy.requires_grad_(), target=target, **options).detach())
        stacked = torch.stack(samples)
        expected = {
            "smoothgrad": stacked.mean(dim=0),
            "smoothgrad_sq": stacked.square().mean(dim=0),
            "vargrad": stacked.var(dim=0, correction=0),
        }[tunnel]
        # captum 0.7 integrates in float64.
        torch.testing.assert_close(map_, summed(expected)[0].float(), atol=1e-4, rtol=0)


def test_noise_is_relative_to_each_images_range_and_comes_from_the_seed() -> None:
    model, inputs = network(), images(1)
    span = float(inputs.max() - inputs.min())
    explainer = CaptumExplainer(model, noise_tunnel="smoothgrad", samples=2)
    first = explainer(inputs, 3)
    torch.rand(5)
    assert torch.equal(first, explainer(inputs, 3))
    absolute = CaptumExplainer(model, noise_tunnel="smoothgrad", samples=2, stdevs=0.15 * span)
    torch.testing.assert_close(first, absolute(inputs, 3))
    brighter = torch.cat([inputs, 10 * images(1)])
    torch.testing.assert_close(explainer(brighter, 3)[:1], first)
    other = CaptumExplainer(model, noise_tunnel="smoothgrad", samples=2, seed=1)
    assert not torch.allclose(first, other(inputs, 3))
    double = CaptumExplainer(copy.deepcopy(model).double(), noise_tunnel="smoothgrad", samples=2)
    torch.testing.assert_close(double(inputs.double(), 3), first, atol=1e-4, rtol=0)
    assert CaptumExplainer(model, noise_tunnel="smoothgrad").samples == 15


FEW: dict[str, dict[str, Any]] = {
    "gradient_smoothgrad_sq": {"samples": 3},
    "guided_backprop_smoothgrad_sq": {"samples": 3},
    "integrated_gradients": {"n_steps": 5},
    "integrated_gradients_smoothgrad_sq": {"n_steps": 5, "samples": 3},
    "occlusion": {"sliding_window_shapes": (3, 4, 4), "strides": (3, 3, 3)},
}
BASELINES = [name for name, build in EXPLAINERS.items() if getattr(build, "func", None) is CaptumExplainer]


@pytest.mark.parametrize("name", BASELINES)
def test_a_batch_of_eight_equals_eight_images(name: str) -> None:
    model, inputs = network(), images(8) * torch.arange(1, 9).view(8, 1, 1, 1)
    targets = torch.arange(8) % 5
    explainer = build_explainer(name, model, **FEW.get(name, {}))
    together = explainer(inputs, targets)
    alone = torch.cat([explainer(inputs[i : i + 1], targets[i : i + 1]) for i in range(8)])
    torch.testing.assert_close(together, alone, atol=1e-4, rtol=0)
    torch.testing.assert_close(explainer(inputs.flip(0), targets.flip(0)).flip(0), together, atol=1e-4, rtol=0)


@pytest.mark.parametrize(
    ("name", "passes"),
    [
        ("gradient", [3]),
        ("gradient_smoothgrad_sq", [3, 3, 3]),
        ("integrated_gradients", [15]),
        ("integrated_gradients_smoothgrad_sq", [15, 15, 15]),
    ],
)
def test_images_of_each_pass(name: str, passes: list[int]) -> None:
    model, seen = network(), []
    model.register_forward_pre_hook(lambda _, args: seen.append(len(args[0])))
    build_explainer(name, model, **FEW.get(name, {}))(images(), TARGETS)
    assert seen == passes


# --- what torchcam computes


@pytest.mark.parametrize("name", ["GradCAM", "GradCAMpp", "LayerCAM", "ScoreCAM", "SmoothGradCAMpp"])
def test_torchcam_by_name(name: str) -> None:
    model, inputs = network().eval(), images()
    torch.manual_seed(0)
    with getattr(torchcam, name)(model, "5") as extractor:
        [raw] = extractor(TARGETS.tolist(), model(inputs), normalized=False)
    model.train()
    found = TorchcamExplainer(model, name, "5")(inputs, TARGETS)
    torch.testing.assert_close(found, min_max(resize_maps(raw.detach(), (16, 16))), atol=1e-5, rtol=0)


@pytest.mark.skipif(not hasattr(torchcam, "LeGrad"), reason="torchcam has LeGrad from 0.5 on")
def test_torchcams_legrad() -> None:
    model = VisionTransformer(
        image_size=32, patch_size=8, num_layers=2, num_heads=2, hidden_dim=32, mlp_dim=64, num_classes=5
    ).eval()
    nn.init.normal_(model.heads[-1].weight, std=0.5)
    inputs, block = torch.randn(3, 3, 32, 32), "encoder.layers.encoder_layer_1"
    with torchcam.LeGrad(model, block) as extractor:
        [raw] = extractor(TARGETS.tolist(), model(inputs), normalized=False)
    explainer = build_explainer(
        "torchcam:LeGrad",
        model,
        layer=block,
        score_projection=lambda tokens: model.heads(model.encoder.ln(tokens.mean(dim=1))),
    )
    expected = min_max(resize_maps(raw.detach(), (32, 32)))
    torch.testing.assert_close(explainer(inputs, TARGETS), expected, atol=1e-4, rtol=0)


def test_torchcam_options_and_layers() -> None:
    model, inputs = network(), images()
    few = TorchcamExplainer(model, layer="5", num_samples=1, std=0.5)(inputs, TARGETS)
    assert not torch.equal(few, TorchcamExplainer(model, layer="5")(inputs, TARGETS))
    scale = Scale("5", "output", (5, 5), 8, "NCHW")
    assert torch.equal(few, TorchcamExplainer(model, layer=scale, num_samples=1, std=0.5)(inputs, TARGETS))
    assert TorchcamExplainer(model)(inputs).shape == (3, 16, 16)
    for wrong in (Scale("5", "input", (5, 5), 8, "NCHW"), Scale("5", "output", (5, 5), 8, "NHWC")):
        with pytest.raises(ValueError, match=r"for torchcam. Allowed are outputs"):
            TorchcamExplainer(model, layer=wrong)


# --- both


BUILDS: dict[str, Callable[[nn.Module], Explainer]] = {
    "gradient": lambda model: CaptumExplainer(model, noise_tunnel="smoothgrad", samples=2),
    "guided": lambda model: CaptumExplainer(model, "GuidedBackprop"),
    "integrated": lambda model: CaptumExplainer(model, "IntegratedGradients", n_steps=4),
    "occlusion": lambda model: CaptumExplainer(model, "Occlusion"),
    "torchcam": lambda model: TorchcamExplainer(model, layer="5"),
    "scorecam": lambda model: TorchcamExplainer(model, "ScoreCAM", layer="5"),
}


@pytest.mark.parametrize("build", BUILDS.values(), ids=BUILDS.keys())
def test_nothing_is_left_behind(build: Callable[[nn.Module], Explainer]) -> None:
    model, inputs = network().train(), images()
    model(inputs).sum().backward()
    model[1].eval()
    flags = [module.training for module in model.modules()]
    gradients = [parameter.grad for parameter in model.parameters()]
    copies = [gradient.clone() for gradient in gradients]
    values = [value.clone() for value in model.state_dict().values()]
    state = torch.get_rng_state()
    explainer = build(model)

    def fail(*_: Any) -> None:
        raise FloatingPointError("on purpose")

    for failing in (False, True):
        handle = model[9].register_forward_hook(fail) if failing else None
        if handle is None:
            explainer(inputs, TARGETS)
        else:
            with pytest.raises(FloatingPointError):
                explainer(inputs, TARGETS)
            handle.remove()
        assert [module.training for module in model.modules()] == flags
        assert all(parameter.requires_grad for parameter in model.parameters())
        for parameter, gradient, copied in zip(model.parameters(), gradients, copies, strict=True):
            assert parameter.grad is gradient
            assert torch.equal(gradient, copied)
        for now, then in zip(model.state_dict().values(), values, strict=True):
            assert torch.equal(now, then)
        assert torch.equal(torch.get_rng_state(), state)
        assert not any(
            hooks for module in model.modules() for name, hooks in vars(module).items() if name.endswith("_hooks")
        )


@pytest.mark.parametrize("build", BUILDS.values(), ids=BUILDS.keys())
@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode])
def test_grad_modes_and_the_predicted_class(build: Callable[[nn.Module], Explainer], mode: Callable[[], Any]) -> None:
    model, inputs = network().eval(), images()
    predicted = model(inputs).argmax(dim=1)
    expected = build(model)(inputs, predicted)
    with mode():
        torch.testing.assert_close(build(model)(inputs.clone()), expected)
    assert expected.shape == (3, 16, 16)
    assert (expected.amax(dim=(1, 2)) == 1).any()


def test_gradients_are_kept_from_extractors_that_zero_them(monkeypatch: pytest.MonkeyPatch) -> None:
    """As those of torchcam 0.4 do."""

    class Zeroing(torchcam.GradCAM):
        def _backprop(self, *args: Any, **kwargs: Any) -> None:
            assert not any(module.training for module in self.model.modules())
            self.model.zero_grad(set_to_none=False)
            super()._backprop(*args, **kwargs)

    monkeypatch.setattr(torchcam, "GradCAM", Zeroing)
    model, inputs = network(), images()
    model(inputs).sum().backward()
    gradient = model[0].weight.grad
    copied = gradient.clone()
    TorchcamExplainer(model, "GradCAM", layer="5")(inputs)
    assert model[0].weight.grad is gradient
    assert torch.equal(gradient, copied)


def test_other_outputs() -> None:
    class Wrapped(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner = network()

        def forward(self, x: Tensor) -> dict[str, Tensor]:
            return {"a": x, "b": self.inner(x)}

    model, inputs = Wrapped(), images()
    for explainer, plain in (
        (CaptumExplainer(model, output=lambda returned: returned["b"]), CaptumExplainer(model.inner)),
        (
            TorchcamExplainer(model, layer="inner.5", output=lambda returned: returned["b"]),
            TorchcamExplainer(model.inner, layer="5"),
        ),
    ):
        assert torch.equal(explainer(inputs, TARGETS), plain(inputs, TARGETS))
        with pytest.raises(ValueError, match="5 classes"):
            explainer(inputs, 5)


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (
            lambda model: CaptumExplainer(model, "LayerGradCam"),
            "Got method='LayerGradCam'. Allowed are 'Saliency', ",
        ),
        (
            lambda model: CaptumExplainer(model, noise_tunnel="sg"),
            "Allowed are None, 'smoothgrad', 'smoothgrad_sq', 'vargrad'",
        ),
        (lambda model: CaptumExplainer(model, samples=0), "Got samples=0. Allowed are whole numbers from 1"),
        (
            lambda model: CaptumExplainer(model, stdevs=-1.0),
            "Got stdevs=-1.0. Allowed are numbers from 0",
        ),
        (
            lambda model: TorchcamExplainer(model, "gradcam"),
            r"method='gradcam'\. Allowed are .*GradCAM.*use one of them",
        ),
    ],
)
def test_wrong_options(build: Callable[[nn.Module], Explainer], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        build(network())


@pytest.mark.parametrize(
    ("build", "package"), [(CaptumExplainer, "captum"), (TorchcamExplainer, "torchcam"), (XRAI, "saliency")]
)
def test_an_absent_package_is_named_with_its_extra(
    build: Callable[[nn.Module], Explainer], package: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def absent(name: str) -> Any:
        raise ImportError(f"No module named {name!r}")

    monkeypatch.setattr(importlib, "import_module", absent)
    with pytest.raises(ImportError, match=rf"needs {package}.*lightning-saliency\[baselines\]"):
        build(network())


# --- by name


def test_every_explainer_by_name() -> None:
    model, inputs = network(), images(2)
    small: dict[str, dict[str, Any]] = {"rise": {"masks": 8}, "xrai": {"steps": 2}, **FEW}
    for name in (*EXPLAINERS, "torchcam:LayerCAM"):
        if name == "xrai" and importlib.util.find_spec("saliency") is None:
            continue
        maps = build_explainer(name, model, **small.get(name, {}))(inputs, torch.tensor([1, 3]))
        assert maps.shape == (2, 16, 16), name
        assert maps.dtype is torch.float32, name
        assert 0 <= maps.amin() <= maps.amax() <= 1, name
    assert set(CAPTUM_METHODS) >= {"Saliency", "GuidedBackprop", "IntegratedGradients", "Occlusion"}


def test_the_squared_smoothgrads_are_different_explainers() -> None:
    model, inputs = network(), images(2)
    for name in ("gradient", "guided_backprop"):
        plain, squared = build_explainer(name, model), build_explainer(f"{name}_smoothgrad_sq", model)
        assert isinstance(squared, CaptumExplainer)
        assert (squared.noise_tunnel, squared.samples) == ("smoothgrad_sq", 15)
        assert not torch.allclose(plain(inputs, 1), squared(inputs, 1))


@pytest.mark.parametrize("method", ["LayerCAM", "GradCAM", "SmoothGradCAMpp"])
def test_methods_of_torchcam_by_name(method: str) -> None:
    model, inputs = network(), images()
    named = build_explainer(f"torchcam:{method}", model, layer="5")
    assert isinstance(named, TorchcamExplainer)
    assert torch.equal(named(inputs, TARGETS), TorchcamExplainer(model, method, "5")(inputs, TARGETS))


def test_torchcam_by_name_without_torchcam(monkeypatch: pytest.MonkeyPatch) -> None:
    def absent(name: str) -> Any:
        raise ImportError(f"No module named {name!r}")

    monkeypatch.setattr(importlib, "import_module", absent)
    for call in (lambda name: build_explainer(name, network()), find_explainer):
        with pytest.raises(ImportError, match=r"needs torchcam.*lightning-saliency\[baselines\]"):
            call("torchcam:LayerCAM")


def test_unknown_names_and_options() -> None:
    with pytest.raises(ValueError, match=r"Got the explainer 'grad-cam'\. Allowed are smoe, .*, torchcam:METHOD"):
        build_explainer("grad-cam", network())
    with pytest.raises(ValueError, match=r"'grad-cam'\. Allowed are random, smoe, .*use one of them"):
        find_explainer("grad-cam", ["random"])
    for name in ("torchcam:layercam", "torchcam:", "torchcam:OutputTarget"):
        with pytest.raises(ValueError, match=rf"'{name}'\. Allowed are .*torchcam:LayerCAM.*; use one of them"):
            build_explainer(name, network())
    with pytest.raises(TypeError, match=r"Got the options \['groups'\] for grad_cam.*Allowed are layer, output"):
        build_explainer("grad_cam", network(), groups=4)
