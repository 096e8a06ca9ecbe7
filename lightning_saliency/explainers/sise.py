"""SISE: semantic input sampling for explanation."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import partial
from typing import Literal, NamedTuple

import torch
from torch import Tensor, nn

from lightning_saliency.checks import check_minimum
from lightning_saliency.explainers.base import Output, select_targets
from lightning_saliency.explainers.mask_scoring import MaskBlock, MaskScorer, MaskScoringExplainer
from lightning_saliency.explainers.mask_scoring.precisions import Precision
from lightning_saliency.functional.class_scores import Score, log_odds
from lightning_saliency.functional.fills import Fill
from lightning_saliency.functional.fusion import cascade_fusion
from lightning_saliency.functional.masking import attribution_masks, resize_maps


class SISE(MaskScoringExplainer):
    """SISE (Sattarzadeh et al. 2021): the masks are those feature maps of every block that support the class.

    1. One forward pass; the tensors that enter the poolings, A^(l), are the blocks' feature maps.
    2. Feature maps with α_k > μ·β are kept, where α_k = Σ_λ ∂Ψ/∂A_k(λ) and β = max_k α_k (Eq. 4-6; the paper's text,
       not its inequality sign). They are upsampled and min-maxed to masks m; constant ones are dropped.
    3. V^(l)(λ) = mean over the block's masks of Ψ(I ⊙ m) · m(λ)/Σm (Eq. 3 and 12).
    4. The blocks' V are fused from shallow to deep, see `cascade_fusion`.

    The cost is one forward and one backward pass, and one forward pass for each mask kept; each image has its own
    masks. A block without masks is skipped; without any mask the map is zero.

    The gradient is taken of log(Ψ/(1 − Ψ)), in each image a positive multiple of that of Ψ: it keeps the same maps,
    even where Ψ is so close to 0 or 1 that its own gradient vanishes.

    Args:
        model: The network, see ``Explainer``.
        mu: μ in [0, 1): 0 keeps all maps with a positive gradient, 0.3 to 0.5 is several times faster, in the paper's
            Table 6 at little loss.
        layers: The blocks, shallow to deep: names of modules whose outputs are read (``"name:input"``: their inputs).
            ``"auto"``: the network's scales.
        block: ``None``: the fused map. A number from 0 (shallow; negative ones count from the deepest): the
            visualisation map V of that block alone (Eq. 12), and only its masks are scored.
        max_masks: Maximum number of maps per image and block; those with the largest α are kept. ``None``: all.
        fill: What shows where a mask is zero, see `fill_images`; ``"zero"`` makes it the paper's product I ⊙ m, in
            the network's normalised input space.
        output: Takes the logits out of what the network returns, see ``Explainer``.
        score: Ψ: ``"softmax"``, ``"sigmoid"`` (multi-label heads) or ``"logit"``.
        batch_size: Masked images in one pass, see `score_masks`.
        precision: ``"bf16"`` or ``"fp16"``: autocast the masked images' passes. ``None``: as the caller has it.
        fast: Score the masked images with a faster copy of the network, see `fast_inference` and `native_precision`.
        progress: Show a progress bar.

    Raises:
        ValueError: If an option is out of range or unknown.

    Example:
        >>> blocks = [nn.Conv2d(3, 8, 3), nn.ReLU(), nn.MaxPool2d(2), nn.Conv2d(8, 8, 3), nn.ReLU()]
        >>> model = nn.Sequential(*blocks, nn.AdaptiveAvgPool2d(1), nn.Flatten())
        >>> SISE(model, layers=("1", "4"))(torch.rand(2, 3, 16, 16)).shape
        torch.Size([2, 16, 16])
    """

    def __init__(
        self,
        model: nn.Module,
        mu: float = 0.0,
        layers: Literal["auto"] | Sequence[str] = "auto",
        max_masks: int | None = None,
        fill: Fill = "zero",
        *,
        block: int | None = None,
        output: Output = None,
        score: Score = "softmax",
        batch_size: int | Literal["auto"] = "auto",
        precision: Precision | None = None,
        fast: bool = False,
        progress: bool = False,
    ) -> None:
        super().__init__(
            model, output=output, score=score, batch_size=batch_size, precision=precision, fast=fast, progress=progress
        )
        if not 0 <= mu < 1:
            raise ValueError(f"Got mu={mu}. Allowed is [0, 1); 0 keeps every feature map with a positive gradient.")
        if max_masks is not None:
            check_minimum("max_masks", max_masks, 1, "give one, or None for all")
        if layers != "auto" and (isinstance(layers, str) or not layers):
            raise ValueError(
                f"Got layers={layers!r}. Allowed are 'auto' and a sequence of at least one module's name, such as "
                "('layer1', 'layer2')."
            )
        self.mu = mu
        self.block = block
        self.layers = layers
        self.max_masks = max_masks
        self.fill = fill

    def _explain(self, images: Tensor, targets: Tensor) -> Tensor:
        return self._maps(images, targets)

    def _explain_predicted(self, images: Tensor) -> Tensor:
        return self._maps(images, None)

    def _maps(self, images: Tensor, targets: Tensor | None) -> Tensor:
        blocks, targets = self._blocks(images, targets)
        total = sum(int(block.chosen.sum()) for block in blocks)
        with self._scorer(images, targets, self.fill, total=total) as scorer:
            visualized = [_visualize(scorer, block.feature_maps, block.chosen) for block in blocks]
            return visualized[0] if self.block is not None else cascade_fusion(visualized)

    def _mask_blocks(self, images: Tensor, targets: Tensor | None, count: int | None) -> list[MaskBlock]:
        blocks, targets = self._blocks(images, targets)
        total = sum(len(block.chosen[0].nonzero()[:count]) for block in blocks)
        with self._scorer(images, targets, self.fill, total=total) as scorer:
            return [_first_masks(scorer, block, count) for block in blocks]

    def _blocks(self, images: Tensor, targets: Tensor | None) -> tuple[list[_Block], Tensor]:
        """Which feature maps of each block are masks, and the targets."""
        if self.layers == "auto":
            # The layer in the place of the last scale may be another scale.
            scales = list(dict.fromkeys([*self._all_scales(images)[:-1], self._last_scale(images)]))
        else:
            scales = [self._scale(images, layer) for layer in self.layers]
        if self.block is not None:
            if not -len(scales) <= self.block < len(scales):
                raise ValueError(
                    f"Got block={self.block} for a network of {len(scales)} blocks, "
                    f"{', '.join(repr(scale.module) for scale in scales)}. Allowed are numbers from {-len(scales)} to "
                    f"{len(scales) - 1}; give one."
                )
            scales = [scales[self.block]]
        pairs, logits = self._gradients(images, targets, scales, scores=partial(log_odds, score=self.score))
        if self.layers == "auto" and len(pairs) > 1 and torch.equal(pairs[-1][0], pairs[-2][0]):
            # What enters the last block may be what leaves the scale before, and is one block's.
            del pairs[-2], scales[-2]
        targets = select_targets(logits, targets)
        blocks = []
        for scale, (feature_maps, gradients) in zip(scales, pairs, strict=True):
            importance = _importance(gradients)
            chosen = _chosen(importance, self.mu, self.max_masks)
            blocks.append(_Block(scale.name, feature_maps, importance, chosen))
        return blocks, targets


class _Block(NamedTuple):
    name: str
    feature_maps: Tensor
    importance: Tensor
    chosen: Tensor


def select_feature_maps(gradients: Tensor, mu: float, max_masks: int | None = None) -> Tensor:
    """The feature maps that SISE makes masks of: α_k > μ·β, α_k = Σ_λ ∂Ψ/∂A_k(λ), β = max_k α_k (Eq. 4-6).

    Args:
        gradients: ∂Ψ/∂A, ``[B, K, h, w]``, or any multiple of it that is positive in each image.
        mu: μ in [0, 1).
        max_masks: Maximum number of maps per image; those with the largest α are kept, ties in order. ``None``: all.

    Returns:
        ``[B, K]`` bool.

    Example:
        >>> gradients = torch.tensor([-1.0, 0.5, 2.0, 0.9]).view(1, 4, 1, 1)
        >>> select_feature_maps(gradients, mu=0.0), select_feature_maps(gradients, mu=0.4)
        (tensor([[False,  True,  True,  True]]), tensor([[False, False,  True,  True]]))
    """
    return _chosen(_importance(gradients), mu, max_masks)


def _importance(gradients: Tensor) -> Tensor:
    """α_k = Σ_λ ∂Ψ/∂A_k(λ), ``[B, K]``."""
    return (gradients if gradients.dtype == torch.float64 else gradients.float()).sum((2, 3))


def _chosen(importance: Tensor, mu: float, max_masks: int | None) -> Tensor:
    chosen = importance > mu * importance.amax(dim=1, keepdim=True)
    if max_masks is not None and max_masks < chosen.shape[1]:
        order = importance.argsort(dim=1, descending=True, stable=True)
        chosen &= torch.zeros_like(chosen).scatter_(1, order[:, :max_masks], True)
    return chosen


def _masks(
    scorer: MaskScorer, feature_maps: Tensor, owners: Tensor, channels: Tensor
) -> Iterator[tuple[Tensor, Tensor, Tensor, Tensor]]:
    """Some images' and channels' masks that are not constant, a few at a time.

    Yields:
        Images, channels, masks ``[n, h, w]`` and the sum of each once it is upsampled.
    """
    size = (scorer.images.shape[2], scorer.images.shape[3])

    def masks_of(owners: Tensor, channels: Tensor) -> tuple[Tensor, Tensor]:
        return attribution_masks(feature_maps[owners, channels], size)

    for (images, which), (masks, sums) in scorer.made(masks_of, owners, channels):
        varied = sums > 0
        yield images[varied], which[varied], masks[varied], sums[varied]


def _first_masks(scorer: MaskScorer, block: _Block, count: int | None) -> MaskBlock:
    """An image's masks of a block, those of the largest α first."""
    channels = block.importance[0].argsort(descending=True, stable=True)
    channels = channels[block.chosen[0][channels]]
    size = (scorer.images.shape[2], scorer.images.shape[3])
    masks, scores = [scorer.images.new_zeros(0, *size)], [scorer.images.new_zeros(0)]
    found: list[int] = []
    for owners, which, part, _ in _masks(scorer, block.feature_maps, torch.zeros_like(channels), channels):
        left = len(which) if count is None else count - len(found)
        masks.append(resize_maps(part[:left], size))
        scores.append(scorer(part[:left], owners[:left]))
        found += which[:left].tolist()
        if len(found) == count:
            break
    labels = tuple(f"channel {channel}" for channel in found)
    order = "largest gradient first"
    return MaskBlock(block.name, labels, torch.cat(masks), scorer.fill[0], torch.cat(scores), "Ψ", order, len(channels))


def _visualize(scorer: MaskScorer, feature_maps: Tensor, chosen: Tensor) -> Tensor:
    """A block's visualisation maps V, ``[B, H, W]`` (Eq. 12); zero where none of an image's feature maps is a mask.

    Interpolation is linear: the scored masks are summed at the block's own resolution, and their sum is upsampled.
    """
    size = (scorer.images.shape[2], scorer.images.shape[3])
    dtype = torch.float64 if feature_maps.dtype == torch.float64 else torch.float32
    # Zero, or NaN where a feature map is not finite, from which no mask can be made.
    total = feature_maps.mul(0).sum(1, dtype=dtype)
    count = total.new_zeros(chosen.shape[0])
    for owners, _, masks, sums in _masks(scorer, feature_maps, *chosen.nonzero(as_tuple=True)):
        weights = scorer(masks, owners).to(dtype) / sums
        total.index_add_(0, owners, weights[:, None, None] * masks)
        count.index_add_(0, owners, torch.ones_like(weights))
    return resize_maps(total / count.clamp(min=1)[:, None, None], size)
