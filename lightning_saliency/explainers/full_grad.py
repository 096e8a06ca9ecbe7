"""FullGrad: the gradient of the image and of every bias, which together make up the class's score."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from lightning_saliency.explainers.base import Explainer, Output, class_logits, select_scores
from lightning_saliency.functional.masking import resize_maps
from lightning_saliency.functional.normalization import min_max

_CONVOLUTIONS = (
    nn.Conv1d,
    nn.Conv2d,
    nn.Conv3d,
    nn.ConvTranspose1d,
    nn.ConvTranspose2d,
    nn.ConvTranspose3d,
)


class FullGrad(Explainer):
    """FullGrad (Srinivas and Fleuret 2019): one forward pass, and one backward pass through the whole network.

    Of a network of convolutions, linear layers, BatchNorm, ReLU and pooling the class's logit is the sum of the image's
    and all biases' shares, S = Σ ∂S/∂I ⊙ I + Σ_b ∂S/∂b ⊙ b (Proposition 1), b standing for a bias at every position
    where it is added; BatchNorm has the bias β − γ μ/√(σ² + ε). The map is (Eq. 4)

        ψ(∂S/∂I ⊙ I) + Σ_layers ψ(∂S/∂b ⊙ b),  ψ(x) = upsampled, rescaled |x|,

    summed over the channels, over all convolutions and BatchNorms. As in the authors' code |x| is rescaled to [0, 1]
    over all channels of a layer together, so that channels keep their proportions.

    Biases elsewhere (LayerNorm, attention, GELU) are left out, so that for transformers the map says less.

    Args:
        model: The network, see ``Explainer``.
        output: Takes the logits out of what the network returns, see ``Explainer``.

    Raises:
        ValueError: When it is called, if the logits have no gradient by the images.

    Example:
        >>> model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten())
        >>> explainer, images = FullGrad(model), torch.rand(2, 3, 16, 16)
        >>> explainer(images, targets=3).shape
        torch.Size([2, 16, 16])
        >>> shares = explainer.shares(images, 3)
        >>> torch.allclose(sum(share.flatten(1).sum(1) for share in shares), model(images)[:, 3])
        True
    """

    def __init__(self, model: nn.Module, *, output: Output = None) -> None:
        super().__init__(model, output=output)

    def shares(self, images: Tensor, targets: Tensor | int | None = None) -> list[Tensor]:
        """What the images and the biases contribute to the class's logit, position by position.

        Args:
            images: ``[B, C, H, W]``, see ``Explainer``.
            targets: Classes, see ``Explainer``.

        Returns:
            The image's share ``[B, C, H, W]``, and one tensor of its output's shape for each call of a convolution, a
            BatchNorm and a linear layer that has a bias.

        Raises:
            ValueError: If the logits have no gradient by the images, or a target is no class of the network.
        """
        found: list[Tensor] = []

        def keep(images: Tensor, targets: Tensor | None) -> Tensor:
            found.extend(share for share, _ in self._shares(images, targets))
            return found[0].sum(dim=1)

        self._run(images, targets, keep)
        return found

    def _explain(self, images: Tensor, targets: Tensor) -> Tensor:
        return self._map(images, targets)

    def _explain_predicted(self, images: Tensor) -> Tensor:
        return self._map(images, None)

    def _map(self, images: Tensor, targets: Tensor | None) -> Tensor:
        total = torch.zeros(())
        for share, is_picture in self._shares(images, targets):
            if is_picture:
                sizes = share.abs().float() if share.dtype != torch.float64 else share.abs()
                rescaled = min_max(sizes.flatten(1, 2)).reshape(share.shape)
                total = total + resize_maps(rescaled.sum(dim=1), images.shape[2:])
        return total

    def _shares(self, images: Tensor, targets: Tensor | None) -> list[tuple[Tensor, bool]]:
        """The shares, and whether each is ``[B, C, h, w]``."""
        inputs = images.detach().requires_grad_()
        with _bias_layers(self.model) as layers:
            own, _ = select_scores(class_logits(self.model(inputs.clone()), self.output, inputs), targets)
            terms = [(inputs, inputs.detach(), True), *layers]
            if not own.requires_grad:
                raise ValueError(
                    "The logits have no gradient by the images: the network computes them under torch.no_grad(), or "
                    "detached. FullGrad needs that gradient; choose an explainer that scores masks, such as RISE."
                )
            tensors = [tensor for tensor, _, _ in terms]
            gradients = torch.autograd.grad(own.sum(), tensors, allow_unused=True, materialize_grads=True)
        self._say_zero((gradients[0] == 0).flatten(1).all(dim=1), "the images")
        return [
            (gradient * bias.to(gradient.dtype), is_picture)
            for gradient, (_, bias, is_picture) in zip(gradients, terms, strict=True)
        ]


@contextmanager
def _bias_layers(model: nn.Module) -> Iterator[list[tuple[Tensor, Tensor, bool]]]:
    """Collects, call by call: the output of a layer with a bias, that bias, and whether they are ``[B, C, h, w]``.

    The network goes on with a copy of the output, so that operations in place do no harm.
    """
    found: list[tuple[Tensor, Tensor, bool]] = []

    def take(bias: Tensor, along: int, _module: nn.Module, _args: tuple[Any, ...], output: Tensor) -> Tensor:
        if not output.requires_grad:
            return output
        shape = [1] * output.ndim
        shape[along] = -1
        found.append((output, bias.detach().view(shape), along == 1 and output.ndim == 4))
        return output.clone()

    handles = []
    try:
        for module in model.modules():
            bias = _bias(module)
            if bias is not None:
                along = -1 if isinstance(module, nn.Linear) else 1
                handles.append(module.register_forward_hook(partial(take, bias, along)))
        yield found
    finally:
        for handle in handles:
            handle.remove()


def _bias(module: nn.Module) -> Tensor | None:
    """What a layer adds to its output whatever its input, ``[C]``; ``None``: nothing that is known."""
    if isinstance(module, (nn.Linear, *_CONVOLUTIONS)):
        return module.bias
    if isinstance(module, nn.modules.batchnorm._BatchNorm):
        bias = module.bias
        if module.running_mean is None or module.running_var is None:
            return bias
        shift = module.running_mean / (module.running_var + module.eps).sqrt()
        shift = shift if module.weight is None else module.weight * shift
        return -shift if bias is None else bias - shift
    return None
