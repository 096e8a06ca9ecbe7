"""Gradient baselines and other CAMs by name, from captum and torchcam (extra ``baselines``)."""

from __future__ import annotations

import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from lightning_saliency.checks import check_choice, did_you_mean
from lightning_saliency.explainers.base import Explainer, Layer, Output, select_targets
from lightning_saliency.explainers.libraries.adapters import ToLogits, required
from lightning_saliency.explainers.mask_scoring.budget import CURRENT_BUDGET
from lightning_saliency.explainers.mask_scoring.noise import NOISY_COPIES, check_noise, noisy_copies
from lightning_saliency.functional.class_scores import class_regions
from lightning_saliency.randomness import seed_generators
from lightning_saliency.scales.scale import Scale

#: The classes of ``captum.attr`` that explain an image by the network as a whole.
CAPTUM_METHODS = ("Saliency", "InputXGradient", "GuidedBackprop", "Deconvolution", "IntegratedGradients", "Occlusion")
NOISE_TUNNELS = ("smoothgrad", "smoothgrad_sq", "vargrad")

# Integrated gradients runs its steps in passes of about this many images.
PASS_SIZE = 16
# captum's own number of steps.
_STEPS = 50


class CaptumExplainer(Explainer):
    """An attribution method of captum; the absolute values are summed over the colour channels.

    An image's map does not depend on the batch that the image is in.

    Args:
        model: The network, see ``Explainer``.
        method: ``"Saliency"`` (the gradient), ``"InputXGradient"``, ``"GuidedBackprop"``, ``"Deconvolution"``,
            ``"IntegratedGradients"`` or ``"Occlusion"``.
        noise_tunnel: ``None``; or ``"smoothgrad"``, ``"smoothgrad_sq"`` or ``"vargrad"``: the mean, the mean square or
            the variance of the attributions of noisy copies.
        samples: Number of noisy copies per image; they go through the network one after the other, each for the whole
            batch.
        stdevs: The noise's standard deviation, in the images' own unit; ``None``: for each image 15 % of the range of
            its own values.
        seed: Seed of the noise, which has its own generator: it is the same at each call and, up to its standard
            deviation, for each image.
        output: Takes the logits out of what the network returns, see ``Explainer``.
        **options: Handed to the method's ``attribute``, for example ``n_steps=50``, or for ``"Occlusion"``
            ``sliding_window_shapes=(3, 32, 32), strides=(3, 16, 16)`` (otherwise windows of an eighth of each side in
            steps of half a window).

    Raises:
        ImportError: If captum is not installed.
        ValueError: If the method or the noise tunnel is unknown, a number is out of range, or a method that changes the
            gradient of ReLUs is asked for a network without ``nn.ReLU`` modules.

    Example:
        >>> import torch
        >>> model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten())
        >>> CaptumExplainer(model, "GuidedBackprop", noise_tunnel="smoothgrad_sq")(torch.rand(2, 3, 16, 16)).shape
        torch.Size([2, 16, 16])
    """

    def __init__(
        self,
        model: nn.Module,
        method: str = "Saliency",
        *,
        noise_tunnel: str | None = None,
        samples: int = NOISY_COPIES,
        stdevs: float | None = None,
        seed: int = 0,
        output: Output = None,
        **options: Any,
    ) -> None:
        super().__init__(model, output=output)
        check_choice("method", method, CAPTUM_METHODS)
        check_choice("noise_tunnel", noise_tunnel, (None, *NOISE_TUNNELS))
        check_noise(samples, stdevs)
        if method in ("GuidedBackprop", "Deconvolution") and not any(
            isinstance(module, nn.ReLU) for module in self.model.modules()
        ):
            raise ValueError(
                f"Got method={method!r} for a network without nn.ReLU modules, whose gradients it changes. It would be "
                "the plain gradient under another name; choose another method."
            )
        self._captum = required("captum.attr", "captum")
        self.method = method
        self.noise_tunnel = noise_tunnel
        self.samples = samples
        self.stdevs = stdevs
        self.seed = seed
        self.options = options
        self._pixelwise = False

    def _explain(self, images: Tensor, targets: Tensor) -> Tensor:
        network = ToLogits(self.model, self.output, targets)
        options: dict[str, Any] = {**self._defaults(images), **self.options}
        maps = None if self._pixelwise else self._attributed(network, images, targets, options)
        self._pixelwise = self._pixelwise or network.seen.ndim > 2
        if maps is None or self._pixelwise:
            # A segmentation network's score is read where it sees the class in the whole image.
            with torch.no_grad():
                network(images)
            options["additional_forward_args"] = (class_regions(network.seen, targets),)
            maps = self._attributed(network, images, targets, options)
        return maps

    def _attributed(self, network: ToLogits, images: Tensor, targets: Tensor, options: dict[str, Any]) -> Tensor:
        attributed: Callable[..., Tensor] = getattr(self._captum, self.method)(network).attribute
        budget = CURRENT_BUDGET.get()

        def attribute(inputs: Tensor) -> Tensor:
            inputs.requires_grad_()
            if budget is None:
                return attributed(inputs, target=targets, **options).detach()
            steps = options.get("n_steps", _STEPS) if self.method == "IntegratedGradients" else 1
            few = min(steps, max(1, PASS_SIZE // len(images)))
            limited = {**options, "n_steps": few} if few < steps else options
            before, begin = network.passed, time.perf_counter()
            found = attributed(inputs, target=targets, **limited).detach()
            passed = network.passed - before
            budget.note(passed, time.perf_counter() - begin)
            budget.asked += round(passed * (steps / few - 1))
            return found

        with _own_inputs(self.model), warnings.catch_warnings():
            warnings.filterwarnings("ignore", message="Setting (forward, )?backward hooks", category=UserWarning)
            found = attribute(images.clone()) if self.noise_tunnel is None else self._smoothed(images, attribute)
        return found.abs().sum(dim=1)

    def _smoothed(self, images: Tensor, attribute: Callable[[Tensor], Tensor]) -> Tensor:
        """The mean, the mean square or the variance of the noisy copies' attributions.

        captum's own ``NoiseTunnel`` draws the noise of a whole batch, so that it depends on an image's position in the
        batch.
        """
        total, squares = torch.zeros_like(images), torch.zeros_like(images)
        for noisy in noisy_copies(images, self.samples, self.stdevs, self.seed):
            found = attribute(noisy)
            total, squares = total + found, squares + found.square()
        mean, mean_square = total / self.samples, squares / self.samples
        if self.noise_tunnel == "smoothgrad":
            return mean
        return mean_square if self.noise_tunnel == "smoothgrad_sq" else mean_square - mean.square()

    def _defaults(self, images: Tensor) -> dict[str, Any]:
        """Options that captum requires, or that bound its memory."""
        if self.method == "IntegratedGradients":
            return {"internal_batch_size": max(PASS_SIZE, images.shape[0])}
        if self.method == "Occlusion":
            channels, height, width = images.shape[1:]
            window = (channels, max(1, height // 8), max(1, width // 8))
            return {
                "sliding_window_shapes": window,
                "strides": (channels, max(1, window[1] // 2), max(1, window[2] // 2)),
            }
        return {}


class TorchcamExplainer(Explainer):
    """A class activation map method of torchcam, by its class name.

    torchcam 0.5's ``GradCAMpp`` is not the paper's Grad-CAM++ (``GradCAMPlusPlus`` is): its division changes a copy
    only, so that α is g² instead of g² / (2g² + g³ ΣA), where g is the gradient. ``RefineCAM``, which needs several
    layers, cannot be used, and ``LeGrad`` needs ``layer`` and ``score_projection``.

    Args:
        model: The network, see ``Explainer``.
        method: A class of ``torchcam.methods``, for example ``"SmoothGradCAMpp"`` or ``"LayerCAM"``.
        layer: The name of the module whose output ``[B, C, h, w]`` is read, or a ``Scale`` of such an output; ``None``:
            torchcam's own choice.
        seed: Seed of the methods that add noise; torchcam draws it for the whole batch, so that it depends on an
            image's position in the batch. The global generators do not change.
        output: Takes the logits out of what the network returns, see ``Explainer``.
        **options: Handed to the class, for example ``num_samples=4, std=0.3``.

    Raises:
        ImportError: If torchcam is not installed.
        ValueError: If the method is unknown, or the layer is read at its input or is not laid out ``[B, C, h, w]``.

    Example:
        >>> import torch
        >>> model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten())
        >>> TorchcamExplainer(model, "SmoothGradCAMpp", layer="1")(torch.rand(2, 3, 16, 16)).shape
        torch.Size([2, 16, 16])
    """

    def __init__(
        self,
        model: nn.Module,
        method: str = "SmoothGradCAMpp",
        layer: Layer | None = None,
        *,
        seed: int = 0,
        output: Output = None,
        **options: Any,
    ) -> None:
        super().__init__(model, layer, output=output)
        methods = torchcam_methods()
        if method not in methods:
            raise ValueError(
                f"Got method={method!r}. Allowed are torchcam's "
                f"{', '.join(methods)}; use one of them.{did_you_mean(method, methods)}"
            )
        if isinstance(layer, Scale) and (layer.read != "output" or layer.layout != "NCHW"):
            raise ValueError(
                f"Got the {layer.read} of {layer.module!r} in layout {layer.layout} for torchcam. Allowed are outputs "
                "[B, C, h, w]; name a module with such an output."
            )
        self._extractor = methods[method]
        self.method = method
        self.seed = seed
        self.options = options

    def _explain(self, images: Tensor, targets: Tensor) -> Tensor:
        return self._class_map(images, targets)

    def _explain_predicted(self, images: Tensor) -> Tensor:
        return self._class_map(images, None)

    def _class_map(self, images: Tensor, targets: Tensor | None) -> Tensor:
        network = ToLogits(self.model, self.output)
        name = self.layer.module if isinstance(self.layer, Scale) else self.layer
        path = None if name is None else f"{ToLogits.PATH}.{name}".rstrip(".")
        # What torchcam's own choice of a layer needs; LeGrad, which makes none, does not take it.
        options = self.options if path else {"input_shape": tuple(images.shape[1:]), **self.options}
        seed_generators(self.seed, self.model)
        with (
            _hidden_gradients(self.model),
            self._extractor(network, path, **options) as extractor,
        ):
            scores = network(images.clone().requires_grad_())
            classes = select_targets(network.seen, targets)
            maps: list[Tensor] = extractor(class_idx=classes.tolist(), scores=scores, normalized=False)
        return maps[0].detach()


def torchcam_methods() -> dict[str, Callable[..., Any]]:
    """The classes of ``torchcam.methods`` by name.

    Raises:
        ImportError: If torchcam is not installed.
    """
    classes = vars(required("torchcam.methods", "torchcam"))
    return {name: classes[name] for name in sorted(classes) if isinstance(classes[name], type)}


@contextmanager
def _own_inputs(model: nn.Module) -> Iterator[None]:
    """Give every ``nn.ReLU`` its own copy of its input.

    captum rectifies the whole gradient of a ReLU's input tensor. Where that tensor also goes elsewhere, as round the
    block in a pre-activation ResNet, the gradient of the other way must not be rectified with it.
    """
    handles = []
    try:
        for module in model.modules():
            if isinstance(module, nn.ReLU):
                handles.append(module.register_forward_pre_hook(lambda _module, args: (args[0].clone(), *args[1:])))
        yield
    finally:
        for handle in handles:
            handle.remove()


@contextmanager
def _hidden_gradients(model: nn.Module) -> Iterator[None]:
    """Keep every ``.grad`` from whatever zeroes or adds to it."""
    kept = [(parameter, parameter.grad) for parameter in model.parameters()]
    try:
        for parameter, _ in kept:
            parameter.grad = None
        yield
    finally:
        for parameter, gradient in kept:
            parameter.grad = gradient
