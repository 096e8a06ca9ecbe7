"""FastCAM: the fine SMOE Scale map times the class-specific, coarse CAM, from one forward pass."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

from torch import Tensor, nn

from lightning_saliency.checks import check_choice
from lightning_saliency.explainers.base import Explainer, Layer, Output, stretched
from lightning_saliency.explainers.cam import CAMS
from lightning_saliency.explainers.smoe import SMOE
from lightning_saliency.functional.masking import resize_maps
from lightning_saliency.functional.statistics import Statistic
from lightning_saliency.scales.maps import Normalization


class FastCAM(Explainer):
    """SMOE × CAM, pixel by pixel (SMOE paper, Sec. 3.2).

    SMOE is the combined map of Eq. 3 and CAM the class activation map at the images' size, stretched to [0, 1]. One
    forward pass serves both; the backward pass goes through the head only. SMOE × (1 − CAM) is what the network found
    interesting but not for this class: ``non_class(images, targets)``, or all maps with ``shown="non_class"``.

    Args:
        model: The network, see ``Explainer``.
        layer: The layer (or layers) of the CAM, see ``ClassActivationMap``.
        cam: ``"gradcam++"`` (the paper's), ``"gradcam"``, ``"xgradcam"`` or ``"layercam"``.
        statistic: A name in ``STATISTICS`` or a ``Statistic``.
        weights: Weights of the scales, see ``SMOE``.
        layers: The scales of SMOE, see ``SMOE``.
        normalization: Of SMOE's scales, see ``SMOE``.
        shown: ``"class"``, or ``"non_class"`` for the maps SMOE × (1 − CAM).
        output: Takes the logits out of what the network returns, see ``Explainer``.

    Raises:
        TypeError: If ``layer`` or ``layers`` are of another type.
        ValueError: If the CAM, the statistic, the normalization or what is shown is unknown.

    Example:
        >>> import torch
        >>> model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten())
        >>> fast_cam = FastCAM(model, layer="1", layers=["1"])
        >>> images = torch.rand(2, 3, 16, 16)
        >>> fast_cam(images, targets=3).shape, fast_cam.non_class(images, targets=3).shape
        (torch.Size([2, 16, 16]), torch.Size([2, 16, 16]))
    """

    takes_volumes = True
    takes_integers = True

    def __init__(
        self,
        model: nn.Module,
        layer: Layer | Sequence[Layer] | None = None,
        *,
        cam: str = "gradcam++",
        statistic: str | Statistic = "smoe_scale",
        weights: str | Sequence[float] = "equal",
        layers: str | Sequence[Layer] = "auto",
        normalization: Normalization = "normal",
        shown: Literal["class", "non_class"] = "class",
        output: Output = None,
    ) -> None:
        check_choice("cam", cam, CAMS)
        check_choice("shown", shown, ("class", "non_class"))
        super().__init__(model, output=output)
        self.cam = CAMS[cam](self.model, layer, output=output)
        self.smoe = SMOE(self.model, statistic, weights, layers, normalization=normalization, output=output)
        # One search for scales serves both.
        self.cam._found = self.smoe._found = self._found
        self.layer = self.cam.layer
        self.shown = shown

    def non_class(self, images: Tensor, targets: Tensor | int | None = None) -> Tensor:
        """What the network found interesting but not for this class: SMOE × (1 − CAM).

        Arguments, result and errors are those of ``__call__``.
        """
        return self._run(images, targets, self._rest)

    def _explain(self, images: Tensor, targets: Tensor) -> Tensor:
        return self._maps(images, targets)

    def _explain_predicted(self, images: Tensor) -> Tensor:
        return self._maps(images, None)

    def _maps(self, images: Tensor, targets: Tensor | None) -> Tensor:
        return self._product(images, targets) if self.shown == "class" else self._rest(images, targets)

    def _product(self, images: Tensor, targets: Tensor | None) -> Tensor:
        smoe, cam = self._both(images, targets)
        return smoe * cam

    def _rest(self, images: Tensor, targets: Tensor | None) -> Tensor:
        smoe, cam = self._both(images, targets)
        return smoe * (1 - cam)

    def _both(self, images: Tensor, targets: Tensor | None) -> tuple[Tensor, Tensor]:
        """The two maps ``[B, H, W]`` in [0, 1], from one forward pass."""
        with self.smoe.taps(images) as taps:
            cam = self.cam.class_map(images, targets, taps)
            smoe = self.smoe.collect(taps, images).combined()
        return smoe, stretched(resize_maps(cam, images.shape[2:]))
