"""The verdict of a sanity check: has the similarity fallen to the random-weights level, or are there too few images."""

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


@dataclass(frozen=True)
class Verdict:
    """Whether an explainer's maps depend on what the network has learnt.

    Args:
        kind: ``"fallen"``: with all weights random, no similarity to the original map lies above the similarity between
            maps of random networks, and the intervals leave no room for much; ``"above"``: one does, with intervals
            that do not overlap; ``"independent"``: the maps never change; ``"undecided"``: there are no maps to
            compare, fewer than 8, or the intervals are too wide to tell.
        line: The verdict as a sentence, with numbers.
    """

    kind: Literal["fallen", "above", "independent", "undecided"]
    line: str


@dataclass(frozen=True)
class LastSimilarity:
    """A similarity once all weights are random.

    Args:
        label: Its name.
        original: That of the original maps to those of the random networks.
        level: That of the random networks' maps to one another; ``None`` where no two of them can be compared.
        excess: The first less the second; ``None`` with the level.
    """

    label: str
    original: Estimate
    level: Estimate | None = None
    excess: Estimate | None = None

    @property
    def above(self) -> bool:
        """Whether it lies above the level, with intervals that do not overlap."""
        return self.level is not None and self.original.low > self.level.high

    @property
    def kept(self) -> float:
        """The most, by the interval, of the way from the level to 1 that is kept; 0 where nothing is left to keep."""
        if self.level is None or self.excess is None or self.level.value >= 1:
            return 0.0
        return self.excess.high / (1 - self.level.value)

    def __str__(self) -> str:
        level = "" if self.level is None else f" (level {as_text(self.level)})"
        return f"{self.label} {as_text(self.original)}{level}"


def verdict_of(similarities: Sequence[LastSimilarity], compared: int, notes: str = "") -> Verdict:
    """Whether similarities have fallen to the random-weights level once all weights are random.

    What decides is what is kept: with s the similarity of the original maps to those of the random networks, and l the
    level, (s − l) / (1 − l), which is 0 at the level and 1 for maps that stay as they are. A similarity stays above if
    the 95 % interval (over images and random networks) of s begins above that of l. It has fallen if the upper end of
    the interval of what is kept is at most 0.5: nearer to the level than to maps that stay. One that stays above is
    enough for ``"above"``; all must have fallen for ``"fallen"``. What is neither is undecided, and so is everything
    with fewer than 8 images.

    Args:
        similarities: The similarities.
        compared: Number of images that they are of.
        notes: What else is to be said, at the end.

    Example:
        >>> def similarity(half):
        ...     return LastSimilarity("SSIM", *(Estimate(v, v - half, v + half, 24) for v in (0.2, 0.1, 0.1)))
        >>> [verdict_of([similarity(half)], 8).kind for half in (0.02, 0.1, 0.5)]
        ['above', 'fallen', 'undecided']
        >>> print(verdict_of([similarity(0.1)], 4).line)
        undecided: 4 images can be compared, 8 or more are needed: SSIM 0.20 [0.10, 0.30] (level 0.10 [0.00, 0.20])
    """
    if compared < FEWEST_IMAGES:
        found = ", ".join(map(str, similarities))
        few = f"{plural(compared, 'image')} can be compared, {FEWEST_IMAGES} or more are needed"
        return Verdict("undecided", f"undecided: {few}: {found}{notes}")
    above, wide, fallen = [], [], []
    for one in similarities:
        if one.level is not None and one.above:
            by = f"{one.original.value - one.level.value:.2f}"
            above.append(f"{one.label} by {by} ({as_text(one.original)}, level {as_text(one.level)})")
        elif one.level is not None and one.kept > KEPT:
            wide.append(
                f"{one.label}, which may keep {one.kept:.2f} ({as_text(one.original)}, level {as_text(one.level)})"
            )
        else:
            fallen.append(str(one))
    rest = f"; fallen: {', '.join(fallen)}" if fallen else ""
    if above:
        undecided = f"; undecided: {', '.join(wide)}" if wide else ""
        line = f"stays above the random-weights level: {', '.join(above)}{undecided}{rest}{notes}"
        return Verdict("above", line)
    if wide:
        return Verdict(
            "undecided",
            f"undecided: the intervals are too wide: {', '.join(wide)}; fallen is what may keep {KEPT} at most of the "
            f"way from the level to an unchanged map. Take more images{rest}{notes}",
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
    """
    return f"{estimate.value:.2f} [{estimate.low:.2f}, {estimate.high:.2f}]"
