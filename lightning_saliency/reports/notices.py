"""What a page says of its own numbers: how it was made, and where they are not to be relied on."""

from __future__ import annotations

import math
from dataclasses import dataclass
from datetime import date
from importlib.metadata import PackageNotFoundError, version

import torch

# Of the way from guessing to no error: less than this is hardly better than guessing.
_HARDLY = 0.1
# Below it, a bootstrap over images is too narrow: resamples of so few are too much like one another.
_FEW_IMAGES = 20


@dataclass(frozen=True)
class Made:
    """How a page was made.

    Args:
        command: As it was typed; empty where there was none.
        duration: How long it took, in words; empty where it is not known.
    """

    command: str = ""
    duration: str = ""

    def facts(self) -> list[tuple[str, str]]:
        """Names and values, with today's date and the versions."""
        return [
            *([("command", self.command)] if self.command else []),
            *([("duration", self.duration)] if self.duration else []),
            ("date", date.today().isoformat()),
            ("version", f"lightning-saliency {_version()}, PyTorch {torch.__version__}"),
        ]


def chance_notices(network: str, accuracy: float | None, classes: int | None, images: int | None = None) -> list[str]:
    """A sentence if a network does hardly better than guessing, a tenth of the way to no error or less.

    Args:
        network: Its name.
        accuracy: In [0, 1]; ``None``: not known.
        classes: Number of classes; ``None``: not known.
        images: Number of images that the accuracy is of: it counts with its 95 % interval then, see `wilson_interval`,
            and if that leaves both open, the sentence says so. ``None``: not known, the accuracy counts as it is.

    >>> print(*chance_notices("small_cnn", 0.12, 10))
    small_cnn is at chance: 12.0 % right; guessing among 10 classes gives 10.0 %. Nothing follows for a trained network.
    >>> chance_notices("small_cnn", 0.3, 10)
    []
    >>> chance_notices("small_cnn", 0.25, 10, images=4)[0][:63]
    'small_cnn may be at chance: 25.0 % of 4 images right (95 % inte'
    """
    if accuracy is None or classes is None or classes < 2:
        return []
    chance = 1 / classes
    bound = chance + _HARDLY * (1 - chance)
    low, high = (accuracy, accuracy) if images is None else wilson_interval(accuracy, images)
    if low >= bound:
        return []
    guessing = f"guessing among {classes} classes gives {100 * chance:.1f} %"
    if high >= bound:
        return [
            f"{network} may be at chance: {100 * accuracy:.1f} % of {images} images right (95 % interval "
            f"{100 * low:.1f} to {100 * high:.1f} %); {guessing}. Take more images, or look at the accuracy on all."
        ]
    return [f"{network} is at chance: {100 * accuracy:.1f} % right; {guessing}. Nothing follows for a trained network."]


def wilson_interval(share: float, count: int) -> tuple[float, float]:
    """The 95 % interval of a share of independent things (Wilson, 1927), which holds for few of them, too.

    (p + z²/2n ± z √(p(1 − p)/n + z²/4n²)) / (1 + z²/n) with z = 1.96.

    Args:
        share: p, in [0, 1].
        count: n, from 1.

    >>> [round(end, 3) for end in wilson_interval(0.25, 4)], [round(end, 3) for end in wilson_interval(0.25, 400)]
    ([0.046, 0.699], [0.21, 0.295])
    """
    square = 1.96**2 / count
    reach = math.sqrt(share * (1 - share) * square + square**2 / 4)
    return max(0.0, (share + square / 2 - reach) / (1 + square)), min(1.0, (share + square / 2 + reach) / (1 + square))


def seed_notices(seeds: int) -> list[str]:
    """A sentence if there are too few seeds for an interval.

    >>> seed_notices(1)[0][:31], seed_notices(2)
    ('Too few seeds for intervals: 1.', [])
    """
    if seeds > 1:
        return []
    return [f"Too few seeds for intervals: {seeds}. Differences may be chance; run two seeds or more."]


def image_notices(images: int) -> list[str]:
    """A sentence if there are too few images for intervals by the bootstrap.

    >>> image_notices(5)[0][:33], image_notices(20)
    ('Too few images for intervals: 5. ', [])
    """
    if images >= _FEW_IMAGES:
        return []
    return [
        f"Too few images for intervals: {images}. Those shown are too narrow, since they come from resampling the "
        f"images; take {_FEW_IMAGES} or more."
    ]


def _version() -> str:
    try:
        return version("lightning-saliency")
    except PackageNotFoundError:  # used from its source, without being installed
        return "(not installed)"
