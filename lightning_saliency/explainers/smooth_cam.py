"""Smooth Grad-CAM++: Grad-CAM++ with the derivatives averaged over noisy copies of the image."""

from __future__ import annotations

from collections.abc import Sequence
from time import perf_counter

import torch
from torch import Tensor, nn

from lightning_saliency.explainers.base import Layer, Output, select_targets
from lightning_saliency.explainers.cam import GradCAMPlusPlus, mean_of_layers, precise, weighted_sum
from lightning_saliency.explainers.mask_scoring.budget import CURRENT_BUDGET
from lightning_saliency.explainers.mask_scoring.noise import NOISY_COPIES, check_noise, noisy_copies
from lightning_saliency.scales.scale import Scale
from lightning_saliency.scales.taps import ScaleTaps


class SmoothGradCAMPlusPlus(GradCAMPlusPlus):
    """Smooth Grad-CAM++ (Omeiza et al. 2019): ``samples`` + 1 forward passes, and as many backward passes of the head.

    With D₁, D₂, D₃ the means over n noisy copies of the image of g, g² and g³, g = ∂S/∂A,

        αₖᵢⱼ = D₂ / (2 D₂ + D₃ Σₐᵦ Aₖₐᵦ),  wₖ = Σᵢⱼ αₖᵢⱼ ReLU(D₁),  map = ReLU(Σₖ wₖ Aₖ)

    with the activations A of the image as it is. The paper prints D₁ in α's numerator; with D₂ one copy without noise
    gives Grad-CAM++. As there, a term D₃ ΣA below 0 is taken as 0, and where S is not piecewise linear in A the powers
    of g stand for the higher derivatives.

    The same noise is drawn at each call and, up to its deviation, for each image.

    Args:
        model: The network, see ``Explainer``.
        layer: The layer or layers, see ``ClassActivationMap``.
        samples: n, the number of noisy copies.
        stdevs: The noise's standard deviation, in the images' own unit; ``None``: for each image 15 % of the range of
            its own values.
        seed: Seed of the noise, which has its own generator.
        output: Takes the logits out of what the network returns, see ``Explainer``.

    Raises:
        TypeError: If ``layer`` is of another type.
        ValueError: If ``layer`` is an empty sequence, or a number is out of range.

    Example:
        >>> model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten())
        >>> SmoothGradCAMPlusPlus(model, layer="1", samples=4)(torch.rand(2, 3, 16, 16)).shape
        torch.Size([2, 16, 16])
    """

    #: A map costs many passes.
    expensive = True
    #: Noise would change them.
    takes_integers = False

    def __init__(
        self,
        model: nn.Module,
        layer: Layer | Sequence[Layer] | None = None,
        *,
        samples: int = NOISY_COPIES,
        stdevs: float | None = None,
        seed: int = 0,
        output: Output = None,
    ) -> None:
        super().__init__(model, layer, output=output)
        check_noise(samples, stdevs)
        self.samples = samples
        self.stdevs = stdevs
        self.seed = seed

    def class_map(self, images: Tensor, targets: Tensor | None, taps: ScaleTaps | None = None) -> Tensor:
        """See ``ClassActivationMap.class_map``; ``taps`` record the pass of the images as they are."""
        scales = self.class_scales(images)
        pairs, logits = self._gradients(images, targets, scales, taps=taps)
        moments = self._moments(images, select_targets(logits, targets), scales)
        maps = [_smoothed(activations, *means) for (activations, _), means in zip(pairs, moments, strict=True)]
        return mean_of_layers(maps, images.shape[2:])

    def _moments(
        self, images: Tensor, targets: Tensor, scales: Sequence[Scale]
    ) -> list[tuple[Tensor, Tensor, Tensor, Tensor]]:
        """For each layer the largest gradient s of each image's first copy, and the means of g/s, (g/s)² and (g/s)³.

        Powers of the gradients themselves would underflow.
        """
        budget = CURRENT_BUDGET.get()
        found: list[tuple[Tensor, Tensor, Tensor, Tensor]] = []
        for noisy in noisy_copies(images, self.samples, self.stdevs, self.seed):
            began = perf_counter()
            pairs, _ = self._gradients(noisy, targets, scales)
            if budget is not None:
                budget.note(len(images), perf_counter() - began)
            if not found:
                found = [_none_yet(gradients) for _, gradients in pairs]
            for (_, gradients), (unit, first, second, third) in zip(pairs, found, strict=True):
                scaled = gradients.to(unit.dtype) / unit
                first += scaled / self.samples
                second += scaled.square() / self.samples
                third += scaled.pow(3) / self.samples
        return found


def _none_yet(gradients: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    gradients, _ = precise(gradients, gradients)
    unit = gradients.abs().flatten(1).amax(dim=1).view(-1, *[1] * (gradients.ndim - 1))
    zeros = [torch.zeros_like(gradients) for _ in range(3)]
    return torch.where(unit == 0, 1, unit), zeros[0], zeros[1], zeros[2]


def _smoothed(activations: Tensor, unit: Tensor, first: Tensor, second: Tensor, third: Tensor) -> Tensor:
    """The map ``[B, h, w]`` of one layer from the means of the powers of its gradients over ``unit``."""
    activations = activations.to(first.dtype)
    positions = tuple(range(2, activations.ndim))
    total = activations.sum(dim=positions, keepdim=True)
    denominator = 2 * second + (unit * third * total).relu()
    alpha = second / torch.where(denominator == 0, 1, denominator)
    return weighted_sum((alpha * first.relu()).sum(dim=positions), activations)
