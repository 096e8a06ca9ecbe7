"""From accuracies after retraining to the numbers of the paper's tables."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import NamedTuple

from lightning_saliency.reports.tables import Estimate


class CombinedScores(NamedTuple):
    """The columns of Table 2 of the SMOE paper."""

    kar: float
    roar: float
    sum: float


def combined_scores(kar: Sequence[float], roar: Sequence[float]) -> CombinedScores:
    """Retraining accuracies over all fractions in three numbers (SMOE paper, Sec. 3.2 and Table 2).

    KAR = Σ κ_f, ROAR = −Σ ρ_f, SUM = KAR + ROAR, over the fractions f kept or removed.

    Args:
        kar: Accuracies κ in [0, 1] with only the most salient pixels kept, one for each fraction.
        roar: Accuracies ρ in [0, 1] with the most salient pixels removed, one for each fraction.

    Returns:
        The three; higher is better for each.

    Raises:
        ValueError: If the numbers of accuracies differ, or an accuracy lies outside [0, 1].

    Example:
        >>> scores = combined_scores([0.6325, 0.6979, 0.722, 0.7318, 0.7396], [0.6935, 0.6028, 0.4155, 0.2945, 0.1109])
        >>> [round(score, 2) for score in scores]
        [3.52, -2.12, 1.41]
    """
    if len(kar) != len(roar):
        raise ValueError(
            f"Got {len(kar)} accuracies of KAR and {len(roar)} of ROAR. Their sums can be compared only over the same "
            "fractions; give one of each for every fraction."
        )
    for accuracy in (*kar, *roar):
        if not 0 <= accuracy <= 1:
            raise ValueError(f"Got an accuracy of {accuracy:g}. Allowed are shares in [0, 1]; divide per cent by 100.")
    kept, removed = math.fsum(kar), -math.fsum(roar)
    return CombinedScores(kept, removed, kept + removed)


def quartile_shares(scores: Mapping[str, Sequence[float]]) -> dict[str, tuple[float, float, float]]:
    """How often each method ranks in the best quarter, half and three quarters (SMOE paper, Table 7).

    In each condition the m methods are ranked; the first ⌈m/4⌉, ⌈m/2⌉ and ⌈3m/4⌉ count (3, 5 and 7 of the paper's
    nine). Methods with equal scores share the better rank.

    Args:
        scores: Method -> its score in each condition (a scale of a network on a data set); higher is better.

    Returns:
        Method -> the three shares of the conditions, in [0, 1].

    Raises:
        ValueError: If the methods have different numbers of scores, or there is none.

    Example:
        >>> quartile_shares({"a": [3.0, 1.0], "b": [2.0, 4.0], "c": [1.0, 2.0], "d": [0.0, 3.0]})["b"]
        (0.5, 1.0, 1.0)
    """
    counts = {len(values) for values in scores.values()}
    if len(counts) != 1 or counts == {0}:
        raise ValueError(
            f"Got {len(scores)} methods with {sorted(counts)} scores. Each method needs a score in every condition."
        )
    conditions = counts.pop()
    places = [math.ceil(len(scores) * share / 4) for share in (1, 2, 3)]
    ranks = {
        name: [1 + sum(other[index] > values[index] for other in scores.values()) for index in range(conditions)]
        for name, values in scores.items()
    }
    return {
        name: (
            sum(rank <= places[0] for rank in own) / conditions,
            sum(rank <= places[1] for rank in own) / conditions,
            sum(rank <= places[2] for rank in own) / conditions,
        )
        for name, own in ranks.items()
    }


def quartile_rows(
    shares: Mapping[str, Mapping[str, tuple[float, float, float]]],
) -> dict[str, dict[str, Estimate]]:
    """The rows of the SMOE paper's Table 7, for `quartile_columns`.

    Args:
        shares: Score -> method -> the three shares of `quartile_shares`, in [0, 1].

    Returns:
        Method -> column's key -> the share in per cent, without an interval.

    Example:
        >>> quartile_rows({"difference": {"smoe_scale": (0.5, 1.0, 1.0)}})["smoe_scale"]["difference_25"].value
        50.0
    """
    rows: dict[str, dict[str, Estimate]] = {}
    for score, methods in shares.items():
        for name, three in methods.items():
            for top, share in zip((25, 50, 75), three, strict=True):
                rows.setdefault(name, {})[f"{score}_{top}"] = Estimate(100 * share, 100 * share, 100 * share, 1)
    return rows


def weights_from_scores(scores: Sequence[Sequence[float]]) -> tuple[float, ...]:
    """Layer weights for Eq. 3 from the score of each scale's map by itself (SMOE paper, Sec. 3.2).

    The paper weights the maps by "the expected accuracy given our results when we computed Table 1". Its prior weights
    0.18, 0.15, 0.37, 0.4, 0.72 follow, to the two digits printed, from its Table 4 as the information scores (Eq. 9,
    with the natural logarithm) of SMOE Scale at each scale, summed over ImageNet and Places; this function does the
    same. A scale whose sum is below 0 is worse than a random map and gets the weight 0.

    Args:
        scores: For each data set one information score per scale, shallow to deep.

    Returns:
        One weight per scale, not normalised, to four digits.

    Raises:
        ValueError: If there is no data set, the data sets differ in the number of scales, or no scale's sum is above 0.

    Example:
        >>> weights_from_scores([[-0.1, 0.2, 0.5], [-0.1, 0.4, 0.7]])
        (0.0, 0.6, 1.2)
    """
    if not scores or not scores[0] or len({len(own) for own in scores}) != 1:
        raise ValueError(
            f"Got the numbers of scales {[len(own) for own in scores]}. Each data set needs one score for each."
        )
    sums = [math.fsum(column) for column in zip(*scores, strict=True)]
    weights = tuple(round(max(0.0, total), 4) for total in sums)
    if not any(weights):
        raise ValueError(
            f"Got the scores {[round(total, 4) for total in sums]}: no scale's map tells more than a random one. "
            "Weight the scales equally, or train longer."
        )
    return weights
