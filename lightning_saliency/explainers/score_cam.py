"""Score-CAM: channels weighted by the score of the image seen through each of them."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor, nn

from lightning_saliency.explainers.base import Layer, Output, activations_only, select_targets
from lightning_saliency.explainers.mask_scoring import MaskBlock, MaskScoringExplainer
from lightning_saliency.explainers.mask_scoring.distinct_masks import distinct_jobs
from lightning_saliency.explainers.mask_scoring.precisions import Precision
from lightning_saliency.functional.class_scores import Score
from lightning_saliency.functional.fills import Fill
from lightning_saliency.functional.masking import attribution_masks, resize_maps


class ScoreCAM(MaskScoringExplainer):
    """Score-CAM (Wang et al. 2020): K + 1 forward passes per image for a layer of K channels, no gradients.

    Each channel A_k, upsampled to the image and min-maxed, is a mask H_k; the image seen through it scores
    S_k = Ψ(I ⊙ H_k) − Ψ(I_b), and map = ReLU(Σ α_k A_k) with α = softmax over the channels of S.

    The score of the baseline image I_b (zero in the network's normalised input space by default, which also stands
    where the mask is zero) is common to all channels and cancels in the softmax: no pass is spent on it. The mask of a
    constant channel is zero.

    Args:
        model: The network, see ``Explainer``.
        layer: The layer whose channels are the masks; ``None``: the network's last scale.
        fill: What shows where a mask is zero, see `fill_images`.
        output: Takes the logits out of what the network returns, see ``Explainer``.
        score: Ψ: ``"softmax"`` as in the paper, ``"sigmoid"`` (multi-label heads), or ``"logit"``, whose larger
            differences single out few channels (this is what torchcam does).
        batch_size: Masked images in one pass, see `score_masks`.
        precision: ``"bf16"`` or ``"fp16"``: autocast the masked images' passes. ``None``: as the caller has it.
        fast: Score the masked images with a faster copy of the network, see `fast_inference` and `native_precision`.
        progress: Show a progress bar.

    Raises:
        ValueError: If an option is unknown.

    Example:
        >>> model = nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten())
        >>> ScoreCAM(model, layer="1")(torch.rand(2, 3, 16, 16)).shape
        torch.Size([2, 16, 16])
    """

    def __init__(
        self,
        model: nn.Module,
        layer: Layer | None = None,
        fill: Fill = "zero",
        *,
        output: Output = None,
        score: Score = "softmax",
        batch_size: int | Literal["auto"] = "auto",
        precision: Precision | None = None,
        fast: bool = False,
        progress: bool = False,
    ) -> None:
        super().__init__(
            model,
            layer,
            output=output,
            score=score,
            batch_size=batch_size,
            precision=precision,
            fast=fast,
            progress=progress,
        )
        self.fill = fill

    def _explain(self, images: Tensor, targets: Tensor) -> Tensor:
        return self._maps(images, targets)

    def _explain_predicted(self, images: Tensor) -> Tensor:
        return self._maps(images, None)

    def _maps(self, images: Tensor, targets: Tensor | None) -> Tensor:
        activations, scores, _ = self._scored(images, targets)
        weights = scores.softmax(dim=1)
        return (weights[..., None, None] * activations).sum(1).relu()

    def _scored(self, images: Tensor, targets: Tensor | None) -> tuple[Tensor, Tensor, Tensor]:
        """The channels ``[B, K, h, w]``, the score ``[B, K]`` under the mask of each, and what shows behind masks."""
        [activations], logits = activations_only(self.model, images, [self._last_scale(images)], self.output)
        targets = select_targets(logits, targets)
        activations = activations if activations.dtype == torch.float64 else activations.float()
        size = (images.shape[2], images.shape[3])
        # A channel that is constant has an empty mask, see `attribution_masks`.
        owners, which, places = distinct_jobs(activations.amax((2, 3)) == activations.amin((2, 3)))
        scores = []

        def masks_of(of: Tensor, channels: Tensor) -> Tensor:
            return attribution_masks(activations[of, channels], size)[0]

        with self._scorer(images, targets, self.fill, total=len(owners)) as scorer:
            for (of, _), masks in scorer.made(masks_of, owners, which):
                scores.append(scorer(masks, of))
        return activations, torch.cat(scores)[places], scorer.fill

    def _mask_blocks(self, images: Tensor, targets: Tensor | None, count: int | None) -> list[MaskBlock]:
        [activations], [scores], [baseline] = self._scored(images, targets)
        size = (images.shape[2], images.shape[3])
        varied = (activations.amax((1, 2)) > activations.amin((1, 2))).nonzero()[:, 0]
        channels = varied[scores[varied].argsort(descending=True, stable=True)[:count]]
        masks, sums = attribution_masks(activations[channels], size)
        channels, masks = channels[sums > 0], resize_maps(masks[sums > 0], size)
        labels = tuple(f"channel {channel}" for channel in channels.tolist())
        name, order = self._last_scale(images).name, "largest score first"
        return [MaskBlock(name, labels, masks, baseline, scores[channels], "Ψ", order, len(activations))]
