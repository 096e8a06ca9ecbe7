"""The verdict of a sanity check: have the maps changed, and has their similarity fallen to the random-weights level."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from lightning_saliency.checks import plural
from lightning_saliency.reports.tables import Estimate

#: Fewer images that can be compared decide nothing: resamples of so few are too much like one another.
FEWEST_IMAGES = 8


#: Fallen is what keeps no more than this, by its interval, of the way from the level to an unchanged map's similarity.
KEPT = 0.5


#: Maps whose correlation with those of random networks lies above this, by its interval, are mostly the image's.
MOST = 0.5


@dataclass(frozen=True)
class Verdict:
    """Whether an explainer's maps depend on what the network has learnt.

    Args:
        kind: ``"fallen"``: with all weights random the maps have changed, no similarity to the original map lies above
            the similarity between maps of random networks, and the intervals leave no room for much; ``"above"``: one
            does, with intervals that do not overlap; ``"insensitive"``: the maps never change, or most of a map stays
            the same whatever the weights; ``"undecided"``: there are no maps to compare, fewer than 8, or the
            intervals are too wide to tell.
        line: The verdict as a sentence, with numbers.
    """

    kind: Literal["fallen", "above", "insensitive", "undecided"]
    line: str


@dataclass(frozen=True)
class LastSimilarity:
    """A similarity once all weights are random.

    Args:
        label: Its name.
        original: That of the original maps to those of the random networks.
        level: That of the random networks' maps to one another; ``None`` where no two of them can be compared.
        excess: The first less the second; ``None`` with the level.
        shares: Whether it tells how much of a map stays, as Pearson's correlation does: see `verdict_of`.
    """

    label: str
    original: Estimate
    level: Estimate | None = None
    excess: Estimate | None = None
    shares: bool = False

    @property
    def above(self) -> bool:
        """Whether it lies above the level, with intervals that do not overlap."""
        return self.level is not None and self.original.low > self.level.high

    @property
    def kept(self) -> float:
        """The most, by the intervals, of the way from the level to 1 that is kept; 0 where nothing is left to keep."""
        if self.level is None or self.excess is None or self.level.value >= 1:
            return 0.0
        return min(self.excess.high / (1 - self.level.value), self.original.high)

    def __str__(self) -> str:
        level = "" if self.level is None else f" (level {as_text(self.level)})"
        return f"{self.label} {as_text(self.original)}{level}"


def verdict_of(similarities: Sequence[LastSimilarity], compared: int, notes: str = "") -> Verdict:
    """Whether maps have changed, and similarities fallen to the random-weights level, once all weights are random.

    *How much stays.* Let a map be the sum of what the image decides and of what the weights decide, the second unlike
    from network to network. Pearson's correlation s of two networks' maps is then the image's share of their variance.
    (SSIM is no such share, since any two maps that are mostly zero are alike by it, nor is rank correlation, since
    faint noise decides the ranks of such a map.) A map has changed if the upper end of the 95 %
    interval of s, over images and random networks, is at most 0.5. If the lower end lies above 0.5, more of it is the
    image's than the weights': it is ``"insensitive"``. That is asked of the similarity s of the original maps and not
    of the level l: where l is high and s low, training has changed the map.

    *What is kept.* (s − l) / (1 − l) is 0 at the level and 1 for maps that stay as they are. A similarity stays above
    if the interval of s begins above that of l. It has fallen if the upper end of the interval of what is kept is at
    most 0.5: nearer to the level than to maps that stay. (No more is kept than s itself: unrelated networks' maps have
    no negative correlation in the mean, and for l ≥ 0 is (s − l) / (1 − l) ≤ s, however uncertain the level.)

    One that stays above is enough for ``"above"``, which comes before ``"insensitive"``; for ``"fallen"`` the map must
    have changed, and all must have fallen. What is neither is undecided, and so is everything with fewer than 8 images.

    Args:
        similarities: The similarities.
        compared: Number of images that they are of.
        notes: What else is to be said, at the end.

    Example:
        >>> def similarity(half, value=0.2, level=0.1):
        ...     ends = [Estimate(v, v - half, v + half, 24) for v in (value, level, value - level)]
        ...     return LastSimilarity("Pearson", *ends, shares=True)
        >>> [verdict_of([similarity(half)], 8).kind for half in (0.02, 0.1, 0.5)]
        ['above', 'fallen', 'undecided']
        >>> [verdict_of([similarity(0.02, value, value)], 8).kind for value in (0.47, 0.5, 0.53)]
        ['fallen', 'undecided', 'insensitive']
        >>> print(verdict_of([similarity(0.1)], 4).line)
        undecided: 4 images can be compared, 8 or more are needed: Pearson 0.20 [0.10, 0.30] (level 0.10 [0.00, 0.20])
    """
    if compared < FEWEST_IMAGES:
        found = ", ".join(map(str, similarities))
        few = f"{plural(compared, 'image')} can be compared, {FEWEST_IMAGES} or more are needed"
        return Verdict("undecided", f"undecided: {few}: {found}{notes}")
    above, stays, open_, fallen = [], [], [], []
    for one in similarities:
        if one.level is not None and one.above:
            by = f"{one.original.value - one.level.value:.2f}"
            above.append(f"{one.label} by {by} ({as_text(one.original)}, level {as_text(one.level)})")
        elif one.shares and one.original.low > MOST:
            stays.append(str(one))
        elif one.shares and one.original.high > MOST:
            open_.append(f"{one}, of which {MOST} at most would be a map that has changed")
        elif one.kept > KEPT:
            open_.append(f"{one}, which may keep {one.kept:.2f} of the way from the level to 1, where {KEPT} is fallen")
        else:
            fallen.append(str(one))
    rest = "".join(
        f"; {word}: {', '.join(found)}" for word, found in (("undecided", open_), ("fallen", fallen)) if found
    )
    if above:
        also = f"; most of the map stays: {', '.join(stays)}" if stays else ""
        return Verdict("above", f"stays above the random-weights level: {', '.join(above)}{also}{rest}{notes}")
    if stays:
        others = "".join(f"; {one}" for one in similarities if not one.shares)
        return Verdict(
            "insensitive",
            f"shows the image more than the weights: most of the map stays once all are random: {', '.join(stays)}, "
            f"above {MOST}{others}{notes}",
        )
    if open_:
        agreed = f"; fallen: {', '.join(fallen)}" if fallen else ""
        return Verdict(
            "undecided", f"undecided: the intervals leave it open: {', '.join(open_)}. Take more images{agreed}{notes}"
        )
    if all(one.level is None for one in similarities):
        line = f"depends on the weights: no map is left once they are random: {', '.join(fallen)}{notes}"
        return Verdict("fallen", line)
    return Verdict("fallen", f"has fallen to the random-weights level: {', '.join(fallen)}{notes}")


def as_text(estimate: Estimate) -> str:
    """A mean and its interval as text.

    Example:
        >>> as_text(Estimate(0.5, 0.31, 0.66, 32))
        '0.50 [0.31, 0.66]'
        >>> as_text(Estimate(-0.001, -0.02, 0.02, 32))
        '0.00 [-0.02, 0.02]'
    """
    value, low, high = (f"{round(one, 2) + 0:.2f}" for one in (estimate.value, estimate.low, estimate.high))  # no -0.00
    return f"{value} [{low}, {high}]"
