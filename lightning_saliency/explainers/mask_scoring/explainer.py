"""The base class of explainers that score masked images."""

from __future__ import annotations

from abc import abstractmethod
from typing import Any, Literal

from torch import Tensor, nn

from lightning_saliency.checks import check_choice, check_minimum
from lightning_saliency.explainers.base import Explainer, Output, as_taken, check_images, checked_targets, undisturbed
from lightning_saliency.explainers.mask_scoring.blocks import MaskBlock
from lightning_saliency.explainers.mask_scoring.fast_forward import FastCopy
from lightning_saliency.explainers.mask_scoring.precisions import Precision, native_precision
from lightning_saliency.explainers.mask_scoring.scorer import MaskScorer, check_scoring
from lightning_saliency.functional.class_scores import Score
from lightning_saliency.functional.fills import Fill


class MaskScoringExplainer(Explainer):
    """An explainer that scores masked images. A subclass implements ``_explain`` and ``_mask_blocks``.

    Args:
        model: The network, see ``Explainer``.
        layer: Layer to read, see ``Explainer``.
        output: Function that takes the logits out of the network's output, see ``Explainer``.
        score: Ψ of the class: ``"softmax"``, ``"sigmoid"`` (multi-label heads) or ``"logit"``.
        batch_size: Masked images in one pass, see `score_masks`.
        precision: ``"bf16"`` or ``"fp16"``: autocast the masked images' passes. ``None``: the caller's precision.
        fast: Score the masked images with a faster copy of the network, see `fast_inference`, in ``precision``, or by
            default the one in which the device is fastest, see `native_precision`. The explainer keeps the copy and
            brings it up to date at each call, see `FastCopy`. ``"compiled"``: compile it, too.
        progress: Show a progress bar.

    Raises:
        ValueError: If an option is unknown.
    """

    #: A map costs many passes.
    expensive = True

    def __init__(
        self,
        model: nn.Module,
        layer: Any = None,
        *,
        output: Output = None,
        score: Score = "softmax",
        batch_size: int | Literal["auto"] = "auto",
        precision: Precision | None = None,
        fast: bool | Literal["compiled"] = False,
        progress: bool = False,
    ) -> None:
        super().__init__(model, layer, output=output)
        check_scoring(score, batch_size, precision)
        check_choice("fast", fast, (False, True, "compiled"))
        self.score: Score = score
        self.batch_size: int | Literal["auto"] = batch_size
        self.precision: Precision | None = precision
        self.fast = fast
        self.progress = progress
        self._copy: FastCopy | None = None

    def mask_blocks(self, image: Tensor, target: int | None = None, count: int | None = None) -> list[MaskBlock]:
        """The masks with which the network is asked about one image, and what it answers: they are made as for a map.

        SISE's are the attribution masks of each block (Eq. 6), those with the largest gradient first; RISE's the random
        ones, in the order in which they are drawn; Group-CAM's those of its groups (Eq. 4), the largest gain α (Eq. 6)
        first; Score-CAM's the channels, the largest score first. To find their order, the latter two score all of their
        masks, as for a map; the others score those alone that are given.

        Args:
            image: ``[C, H, W]``, floating point, as the network takes it, on its device.
            target: The class; ``None``: the predicted one.
            count: How many masks of each block, at most; ``None``: all, which may need much memory.

        Returns:
            The blocks, shallow to deep; of other explainers than SISE one. A block whose masks are all constant, which
            show nothing, has none.

        Raises:
            TypeError: If the image or the target is of another type.
            ValueError: If the image has another shape, the target is no class of the network, or ``count`` is below 1.

        Example:
            >>> import torch
            >>> from lightning_saliency.explainers import RISE
            >>> model = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten())
            >>> [block] = RISE(model, masks=20, grid=3).mask_blocks(torch.rand(3, 16, 16), count=2)
            >>> block.name, block.labels, list(block.masks.shape), block.total
            ('random', ('mask 1', 'mask 2'), [2, 16, 16], 20)
        """
        if isinstance(image, Tensor) and image.ndim != 3:
            raise ValueError(f"Got an image {list(image.shape)}. Allowed is one, [C, H, W]; take images[0] of a batch.")
        if count is not None:
            check_minimum("count", count, 1, "give one, or None for all")
        images = image[None] if isinstance(image, Tensor) else image
        check_images(images)
        with undisturbed(self.model):
            targets = checked_targets(target, 1)
            images = as_taken(images, self.model)
            return self._mask_blocks(images, None if targets is None else targets.to(images.device), count)

    @abstractmethod
    def _mask_blocks(self, images: Tensor, targets: Tensor | None, count: int | None) -> list[MaskBlock]:
        """The masks of one image; called as ``_explain`` and ``_explain_predicted`` are.

        Args:
            images: ``[1, C, H, W]``.
            targets: ``[1]`` int64; ``None``: the predicted class.
            count: How many of each block, at most; ``None``: all.
        """

    @property
    def _halved(self) -> bool:
        """Whether masked images were scored in half precision."""
        return self.precision is not None or (self._copy is not None and self._copy.precision is not None)

    def _scorer(
        self, images: Tensor, targets: Tensor, fill: Fill, total: int, exact: bool = False, checked: bool = False
    ) -> MaskScorer:
        if self.fast and self._copy is None:
            precision = self.precision or native_precision(images.device)
            self._copy = FastCopy(self.model, precision, self.fast == "compiled")
        return MaskScorer(
            self.model,
            images,
            targets,
            fill=fill,
            batch_size=self.batch_size,
            score=self.score,
            output=self.output,
            precision=None if exact else self.precision,
            fast=self._copy if self._copy is not None and not exact else False,
            progress=self.progress,
            total=total,
            checked=checked,
        )
