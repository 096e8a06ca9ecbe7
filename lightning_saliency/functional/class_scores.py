"""The score of a class: probability or logit, and the log-odds of a probability, whatever the head.

Three kinds of head are read, all in the same way wherever a class is asked for:

- ``[N, classes]``: one logit for each class.
- ``[N, 1]``: one logit z for a yes-no question. There are two classes: class 1 has the logit z, class 0 the logit −z;
  their probabilities are σ(z) and σ(−z), for a softmax and for a sigmoid alike.
- ``[N, classes, h, w]`` or ``[N, 1, h, w]``: the same for each pixel, as segmentation networks have it. The score of a
  class is the mean of its pixels' scores over a region: the pixels that are predicted as this class, or all pixels
  where none is.
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor
from torch.nn.functional import logsigmoid, one_hot

Score = Literal["softmax", "sigmoid", "logit"]

#: The label of pixels that are not to count, in most data sets for segmentation.
IGNORED = 255


def class_count(outputs: Tensor) -> int:
    """The number of classes of a head.

    Args:
        outputs: ``[N, classes]``, ``[N, 1]``, or either with pixels ``[..., h, w]``.

    Example:
        >>> [class_count(torch.zeros(shape)) for shape in ((4, 10), (4, 1), (4, 21, 8, 8))]
        [10, 2, 21]
    """
    return 2 if _is_yes_no(outputs) else outputs.shape[1]


def predicted_classes(outputs: Tensor) -> Tensor:
    """The class that the network sees in each image: the one with the largest logit.

    Of pixelwise outputs it is the class predicted for most pixels, class 0, usually the background, left aside; class 0
    where all pixels are predicted as it.

    Args:
        outputs: ``[N, classes]``, ``[N, 1]``, or either with pixels ``[..., h, w]``.

    Returns:
        ``[N]`` int64.

    Example:
        >>> predicted_classes(torch.tensor([[0.3], [-2.0]])).tolist(), predicted_classes(torch.eye(3)).tolist()
        ([1, 0], [0, 1, 2])
        >>> predicted_classes(torch.tensor([[[[9.0, 9.0, 0.0]], [[0.0, 0.0, 1.0]]]])).tolist()
        [1]
    """
    winners = _of_two(outputs.detach()).argmax(dim=1)
    return winners if winners.ndim == 1 else most_frequent_classes(winners)


def label_losses(outputs: Tensor, labels: Tensor) -> Tensor:
    """The cross-entropy of each image's class, −log p.

    p is the softmax over the classes; of a yes-no head it is the sigmoid σ(z) for class 1 and σ(−z) for class 0.

    Args:
        outputs: Logits ``[N, classes]`` or ``[N, 1]``.
        labels: The class of each image, ``[N]`` int64.

    Returns:
        ``[N]`` float32 or float64 on the outputs' device; −∞ for labels that are none of the classes, +∞ where the
        logits are NaN.

    Example:
        >>> label_losses(torch.tensor([[0.0, 0.0], [9.0, 0.0], [9.0, 0.0]]), torch.tensor([0, 1, -1]))
        tensor([0.6931, 9.0001,   -inf])
        >>> label_losses(torch.tensor([[0.0], [2.0]]), torch.tensor([1, 0]))
        tensor([0.6931, 2.1269])
    """
    logits = outputs.detach() if outputs.dtype == torch.float64 else outputs.detach().float()
    log_p = logsigmoid(_of_two(logits)) if _is_yes_no(logits) else logits.log_softmax(dim=1)
    labels = labels.to(logits.device)
    known = (labels >= 0) & (labels < log_p.shape[1])
    losses = -log_p.gather(1, torch.where(known, labels, 0)[:, None])[:, 0]
    return torch.where(known, losses.nan_to_num(nan=torch.inf, posinf=torch.inf), -torch.inf)


def most_frequent_classes(masks: Tensor) -> Tensor:
    """The class of most pixels of each mask, class 0 left aside where there is another one.

    Args:
        masks: ``[N, h, w]`` int64, the class of each pixel; negative numbers and 255 do not count.

    Returns:
        ``[N]`` int64; 0 where nothing but class 0 occurs, -1 where no class does. Of ties the first.

    Example:
        >>> most_frequent_classes(torch.tensor([[[0, 0, 0, 2]], [[0, 0, 0, 255]], [[255, 255, -1, -1]]])).tolist()
        [2, 0, -1]
    """
    flat = masks.flatten(1)
    counted = (flat >= 0) & (flat != IGNORED)
    classes = torch.unique(flat[counted])
    found = flat.new_full((len(flat),), -1)
    most = flat.new_zeros(len(flat))
    for index in classes.tolist():
        # The background comes first, and any other class takes its place.
        count = (flat == index).sum(1)
        better = (count > 0) if index == 0 else (count > most)
        found = torch.where(better, index, found)
        if index != 0:
            most = torch.maximum(most, count)
    return found


def class_regions(outputs: Tensor, targets: Tensor) -> Tensor:
    """The pixels that are predicted as each image's class, all of them where none is.

    Args:
        outputs: ``[N, classes, h, w]`` or ``[N, 1, h, w]``.
        targets: The class of each image, ``[N]`` int64 on the outputs' device.

    Returns:
        ``[N, h, w]`` bool.

    Example:
        >>> outputs = torch.tensor([[[[3.0, -3.0]]]]).expand(2, -1, -1, -1)
        >>> class_regions(outputs, torch.tensor([1, 0])).tolist()
        [[[True, False]], [[False, True]]]
    """
    predicted = _of_two(outputs.detach()).argmax(dim=1) == targets[:, None, None]
    return predicted | ~predicted.any(-1).any(-1)[:, None, None]


def class_scores(outputs: Tensor, score: Score, regions: Tensor | None = None) -> Tensor:
    """Ψ of each class.

    Args:
        outputs: ``[N, classes]``, ``[N, 1]``, or either with pixels ``[..., h, w]``, see above.
        score: ``"softmax"`` probability, ``"sigmoid"`` probability (multi-label heads), or the ``"logit"`` as it is.
        regions: ``[N, h, w]`` bool, not empty: the pixels over which the scores of pixelwise outputs are averaged, as
            `class_regions` finds them in the whole image where it is masked images that are scored. ``None``: for each
            class its own pixels in these very outputs.

    Returns:
        ``[N, classes]``, at least float32.

    Example:
        >>> class_scores(torch.tensor([[0.0, 0.0]]), "softmax")
        tensor([[0.5000, 0.5000]])
        >>> class_scores(torch.tensor([[1.5]]), "logit"), class_scores(torch.tensor([[0.0]]), "softmax")
        (tensor([[-1.5000,  1.5000]]), tensor([[0.5000, 0.5000]]))
        >>> class_scores(torch.tensor([[[[9.0, 1.0, 1.0]], [[0.0, 2.0, 4.0]]]]), "logit")
        tensor([[9., 3.]])
    """
    logits = outputs if outputs.dtype == torch.float64 else outputs.float()
    if score == "logit":
        scores = _of_two(logits)
    elif score == "sigmoid" or _is_yes_no(logits):
        scores = _of_two(logits).sigmoid()
    else:
        scores = logits.softmax(dim=1)
    return _averaged(scores, outputs, regions)


def log_odds(outputs: Tensor, score: Score, regions: Tensor | None = None) -> Tensor:
    """log(Ψ / (1 − Ψ)) of each class: a function whose gradient does not vanish where Ψ is 0 or 1.

    dΨ = Ψ(1 − Ψ) · d log(Ψ / (1 − Ψ)): in each image the two gradients differ by one positive factor. For the softmax
    it is z_c − log Σ_{j ≠ c} exp z_j, for the sigmoid the logit; for ``score="logit"`` the logit is taken as well. Of
    pixelwise outputs it is the mean of the pixels' log-odds.

    Args:
        outputs: z, ``[N, classes]``, ``[N, 1]``, or either with pixels ``[..., h, w]``.
        score: Ψ: ``"softmax"``, ``"sigmoid"`` or ``"logit"``.
        regions: See `class_scores`.

    Returns:
        ``[N, classes]``, at least float32.

    Example:
        >>> log_odds(torch.tensor([[200.0, 0.0]]), "softmax")
        tensor([[ 200., -200.]])
        >>> log_odds(torch.tensor([[200.0]]), "softmax")
        tensor([[-200.,  200.]])
    """
    logits = outputs if outputs.dtype == torch.float64 else outputs.float()
    if score != "softmax" or _is_yes_no(logits):
        return _averaged(_of_two(logits), outputs, regions)
    first = one_hot(logits.argmax(dim=1), logits.shape[1]).bool().movedim(-1, 1)
    # 1 − Ψ cancels only for the largest class, whose rivals are therefore summed without it.
    rivals = logits.masked_fill(first, -torch.inf).logsumexp(dim=1, keepdim=True)
    log_probabilities = logits.log_softmax(dim=1)
    others = torch.log1p(-log_probabilities.masked_fill(first, -torch.inf).exp())
    return _averaged(torch.where(first, logits - rivals, log_probabilities - others), outputs, regions)


def _is_yes_no(outputs: Tensor) -> bool:
    return outputs.shape[1] == 1


def _of_two(outputs: Tensor) -> Tensor:
    """The logits of both classes of a yes-no head; other outputs as they are."""
    return torch.cat([-outputs, outputs], dim=1) if _is_yes_no(outputs) else outputs


def _averaged(scores: Tensor, outputs: Tensor, regions: Tensor | None) -> Tensor:
    """The mean of pixelwise scores ``[N, classes, h, w]`` over the regions; other scores as they are."""
    if scores.ndim == 2:
        return scores
    if regions is not None:
        weights = regions[:, None].to(scores.dtype)
    else:
        winners = _of_two(outputs.detach()).argmax(dim=1)
        predicted = one_hot(winners, scores.shape[1]).movedim(-1, 1).bool()
        weights = (predicted | ~predicted.any(-1).any(-1)[..., None, None]).to(scores.dtype)
    return (scores * weights).sum((2, 3)) / weights.sum((2, 3))
