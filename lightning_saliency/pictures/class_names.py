"""The names of classes, whatever they are given as, as texts for captions."""

from __future__ import annotations

from collections.abc import Iterable

# Of a class with several names so many are shown.
_SYNONYMS = 2


def as_names(classes: Iterable[object]) -> list[str]:
    """One text for each class: of several names in a tuple, as torchvision's ``ImageNet.classes`` holds, the first two.

    Example:
        >>> as_names([("great white shark", "white shark", "man-eater"), "tench", 7])
        ['great white shark, white shark', 'tench', '7']
    """
    return [", ".join(map(str, each[:_SYNONYMS])) if isinstance(each, (tuple, list)) else str(each) for each in classes]
