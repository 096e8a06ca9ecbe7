"""Group-CAM that scores a few groups at a time until its map's ranking settles, and estimates the other groups' scores.

It does not keep the ranking well enough to be an explainer of the package: docs/results/group_cam_passes.md.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from lightning_saliency.explainers import GroupCAM
from lightning_saliency.functional.similarity import spearman

#: Masks scored before the ranking is looked at for the first time, and from then on between two looks.
FIRST, STEP = 6, 4
# Variance of what distances do not explain, beside 1; variance of the constant, so large that it is left free.
_NUGGET, _CONSTANT = 1e-3, 10.0


class SettledGroupCAM(GroupCAM):
    """Group-CAM whose groups' scores are those of `settled_scores`; in half precision no image is scored again exactly.

    Args:
        model: The network.
        settled: Spearman's correlation in (0, 1] of the maps of two rounds at which an image is done.
        **options: Those of ``GroupCAM``; its ``score`` must be a probability.
    """

    def __init__(self, model: nn.Module, layer: Any = None, *, settled: float, **options: Any) -> None:
        super().__init__(model, layer, **options)
        self.settled = settled

    @property
    def _halved(self) -> bool:
        return False

    def _scores(self, images: Tensor, targets: Tensor, fill: Tensor, queries: Tensor, exact: bool = False) -> Tensor:
        with self._scorer(images, targets, fill, total=queries.shape[0] * queries.shape[1], exact=exact) as scorer:
            return settled_scores(scorer, queries, self.settled)


def settled_scores(score: Callable[[Tensor, Tensor], Tensor], queries: Tensor, settled: float) -> Tensor:
    """Scores of masks in an order in which each says most beyond those before it, until the map's ranking has settled.

    The masks are scored farthest first, see `spread_order`. After each round the scores of the masks left are
    estimated, see `estimated_scores`, and the map ReLU(Σ gain × mask), the gains being over the empty mask, is compared
    with that of the round before. An image whose two maps correlate at least as ``settled`` says is done. A map
    without a ranking, zero everywhere, has not settled. Masks that show nothing are never scored: their score is the
    empty mask's.

    Args:
        score: The scores ``[N]``, probabilities, of masks ``[N, h, w]``, the n-th on image ``owners[n]``.
        queries: ``[B, M + 1, h, w]`` in [0, 1], the last one empty.
        settled: Spearman's correlation in (0, 1] at which an image is done.

    Returns:
        ``[B, M + 1]``, in the order of ``queries``.

    Example:
        >>> masks = torch.eye(8)[None, :, None]
        >>> queries = torch.cat([masks, torch.zeros_like(masks[:, :1])], dim=1)
        >>> scored = []
        >>> def score(masks, owners):
        ...     scored.append(len(owners))
        ...     return 0.25 + masks.sum((1, 2)) / 2
        >>> settled_scores(score, queries, settled=0.9)[0].round(decimals=2).tolist(), scored
        ([0.75, 0.75, 0.75, 0.75, 0.75, 0.75, 0.75, 0.75, 0.25], [7, 2])
    """
    order = spread_order(queries)
    rows = torch.arange(len(queries))
    ordered = queries[rows[:, None].to(queries.device), order.to(queries.device)]
    masks = ordered.to("cpu", torch.float64)
    shown = (masks.flatten(2).amax(2) > 0).sum(1) + 1
    known = torch.zeros(order.shape, dtype=torch.float64)
    estimates = torch.zeros_like(known)
    maps: Tensor | None = None
    active, done = rows, 0
    while len(active):
        until = min(done + (STEP if done else FIRST + 1), order.shape[1])
        unseen = torch.arange(done, until) >= shown[active, None]
        image, mask = (~unseen).nonzero(as_tuple=True)
        image, mask = active[image], mask + done
        there = image.to(queries.device)
        scores = score(ordered[there, mask.to(queries.device)], there)
        known[image, mask] = scores.to("cpu", torch.float64)
        known[active, done:until] = torch.where(unseen, known[active, :1], known[active, done:until])
        estimates[active] = estimated_scores(masks[active], known[active, :until])
        gains = estimates[active, 1:] - estimates[active, :1]
        now = (gains[..., None, None] * masks[active, 1:]).sum(1).relu()
        left = until < shown[active]
        if maps is not None:
            left &= (spearman(now, maps) < settled) | (now.amax((1, 2)) == 0)
        active, maps, done = active[left], now[left], until
    estimates = torch.where(torch.arange(order.shape[1]) < shown[:, None], estimates, estimates[:, :1])
    return torch.zeros_like(estimates).scatter(1, order, estimates).to(queries)


def spread_order(queries: Tensor) -> Tensor:
    """An order in which masks lie far from those before them.

    The empty one comes first, and then, each time, the mask whose distance to the nearest one chosen, times its own
    length (both Euclidean), is largest.

    Args:
        queries: ``[B, M + 1, h, w]``, the last one empty.

    Returns:
        ``[B, M + 1]`` int64, indices into ``queries``, on the CPU.

    Example:
        >>> spread_order(torch.tensor([[[[0.0, 0.5]], [[0.1, 1.0]], [[0.9, 0.0]], [[0.0, 0.0]]]])).tolist()
        [[3, 1, 2, 0]]
    """
    masks = queries.to("cpu", torch.float64).flatten(2)
    distances, lengths = _distances(masks), masks.norm(dim=2)
    count = masks.shape[1]
    chosen = [torch.full((len(masks),), count - 1)]
    nearest = distances[:, -1].clone()
    waiting = torch.ones(masks.shape[:2], dtype=torch.bool)
    for _ in range(count - 1):
        waiting.scatter_(1, chosen[-1][:, None], False)
        chosen.append((nearest * lengths).masked_fill(~waiting, -1.0).argmax(1))
        nearest = torch.minimum(nearest, distances[torch.arange(len(masks)), chosen[-1]])
    return torch.stack(chosen, dim=1)


def estimated_scores(masks: Tensor, known: Tensor) -> Tensor:
    """Scores of all masks from those of the first ones, by kriging: what is alike scores alike.

    The covariance of two masks' log-odds is exp(−d / 2m), d being their Euclidean distance and m the median of all such
    distances, around a constant that is left free.

    Args:
        masks: ``[B, M, h, w]`` float64.
        known: ``[B, K]`` float64, the scores of the first K ≤ M masks, probabilities.

    Returns:
        ``[B, M]``; the first K as they are.

    Example:
        >>> masks = torch.tensor([[[[0.0]], [[1.0]], [[0.5]]]], dtype=torch.float64)
        >>> estimated_scores(masks, torch.tensor([[0.2, 0.8]], dtype=torch.float64)).round(decimals=2).tolist()
        [[0.2, 0.8, 0.5]]
    """
    count = known.shape[1]
    distances = _distances(masks.flatten(2))
    median = distances.masked_fill(distances == 0, torch.nan).flatten(1).nanmedian(1).values.nan_to_num(1.0)
    covariance = torch.exp(-distances / (2 * median[:, None, None])) + _CONSTANT
    values = known.logit(eps=1e-12)
    mean = values.mean(1, keepdim=True)
    among = covariance[:, :count, :count] + _NUGGET * torch.eye(count, dtype=covariance.dtype)
    weights = torch.linalg.solve(among, (values - mean)[..., None])
    found = mean + (covariance[:, :, :count] @ weights)[..., 0]
    return torch.cat([known, found[:, count:].sigmoid()], dim=1)


def _distances(masks: Tensor) -> Tensor:
    """Euclidean ones between all pairs of an image's masks ``[B, M, N]``, exactly zero where two are equal."""
    return torch.cdist(masks, masks, compute_mode="donot_use_mm_for_euclid_dist")
