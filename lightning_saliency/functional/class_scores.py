"""The score of a class: probability or logit, and the log-odds of a probability."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor
from torch.nn.functional import one_hot

Score = Literal["softmax", "sigmoid", "logit"]


def class_scores(logits: Tensor, score: Score) -> Tensor:
    """Ψ of each class.

    Args:
        logits: ``[N, classes]``.
        score: ``"softmax"`` probability, ``"sigmoid"`` probability (multi-label heads), or the ``"logit"`` as it is.

    Returns:
        ``[N, classes]``, at least float32.

    Raises:
        ValueError: If the softmax of a single output is requested, which is always one.

    Example:
        >>> class_scores(torch.tensor([[0.0, 0.0]]), "softmax")
        tensor([[0.5000, 0.5000]])
    """
    logits = logits if logits.dtype == torch.float64 else logits.float()
    if score == "logit":
        return logits
    if score == "sigmoid":
        return logits.sigmoid()
    _refuse_softmax_of_one(logits)
    return logits.softmax(dim=1)


def log_odds(logits: Tensor, score: Score) -> Tensor:
    """log(Ψ / (1 − Ψ)) of each class: a function whose gradient does not vanish where Ψ is 0 or 1.

    dΨ = Ψ(1 − Ψ) · d log(Ψ / (1 − Ψ)): in each image the two gradients differ by one positive factor. For the softmax
    it is z_c − log Σ_{j ≠ c} exp z_j, for the sigmoid the logit; for ``score="logit"`` the logit is taken as well.

    Args:
        logits: z, ``[N, classes]``.
        score: Ψ: ``"softmax"``, ``"sigmoid"`` or ``"logit"``.

    Returns:
        ``[N, classes]``, at least float32.

    Raises:
        ValueError: If the softmax of a single output is requested, which is always one.

    Example:
        >>> log_odds(torch.tensor([[200.0, 0.0]]), "softmax")
        tensor([[ 200., -200.]])
    """
    logits = logits if logits.dtype == torch.float64 else logits.float()
    if score != "softmax":
        return logits
    _refuse_softmax_of_one(logits)
    first = one_hot(logits.argmax(dim=1), logits.shape[1]).bool()
    # 1 − Ψ cancels only for the largest class, whose rivals are therefore summed without it.
    rivals = logits.masked_fill(first, -torch.inf).logsumexp(dim=1, keepdim=True)
    log_probabilities = logits.log_softmax(dim=1)
    others = torch.log1p(-log_probabilities.masked_fill(first, -torch.inf).exp())
    return torch.where(first, logits - rivals, log_probabilities - others)


def _refuse_softmax_of_one(logits: Tensor) -> None:
    if logits.shape[1] == 1:
        raise ValueError(
            "Got score='softmax' for a network with one output, whose softmax is always 1. Allowed there are 'sigmoid' "
            "and 'logit'; use score='sigmoid' for a yes-no head."
        )
