"""What a page says of its own numbers: how it was made, and where they are not to be relied on."""

from __future__ import annotations

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


def chance_notices(network: str, accuracy: float | None, classes: int | None) -> list[str]:
    """A sentence if a network does hardly better than guessing, a tenth of the way to no error or less.

    Args:
        network: Its name.
        accuracy: In [0, 1]; ``None``: not known.
        classes: Number of classes; ``None``: not known.

    >>> print(*chance_notices("small_cnn", 0.12, 10))
    small_cnn is at chance: 12.0 % right; guessing among 10 classes gives 10.0 %. Nothing follows for a trained network.
    >>> chance_notices("small_cnn", 0.3, 10)
    []
    """
    if accuracy is None or classes is None or classes < 2:
        return []
    chance = 1 / classes
    if (accuracy - chance) / (1 - chance) >= _HARDLY:
        return []
    return [
        f"{network} is at chance: {100 * accuracy:.1f} % right; guessing among {classes} classes gives "
        f"{100 * chance:.1f} %. Nothing follows for a trained network."
    ]


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
