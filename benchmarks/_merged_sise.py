"""SISE that scores one mask for each group of similar masks of a block.

It is not an explainer of the package: docs/results/sise_passes.md. Named before it was run: a share of 0.09 on
SqueezeNet, where the intervals of the differences of EBPG, Drop and Increase to all masks were to contain zero, at no
more than a tenth of the passes.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import normalize

from lightning_saliency.explainers import SISE
from lightning_saliency.explainers.mask_scoring.scorer import MaskScorer
from lightning_saliency.functional.fusion import cascade_fusion
from lightning_saliency.functional.masking import attribution_masks, resize_maps

#: Most rounds in which masks are given to groups.
ROUNDS = 20


class MergedSISE(SISE):
    """SISE whose masks have the score of the mask that stands for their group; all masks are summed, as without groups.

    Args:
        model: The network.
        share: Of a block's masks as many are scored, in (0, 1], rounded, at least one.
        **options: Those of ``SISE``, except ``block``.
    """

    def __init__(self, model: nn.Module, share: float = 0.09, **options: Any) -> None:
        super().__init__(model, **options)
        self.share = share

    def _maps(self, images: Tensor, targets: Tensor | None) -> Tensor:
        blocks, targets = self._blocks(images, targets)
        total = sum(max(1, round(self.share * int(kept.sum()))) for block in blocks for kept in block.chosen)
        with self._scorer(images, targets, self.fill, total=total) as scorer:
            return cascade_fusion(
                [
                    torch.stack(
                        [
                            self._visualized(scorer, feature_maps[kept], image)
                            for image, (feature_maps, kept) in enumerate(
                                zip(block.feature_maps, block.chosen, strict=True)
                            )
                        ]
                    )
                    for block in blocks
                ]
            )

    def _visualized(self, scorer: MaskScorer, feature_maps: Tensor, image: int) -> Tensor:
        """An image's visualisation map ``[H, W]`` of a block, of its feature maps ``[K, h, w]``."""
        size = (scorer.images.shape[2], scorer.images.shape[3])
        masks, sums = attribution_masks(feature_maps, size)
        masks, sums = masks[sums > 0], sums[sums > 0]
        if not len(masks):
            return scorer.images.new_zeros(size)
        groups, chosen = grouped(masks, max(1, round(self.share * len(masks))))
        owners = torch.full((len(chosen),), image, device=masks.device)
        weights = scorer(masks[chosen], owners)[groups] / sums
        return resize_maps((weights[:, None, None] * masks).mean(0, keepdim=True), size)[0]


def grouped(masks: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """Groups of masks that point the same way, by k-means on the sphere, and the mask that stands for each.

    The first centre is the mask most like the sum of all, each next one the mask least like those before. Then, until
    nothing changes or `ROUNDS` are over, each mask goes to the centre that it is most like, and a centre becomes the
    direction of its masks' sum. What stands for a group is the mask most like its centre. Likeness is the cosine.

    Args:
        masks: ``[K, h, w]``, none of them zero.
        count: Number of groups, from 1 to K.

    Returns:
        The group of each mask ``[K]``, and ``[G]`` the index of each group's mask, G ≤ ``count``, groups that lost all
        their masks being left out.

    Example:
        >>> masks = torch.tensor([[1.0, 0.0], [0.9, 0.1], [0.0, 1.0], [1.0, 0.1]])
        >>> groups, chosen = grouped(masks[:, None], 2)
        >>> groups.tolist(), chosen.tolist()
        ([0, 0, 1, 0], [3, 2])
    """
    rows = normalize(masks.flatten(1).double(), dim=1)
    first = (rows @ rows.sum(0)).argmax()
    centres, nearest = [rows[first]], rows @ rows[first]
    while len(centres) < count:
        centres.append(rows[nearest.argmin()])
        nearest = torch.maximum(nearest, rows @ centres[-1])
    points = torch.stack(centres)
    groups = (rows @ points.T).argmax(1)
    for _ in range(ROUNDS):
        sums = torch.zeros_like(points).index_add_(0, groups, rows)
        # A centre without masks stays where it is.
        points = torch.where(sums.norm(dim=1, keepdim=True) > 0, normalize(sums, dim=1), points)
        before, groups = groups, (rows @ points.T).argmax(1)
        if torch.equal(before, groups):
            break
    kept, groups = groups.unique(return_inverse=True)
    likeness = rows @ points[kept].T
    likeness = likeness.masked_fill(groups[:, None] != torch.arange(len(kept), device=groups.device), -torch.inf)
    return groups, likeness.argmax(0)
