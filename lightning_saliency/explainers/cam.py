"""Class activation maps: Grad-CAM and its kin, with a backward pass through the head only."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from lightning_saliency.explainers.base import Explainer, Layer, Output, named_layer, stretched
from lightning_saliency.functional.masking import resize_maps
from lightning_saliency.scales.scale import Scale
from lightning_saliency.scales.taps import ScaleTaps


class ClassActivationMap(Explainer):
    """ReLU(Σₖ wₖ Aₖ), the activations of a layer weighted by their gradients; subclasses define the weights.

    One forward pass gives the prediction and the activations; the backward pass goes from the target's logit down to
    the layer, no further.

    Args:
        model: The network, see ``Explainer``.
        layer: A module or its name, a ``Scale``, or several of them; ``None``: the network's last scale. Several
            layers give the mean of their maps, each brought to the images' size and stretched to [0, 1] first.
        output: Takes the logits out of what the network returns, see ``Explainer``.

    Raises:
        TypeError: If ``layer`` is of another type.
        ValueError: If ``layer`` is an empty sequence.
    """

    takes_volumes = True
    takes_integers = True

    def __init__(
        self,
        model: nn.Module,
        layer: Layer | Sequence[Layer] | None = None,
        *,
        output: Output = None,
    ) -> None:
        one = layer if layer is None or isinstance(layer, (str, nn.Module, Scale)) else None
        super().__init__(model, one, output=output)
        self.layers = (self.layer,) if one is not None or layer is None else _several(self.model, layer)

    @staticmethod
    @abstractmethod
    def from_gradients(activations: Tensor, gradients: Tensor) -> Tensor:
        """The map of one layer.

        Args:
            activations: A, ``[B, C, h, w]``, or ``[B, C, t, h, w]`` of volumes, floating point.
            gradients: g = ∂S/∂A, ``[B, C, h, w]``, S being the target's logit.

        Returns:
            ``[B, h, w]``, nowhere negative; float32, or float64 for float64 activations.
        """

    def class_map(self, images: Tensor, targets: Tensor | None, taps: ScaleTaps | None = None) -> Tensor:
        """The map ``[B, h, w]`` of one layer as it is, or the mean ``[B, H, W]`` of several.

        Called inside ``undisturbed``; ``targets=None``: the predicted classes; ``taps`` record the same forward pass.
        """
        scales = self.class_scales(images)
        pairs, _ = self._gradients(images, targets, scales, taps=taps)
        maps = [self.from_gradients(activations, gradients) for activations, gradients in pairs]
        return mean_of_layers(maps, images.shape[2:])

    def class_scales(self, images: Tensor) -> list[Scale]:
        """The layers for images of this size."""
        return [self._scale(images, layer) for layer in self.layers]

    def _explain(self, images: Tensor, targets: Tensor) -> Tensor:
        return self.class_map(images, targets)

    def _explain_predicted(self, images: Tensor) -> Tensor:
        return self.class_map(images, None)


class GradCAM(ClassActivationMap):
    """Grad-CAM: each channel is weighted by the mean of its gradient (Selvaraju et al. 2017, Eq. 1 and 2).

    wₖ = (1/Z) Σᵢⱼ gₖᵢⱼ with g = ∂S/∂A and Z = h·w, the map being ReLU(Σₖ wₖ Aₖ).

    Arguments and errors are those of ``ClassActivationMap``.

    Example:
        >>> from torch import nn
        >>> model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten())
        >>> maps = GradCAM(model, layer="1")(torch.rand(2, 3, 16, 16), targets=torch.tensor([3, 1]))
        >>> maps.shape, maps.dtype
        (torch.Size([2, 16, 16]), torch.float32)
    """

    @staticmethod
    def from_gradients(activations: Tensor, gradients: Tensor) -> Tensor:
        """See ``ClassActivationMap.from_gradients``."""
        activations, gradients = precise(activations, gradients)
        return weighted_sum(gradients.flatten(2).mean(dim=2), activations)


class GradCAMPlusPlus(ClassActivationMap):
    """Grad-CAM++: each channel is weighted by its positive gradients, weighted themselves (Chattopadhyay et al. 2018).

    With Y = exp(S), wₖ = Σᵢⱼ αₖᵢⱼ ReLU(∂Y/∂Aₖᵢⱼ) (Eq. 13) and (Eq. 19)

        αₖᵢⱼ = ∂²Y/∂Aₖᵢⱼ² / (2 ∂²Y/∂Aₖᵢⱼ² + Σₐᵦ Aₖₐᵦ ∂³Y/∂Aₖᵢⱼ³).

    The usual shortcut is taken: where S is piecewise linear in A (what follows the layer has only ReLUs,
    pooling, convolutions, linear layers and BatchNorm in eval mode) the derivatives of Y are Y·g, Y·g² and Y·g³ with
    g = ∂S/∂A, so that α = g² / (2g² + g³ ΣA) = 1 / (2 + g ΣA) wherever g ≠ 0. This last form is computed: it needs no
    powers, which would underflow. Elsewhere, as after attention, GELU or SiLU, the shortcut is an approximation: the
    terms with the second and third derivatives of S are left out. The factor Y, one number per image, is left out too;
    it would overflow, and vanishes when the map is stretched to [0, 1].

    The formula was derived for activations ≥ 0, where α is at most 1/2 for every positive gradient. After GELU, SiLU
    and attention ΣA can be negative: 2 + g ΣA may then vanish, or make positive gradients negative weights. A negative
    ΣA is therefore taken as 0.

    Arguments and errors are those of ``ClassActivationMap``.

    Example:
        >>> from torch import nn
        >>> model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten())
        >>> GradCAMPlusPlus(model, layer="1")(torch.rand(2, 3, 16, 16)).shape
        torch.Size([2, 16, 16])
    """

    @staticmethod
    def from_gradients(activations: Tensor, gradients: Tensor) -> Tensor:
        """See ``ClassActivationMap.from_gradients``."""
        activations, gradients = precise(activations, gradients)
        positive = gradients.relu()
        positions = tuple(range(2, activations.ndim))
        terms = positive / (2 + positive * activations.sum(dim=positions, keepdim=True).relu())
        return weighted_sum(terms.sum(dim=positions), activations)


class XGradCAM(ClassActivationMap):
    """XGrad-CAM: each channel's gradient is averaged with the channel's own activation as weight.

    wₖ = Σᵢⱼ (Aₖᵢⱼ / Σₐᵦ Aₖₐᵦ) gₖᵢⱼ with g = ∂S/∂A (Fu et al. 2020), the map being ReLU(Σₖ wₖ Aₖ). A channel whose
    activations sum to 0 has the weight 0.

    Arguments and errors are those of ``ClassActivationMap``.

    Example:
        >>> from torch import nn
        >>> model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten())
        >>> XGradCAM(model, layer="1")(torch.rand(2, 3, 16, 16), targets=3).shape
        torch.Size([2, 16, 16])
    """

    @staticmethod
    def from_gradients(activations: Tensor, gradients: Tensor) -> Tensor:
        """See ``ClassActivationMap.from_gradients``."""
        activations, gradients = precise(activations, gradients)
        total = activations.flatten(2).sum(dim=2)
        weighted = (activations * gradients).flatten(2).sum(dim=2)
        return weighted_sum(torch.where(total == 0, 0, weighted / total), activations)


class LayerCAM(ClassActivationMap):
    """LayerCAM: each activation is weighted by its own positive gradient (Jiang et al. 2021).

    The map is ReLU(Σₖ ReLU(gₖᵢⱼ) Aₖᵢⱼ) with g = ∂S/∂A. It is made for shallow layers, too, where one weight for a
    whole channel says little: ``layer=["layer2", "layer3", "layer4"]`` gives the mean of three maps. (The paper takes
    their maximum, the shallow ones scaled by a tanh before.)

    Arguments and errors are those of ``ClassActivationMap``.

    Example:
        >>> from torch import nn
        >>> model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten())
        >>> LayerCAM(model, layer="1")(torch.rand(2, 3, 16, 16), targets=3).shape
        torch.Size([2, 16, 16])
    """

    @staticmethod
    def from_gradients(activations: Tensor, gradients: Tensor) -> Tensor:
        """See ``ClassActivationMap.from_gradients``."""
        activations, gradients = precise(activations, gradients)
        return (gradients.relu() * activations).sum(dim=1).relu()


#: The class activation maps by the names that ``FastCAM`` takes.
CAMS: dict[str, type[ClassActivationMap]] = {
    "gradcam": GradCAM,
    "gradcam++": GradCAMPlusPlus,
    "xgradcam": XGradCAM,
    "layercam": LayerCAM,
}


def _several(model: nn.Module, layers: object) -> tuple[str | Scale, ...]:
    if not isinstance(layers, Sequence) or not all(isinstance(layer, (str, nn.Module, Scale)) for layer in layers):
        raise TypeError(
            f"Got layer={layers!r}. Allowed are a module or its name, a Scale, a sequence of these and None; use "
            "one of them."
        )
    if not layers:
        raise ValueError("Got layer as an empty sequence. Allowed is at least one; layer=None takes the last scale.")
    return tuple(named_layer(model, layer) for layer in layers)


def mean_of_layers(maps: Sequence[Tensor], size: Sequence[int]) -> Tensor:
    """The map of one layer as it is; of several the mean, each brought to ``size`` and stretched to [0, 1] first."""
    if len(maps) == 1:
        return maps[0]
    return torch.stack([stretched(resize_maps(map_, size)) for map_ in maps]).mean(dim=0)


def precise(activations: Tensor, gradients: Tensor) -> tuple[Tensor, Tensor]:
    """Both in at least float32: sums of many half-precision values lose their digits."""
    dtype = torch.promote_types(activations.dtype, torch.float32)
    return activations.to(dtype), gradients.to(dtype)


def weighted_sum(weights: Tensor, activations: Tensor) -> Tensor:
    """ReLU(Σₖ wₖ Aₖ). Written without a matrix product, which autocast would compute in half precision."""
    return (weights.reshape(*weights.shape, *[1] * (activations.ndim - 2)) * activations).sum(dim=1).relu()
