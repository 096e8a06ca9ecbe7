"""Maps that know nothing of the network: what an explainer has to beat."""

from __future__ import annotations

import zlib
from typing import Any

import torch
from torch import Tensor, nn

from lightning_saliency.explainers import Explainer, build_explainer, find_explainer


class RandomMap(Explainer):
    """Every pixel uniform on [0, 1], independent of its neighbours.

    The noise is drawn from a generator of its own, seeded by the image and ``seed``: the same whatever the batch that
    the image is in and whatever its target. The network is not run.

    Args:
        model: Not used.
        seed: Of the noise.

    Example:
        >>> noise = RandomMap(nn.Identity())(torch.rand(2, 3, 8, 8), 0)
        >>> noise.shape, bool((noise[0] != noise[1]).any())
        (torch.Size([2, 8, 8]), True)
    """

    def __init__(self, model: nn.Module, seed: int = 0) -> None:
        super().__init__(model)
        self.seed = seed

    def _explain(self, images: Tensor, targets: Tensor) -> Tensor:
        return self._explain_predicted(images)

    def _explain_predicted(self, images: Tensor) -> Tensor:
        generator = torch.Generator()
        maps = []
        for pixels in images.cpu().float():
            generator.manual_seed(zlib.crc32(str(self.seed).encode(), zlib.crc32(pixels.numpy().tobytes())))
            maps.append(torch.rand(pixels.shape[1:], generator=generator))
        return torch.stack(maps).to(images.device)


class CenterGaussian(Explainer):
    """A Gaussian at the centre, the same for all images: photographers put objects there.

    Args:
        model: Not used.
        sigma: Standard deviation along each axis as a share of that side.

    Raises:
        ValueError: If ``sigma`` is not positive.

    Example:
        >>> CenterGaussian(nn.Identity())(torch.rand(1, 3, 5, 5), 0)[0].argmax().item()
        12
    """

    def __init__(self, model: nn.Module, sigma: float = 0.25) -> None:
        super().__init__(model)
        if not sigma > 0:
            raise ValueError(f"Got sigma={sigma}. Allowed are positive shares of the image's side, for example 0.25.")
        self.sigma = sigma

    def _explain(self, images: Tensor, targets: Tensor) -> Tensor:
        return self._explain_predicted(images)

    def _explain_predicted(self, images: Tensor) -> Tensor:
        rows, columns = (
            torch.exp(-0.5 * (((torch.arange(side) + 0.5) / side - 0.5) / self.sigma) ** 2) for side in images.shape[2:]
        )
        return (rows[:, None] * columns).expand(len(images), -1, -1).to(images.device)


#: The controls by name, beside the explainers of ``EXPLAINERS``.
CONTROLS: dict[str, type[Explainer]] = {"random": RandomMap, "center_gaussian": CenterGaussian}


def build_method(name: str, model: nn.Module, options: dict[str, Any]) -> Explainer:
    """The explainer or control of that name.

    Raises:
        ImportError: If it needs a package that is not installed.
        TypeError: If it has no such option.
        ValueError: If the name is unknown.
    """
    if name in CONTROLS:
        return CONTROLS[name](model, **options)
    find_explainer(name, CONTROLS)
    return build_explainer(name, model, **options)
