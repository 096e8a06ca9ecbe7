"""XRAI: regions that gather the most integrated gradients, by PAIR's package saliency (extra ``baselines``)."""

from __future__ import annotations

from time import perf_counter
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor, nn

from lightning_saliency.checks import check_choice, check_minimum
from lightning_saliency.explainers.base import Explainer, Output
from lightning_saliency.explainers.libraries.adapters import ToLogits, required
from lightning_saliency.explainers.mask_scoring.budget import CURRENT_BUDGET
from lightning_saliency.functional.class_scores import class_regions

# Images of one pass along the way from black and from white to the image.
_PASS_SIZE = 16


class XRAI(Explainer):
    """XRAI (Kapishnikov et al. 2019), by the package ``saliency``: 2 × ``steps`` passes and gradients an image.

    Integrated gradients from the image's darkest and from its brightest value are averaged; of segments of the image at
    several scales, each dilated, that one is added next whose mean gradient over the pixels not yet taken is largest,
    and its pixels get that mean. The images are explained one after the other, the segments on a CPU.

    Args:
        model: The network, see ``Explainer``.
        steps: Steps of each way from a plain image to the image itself.
        algorithm: ``"full"``, or ``"fast"``: segments are ranked once, whatever they share with those taken before.
        output: Takes the logits out of what the network returns, see ``Explainer``.

    Raises:
        ImportError: If the package is not installed.
        ValueError: If the algorithm is unknown or there are no steps.

    Example:
        >>> model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten())
        >>> XRAI(model, steps=4, algorithm="fast")(torch.rand(1, 3, 32, 32)).shape  # doctest: +SKIP
        torch.Size([1, 32, 32])
    """

    #: A map costs many passes.
    expensive = True

    def __init__(
        self,
        model: nn.Module,
        steps: int = 100,
        algorithm: Literal["full", "fast"] = "full",
        *,
        output: Output = None,
    ) -> None:
        super().__init__(model, output=output)
        check_choice("algorithm", algorithm, ("full", "fast"))
        check_minimum("steps", steps, 1, "the paper uses 100")
        self._core = required("saliency.core", "saliency")
        self.steps = steps
        self.algorithm = algorithm

    def _explain(self, images: Tensor, targets: Tensor) -> Tensor:
        pairs = zip(torch.split(images, 1), torch.split(targets, 1), strict=True)
        maps = [self._one(image, target) for image, target in pairs]
        return torch.stack(maps).to(images.device)

    def _one(self, image: Tensor, target: Tensor) -> Tensor:
        """The map ``[H, W]`` of one image ``[1, C, H, W]``."""
        network = ToLogits(self.model, self.output, target)
        with torch.no_grad():
            network(image)
        # A segmentation network's score is read where it sees the class in the whole image.
        regions = class_regions(network.seen, target) if network.seen.ndim > 2 else None
        # NumPy has no bfloat16.
        dtype = torch.promote_types(image.dtype, torch.float32)
        key, budget = self._core.INPUT_OUTPUT_GRADIENTS, CURRENT_BUDGET.get()

        def gradients(batch: Any, **_: Any) -> dict[str, Any]:
            if budget is not None and budget.used_up:
                budget.asked += len(batch)
                return {key: np.zeros_like(batch)}
            began = perf_counter()
            inputs = torch.as_tensor(np.asarray(batch)).to(image).movedim(-1, 1).contiguous().requires_grad_()
            several = None if regions is None else regions.expand(len(inputs), *regions.shape[1:])
            own = network(inputs, several)[:, int(target)]
            [found] = torch.autograd.grad(own.sum(), inputs)
            if budget is not None:
                budget.note(len(batch), perf_counter() - began)
            return {key: found.movedim(1, -1).to(dtype).cpu().numpy()}

        parameters = self._core.XRAIParameters(steps=self.steps, algorithm=self.algorithm)
        pixels = image[0].movedim(0, -1).to(dtype).cpu().numpy()
        mask = self._core.XRAI().GetMask(pixels, gradients, batch_size=_PASS_SIZE, extra_parameters=parameters)
        return torch.as_tensor(mask, dtype=dtype)
