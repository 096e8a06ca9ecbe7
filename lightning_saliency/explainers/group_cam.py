"""Group-CAM: group score-weighted class activation mapping."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor, nn

from lightning_saliency.checks import check_minimum
from lightning_saliency.explainers.base import Layer, Output, activations_only, select_targets
from lightning_saliency.explainers.mask_scoring import MaskBlock, MaskScoringExplainer
from lightning_saliency.explainers.mask_scoring.precisions import Precision
from lightning_saliency.functional.class_scores import Score, class_scores
from lightning_saliency.functional.fills import BLUR_SIGMA, BLUR_SIZE, blur
from lightning_saliency.functional.masking import resize_maps

#: Below this share of the whole image's score, masked images' scores are too small for half precision's rounding.
FAINT = 0.1


class GroupCAM(MaskScoringExplainer):
    """Group-CAM (Zhang, Rao and Yang 2021), Alg. 1: at most G + 2 forward passes an image, one backward of the head.

    The channels A of the layer, weighted by the mean gradient of the class's logit (Eq. 1), are summed in G groups and
    rectified (Eq. 2), de-noised (Eq. 3), min-maxed (Eq. 4) and upsampled to masks M. The weight of a mask is the gain
    of the network's confidence Ψ when the mask uncovers the blurred image (Eq. 5 and 6):

    α = Ψ(I ⊙ M + Ĩ ⊙ (1 − M)) − Ψ(Ĩ),  map = ReLU(Σ α M) (Eq. 7).

    A group whose mask is constant contributes nothing, and costs no pass.

    Args:
        model: The network, see ``Explainer``.
        layer: The layer to group; ``None``: the network's last scale.
        groups: G; K channels are shared out as evenly as possible, the first K mod G groups having one more. There are
            at most as many groups as channels.
        theta: Percentile, in [0, 100]: pixels of a group's mask at or below it are set to zero (linear interpolation
            between ranks). ``None``: no de-noising.
        kernel_size: Side of the Gaussian kernel that blurs the image, as a share of the image's side or in pixels, see
            `blur`; by default the paper's 51 pixels at 224.
        sigma: Standard deviation of that Gaussian, likewise; by default the paper's 50 pixels at 224.
        gradients: ``False``: no weights and no backward pass, plain sums of the activations (Sec. 5, with
            ``theta=None``).
        output: Takes the logits out of what the network returns, see ``Explainer``.
        score: Ψ: ``"softmax"``, ``"sigmoid"`` (multi-label heads) or ``"logit"``.
        batch_size: Masked images in one pass, see `score_masks`.
        precision: ``"bf16"`` or ``"fp16"``: autocast the masked images' passes. ``None``: as the caller has it.
        fast: Score the masked images with a faster copy of the network, see `fast_inference` and `native_precision`;
            masks and gradients are computed with the network itself. ``"compiled"``: compile the copy, too. In half
            precision, images whose class hardly survives any mask (no score reaches a tenth of the whole image's) are
            scored again exactly: their gains are differences of numbers so small that the rounding of half precision
            would decide the map.
        progress: Show a progress bar.

    Raises:
        ValueError: If an option is out of range or unknown.

    Example:
        >>> model = nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten())
        >>> GroupCAM(model, layer="1", groups=4)(torch.rand(2, 3, 16, 16)).shape
        torch.Size([2, 16, 16])
    """

    def __init__(
        self,
        model: nn.Module,
        layer: Layer | None = None,
        groups: int = 32,
        theta: float | None = 70.0,
        kernel_size: float = BLUR_SIZE,
        sigma: float = BLUR_SIGMA,
        gradients: bool = True,
        *,
        output: Output = None,
        score: Score = "softmax",
        batch_size: int | Literal["auto"] = "auto",
        precision: Precision | None = None,
        fast: bool | Literal["compiled"] = False,
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
        check_minimum("groups", groups, 1, "the paper uses 32")
        if theta is not None and not 0 <= theta <= 100:
            raise ValueError(f"Got theta={theta}. Allowed are percentiles in [0, 100] and None (no de-noising).")
        self.groups = groups
        self.theta = theta
        self.kernel_size = kernel_size
        self.sigma = sigma
        self.gradients = gradients

    def _explain(self, images: Tensor, targets: Tensor) -> Tensor:
        return self._maps(images, targets)

    def _explain_predicted(self, images: Tensor) -> Tensor:
        return self._maps(images, None)

    def _maps(self, images: Tensor, targets: Tensor | None) -> Tensor:
        masks, gains, _ = self._scored(images, targets)
        return resize_maps((gains[..., None, None] * masks).sum(1), (images.shape[2], images.shape[3])).relu()

    def _scored(self, images: Tensor, targets: Tensor | None) -> tuple[Tensor, Tensor, Tensor]:
        """The masks ``[B, G, h, w]`` before they are upsampled (Eq. 4), the gain α of each (Eq. 6), and Ĩ."""
        scales = [self._last_scale(images)]
        gradients = None
        if self.gradients:
            [(activations, gradients)], logits = self._gradients(images, targets, scales)
        else:
            [activations], logits = activations_only(self.model, images, scales, self.output)
        # The pass with gradients has checked given ones.
        if targets is None or not self.gradients:
            targets = select_targets(logits, targets)
        with torch.no_grad(), torch.autocast(images.device.type, enabled=False):
            masks = initial_masks(activations, gradients, self.groups, self.theta)
            blurred = blur(images, self.kernel_size, self.sigma)
        # Under an empty mask nothing but the blurred image is seen.
        queries = torch.cat([masks, torch.zeros_like(masks[:, :1])], dim=1)
        scores = self._scores(images, targets, blurred, queries)
        if self.score != "logit" and self._halved:
            own = class_scores(logits, self.score).gather(1, targets[:, None])[:, 0]
            faint = scores.amax(1) < FAINT * own
            if faint.any():
                part = images[faint], targets[faint], blurred[faint], queries[faint]
                # Also where it is the caller who autocasts.
                with torch.autocast(images.device.type, enabled=False):
                    scores[faint] = self._scores(*part, exact=True).to(scores.dtype)
        return masks, scores[:, :-1] - scores[:, -1:], blurred

    def _mask_blocks(self, images: Tensor, targets: Tensor | None, count: int | None) -> list[MaskBlock]:
        scale = self._last_scale(images)
        [masks], [gains], [blurred] = self._scored(images, targets)
        varied = masks.flatten(1).any(1).nonzero()[:, 0]
        groups = varied[gains[varied].argsort(descending=True, stable=True)[:count]]
        shown = resize_maps(masks[groups], (images.shape[2], images.shape[3]))
        parts = [part.tolist() for part in torch.arange(scale.channels).tensor_split(len(masks))]
        labels = tuple(f"channels {parts[group][0]}-{parts[group][-1]}" for group in groups.tolist())
        return [MaskBlock(scale.name, labels, shown, blurred, gains[groups], "α", "largest gain first", len(masks))]

    def _scores(self, images: Tensor, targets: Tensor, fill: Tensor, queries: Tensor, exact: bool = False) -> Tensor:
        total = 0
        if self.progress:
            filled = queries.flatten(2).any(2)
            total = int(filled.sum()) + len(filled)
        with self._scorer(images, targets, fill, total=total, exact=exact, checked=True) as scorer:
            return scorer.score_block(queries)


def initial_masks(activations: Tensor, gradients: Tensor | None, groups: int, theta: float | None) -> Tensor:
    """Group-CAM's masks before they are upsampled (Algorithm 1, lines 2-7; Eq. 1-4).

    Args:
        activations: A, ``[B, K, h, w]``.
        gradients: ∂(logit)/∂A, ``[B, K, h, w]``; ``None``: all weights are one.
        groups: G; at most K groups are made.
        theta: Percentile of the de-noising; ``None``: none.

    Returns:
        ``[B, min(G, K), h, w]`` in [0, 1], at least float32; zero for a constant group.

    Example:
        >>> activations = torch.tensor([[[[0.0, 2.0]], [[3.0, 5.0]], [[1.0, 1.0]]]])
        >>> initial_masks(activations, None, groups=2, theta=None).tolist()
        [[[[0.0, 1.0]], [[0.0, 0.0]]]]
    """
    activations = activations if activations.dtype == torch.float64 else activations.float()
    groups = min(groups, activations.shape[1])
    weighted = activations
    if gradients is not None:
        weighted = activations * gradients.to(activations.dtype).mean((2, 3), keepdim=True)
    sums = torch.stack([part.sum(1) for part in weighted.tensor_split(groups, dim=1)], dim=1)
    masks: Tensor = sums.relu()
    if theta is not None:
        masks = masks * (masks > percentile(masks, theta)[..., None, None])
    low, high = masks.amin((-2, -1), keepdim=True), masks.amax((-2, -1), keepdim=True)
    span = torch.where(high > low, high - low, torch.ones_like(high))
    return (masks - low) / span


def percentile(maps: Tensor, theta: float) -> Tensor:
    """The θ-th percentile of each map, interpolated linearly between ranks, as ``numpy.percentile`` does.

    Args:
        maps: ``[..., h, w]``.
        theta: θ in [0, 100].

    Returns:
        ``[...]``.

    Example:
        >>> percentile(torch.tensor([[0.0, 1.0], [2.0, 4.0]]), 50.0)
        tensor(1.5000)
    """
    # Not torch.quantile, which refuses more than 16 million values.
    ranked = maps.flatten(-2).sort(dim=-1).values
    position = theta / 100 * (ranked.shape[-1] - 1)
    below = min(int(position), ranked.shape[-1] - 1)
    above = min(below + 1, ranked.shape[-1] - 1)
    return torch.lerp(ranked[..., below], ranked[..., above], position - below)
