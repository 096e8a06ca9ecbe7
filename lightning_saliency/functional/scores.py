"""Scores of saliency maps from the network's outputs: Drop, Increase, and the scores of ROAR and KAR.

Each score is computed in at least float32, one value per image or per level.
"""

from __future__ import annotations

import torch
from torch import Tensor


def drop(original: Tensor, masked: Tensor) -> Tensor:
    r"""By how much the score falls when only the salient part of the image is left, in per cent (SISE, Drop%).

    100 · max(0, Ψ(I) − Ψ(I ⊙ T)) / Ψ(I), the bracket as in Grad-CAM++ (2018); the paper's Drop% is the mean over
    images. A score of 0 cannot fall: 0.

    Args:
        original: Probabilities Ψ(I) of the class on the whole images, ``[B]``.
        masked: Probabilities Ψ(I ⊙ T) of the same class on the masked images, ``[B]``.

    Returns:
        ``[B]`` in [0, 100]; lower is better.

    Raises:
        ValueError: If the shapes differ, or a score is negative.

    Example:
        >>> import torch
        >>> drop(torch.tensor([0.8, 0.5]), torch.tensor([0.6, 0.7]))
        tensor([25.0000,  0.0000])
    """
    original, masked = _checked_probabilities(original, masked)
    lowest = min((float(part.min()) for part in (original, masked) if part.numel()), default=0.0)
    if lowest < 0:
        raise ValueError(
            f"Got a score of {lowest:.3g}. Allowed are probabilities, of which a share can be lost: score with softmax "
            "or sigmoid instead of raw logits, or leave Drop % out."
        )
    loss = (original - masked).clamp(min=0.0)
    return 100.0 * torch.where(loss == 0, torch.zeros_like(loss), loss / original)


def increase(original: Tensor, masked: Tensor) -> Tensor:
    r"""Whether the score rises when only the salient part of the image is left: 100 if so, 0 if not (SISE, Increase%).

    100 · [Ψ(I ⊙ T) > Ψ(I)], whose mean over images is the share, in per cent, of the images whose score rises. (The
    paper prints a sum of signs, which would count falls as −1 and is not a percentage; its tables are shares.)

    Args:
        original: Probabilities Ψ(I) of the class on the whole images, ``[B]``.
        masked: Probabilities Ψ(I ⊙ T) of the same class on the masked images, ``[B]``.

    Returns:
        ``[B]``, each 0 or 100; higher is better.

    Raises:
        ValueError: If the shapes differ.

    Example:
        >>> import torch
        >>> increase(torch.tensor([0.8, 0.5, 0.5]), torch.tensor([0.6, 0.7, 0.5]))
        tensor([  0., 100.,   0.])
    """
    original, masked = _checked_probabilities(original, masked)
    rises = (masked > original).to(original.dtype)
    return 100.0 * rises.masked_fill((masked - original).isnan(), torch.nan)


def difference_score(roar: Tensor, kar: Tensor, random_roar: Tensor, random_kar: Tensor) -> Tensor:
    r"""How much more retraining tells a method's maps from random ones, summed over scales (SMOE Scale, Eq. 8).

    D(ρ, κ) = Σ_p (z_p − ρ_p) + Σ_q (κ_q − z_q): removing what is salient should cost accuracy (ROAR), keeping it should
    preserve accuracy (KAR). 0 for maps no better than random ones; higher is better. (Of the paper's Table 7, which
    ranks the methods by this score and by `information_score`, the information half follows from its Table 4 in all 27
    cells, the difference half in 10.)

    Args:
        roar: Accuracies ρ ``[..., K]`` in [0, 1], one for each scale, with the most salient positions removed.
        kar: Accuracies κ ``[..., K]`` in [0, 1] with only the most salient positions kept.
        random_roar: Accuracies z ``[..., K]`` with random maps in the place of ``roar``'s.
        random_kar: Accuracies z ``[..., K]`` with random maps in the place of ``kar``'s.

    Returns:
        ``[...]``.

    Raises:
        ValueError: If an accuracy lies outside [0, 1], or if the shapes do not broadcast.

    Example:
        >>> import torch
        >>> roar, kar = torch.tensor([0.4, 0.3]), torch.tensor([0.6, 0.5])
        >>> difference_score(roar, kar, torch.tensor([0.7, 0.7]), torch.tensor([0.6, 0.4]))
        tensor(0.8000)
    """
    roar, kar, random_roar, random_kar = _checked_accuracies(roar, kar, random_roar, random_kar)
    return (random_roar - roar).sum(-1) + (kar - random_kar).sum(-1)


def information_score(roar: Tensor, kar: Tensor, random_roar: Tensor, random_kar: Tensor) -> Tensor:
    r"""The information gained over random maps by retraining, in nats, summed over scales (SMOE Scale, Eq. 9).

    I(ρ, κ) = −Σ_p ρ_p ln(ρ_p / z_p) − Σ_q z_q ln(z_q / κ_q). The paper prints log₂, but its Table 1 follows from its
    Table 4 with the natural logarithm only. Terms whose leading accuracy is 0 are 0, their limit; a method whose KAR
    accuracy is 0 where random maps are above 0 scores −∞, and so does one whose random ROAR accuracy is 0 where its own
    is above.

    Args:
        roar: Accuracies ρ ``[..., K]`` in [0, 1], one for each scale, with the most salient positions removed.
        kar: Accuracies κ ``[..., K]`` in [0, 1] with only the most salient positions kept.
        random_roar: Accuracies z ``[..., K]`` with random maps in the place of ``roar``'s.
        random_kar: Accuracies z ``[..., K]`` with random maps in the place of ``kar``'s.

    Returns:
        ``[...]``; 0 for maps no better than random ones, higher is better.

    Raises:
        ValueError: If an accuracy lies outside [0, 1], or if the shapes do not broadcast.

    Example:
        >>> import torch
        >>> roar, kar = torch.tensor([0.4, 0.3]), torch.tensor([0.6, 0.5])
        >>> information_score(roar, kar, torch.tensor([0.7, 0.7]), torch.tensor([0.6, 0.4]))
        tensor(0.5673)
    """
    roar, kar, random_roar, random_kar = _checked_accuracies(roar, kar, random_roar, random_kar)
    return -_relative_entropy(roar, random_roar).sum(-1) - _relative_entropy(random_kar, kar).sum(-1)


def _relative_entropy(p: Tensor, q: Tensor) -> Tensor:
    """P ln(p / q), 0 where p is 0."""
    return torch.where(p > 0, p * (p / q).log(), torch.zeros_like(p))


def _checked_accuracies(*accuracies: Tensor) -> tuple[Tensor, ...]:
    for values in accuracies:
        if not bool(((values >= 0) & (values <= 1)).all()):
            raise ValueError(
                f"Got accuracies from {values.min().item():g} to {values.max().item():g}. Allowed is [0, 1]; divide "
                "per cent by 100."
            )
    dtype = torch.promote_types(accuracies[0].dtype, torch.float32)
    return tuple(values.to(dtype) for values in accuracies)


def _checked_probabilities(original: Tensor, masked: Tensor) -> tuple[Tensor, Tensor]:
    if original.shape != masked.shape:
        raise ValueError(
            f"Got scores {list(original.shape)} of the images and {list(masked.shape)} of the masked images. Allowed "
            "is one shape for both; pick the class of each image first."
        )
    dtype = torch.promote_types(original.dtype, torch.float32)
    return original.to(dtype), masked.to(dtype)
