"""What the alert says of a shortcut, and what helps."""

from __future__ import annotations

import math

from lightning_saliency.callbacks._trainer_lookups import Hiding
from lightning_saliency.functional.position_bias import POSITION_GRID, PositionBias


def place_text(found: PositionBias, name: str, start: str = "", hiding: Hiding | None = None) -> str:
    """What an alert says of a place: where, how much, how sure, and what to do.

    Args:
        found: Where the maps of a frame point.
        name: The monitor's name.
        start: A sentence about the values at the start of the run.
        hiding: What hides, in this run, what is salient in the images; ``None``: nothing.

    Example:
        >>> found = PositionBias(0.86, (1, 1), 0.93, 0.92, content=0.4, count=600, classes=10)
        >>> place_text(found, "saliency")[:91]
        'SaliencyMonitor sees a shortcut: the network seems to tell the classes by what lies in the '
        >>> place_text(found, "saliency", hiding=Hiding("MaskTune", True))[:70]
        'SaliencyMonitor sees what can be a shortcut: the maps point to what li'
    """
    row, column = found.cell
    side = 100 / POSITION_GRID
    error = 1.96 * math.sqrt(found.share * (1 - found.share) / found.count)
    low, high = (max(0.0, min(1.0, found.share + sign * error)) for sign in (-1, 1))
    seen = (
        f"{_sees(hiding)} what lies in {place_name(found.cell)} of the image, {(column + 0.5) * side:.0f} % of the "
        f"width from the left and {(row + 0.5) * side:.0f} % of the height from the top. "
        f"In {100 * found.share:.0f} % of {found.count} images (95 % interval {100 * low:.0f} to {100 * high:.0f} %) "
        "this place is in the brightest tenth of the map, and the class explains "
        f"{100 * found.explained:.0f} % of how the images differ there: {name}/position_bias is {found.bias:.2f}."
    )
    look = "Look at 'Mean maps' in film.html, the page of this run."
    cure = (
        "If that place has nothing to do with the classes, train on with MaskTune('smoe', maps='shortcut'), which "
        "hides it."
    )
    return _joined(seen, start, *_advice(look, cure, f"{name}/position_bias", hiding))


def content_text(found: PositionBias, name: str, start: str = "", hiding: Hiding | None = None) -> str:
    """What an alert says of marks that have no place of their own; see `place_text`."""
    seen = (
        f"{_sees(hiding)} a colour or texture, wherever it is. In {found.count} images the class explains "
        f"{100 * found.content:.0f} % of how the most salient 2 % differ in colour or contrast: "
        f"{name}/content_bias is {found.content:.2f}."
    )
    look = (
        "Look at the overlays in film.html, the page of this run. Where colours are what the classes are, as in "
        "flowers, that is as it should be."
    )
    cure = (
        "If it is a mark, train on with MaskTune('smoe', share=0.03), which hides the most salient pixels of each "
        "image."
    )
    return _joined(seen, start, *_advice(look, cure, f"{name}/content_bias", hiding))


def _sees(hiding: Hiding | None) -> str:
    if hiding is None or hiding.idle or not hiding.begun:
        return "SaliencyMonitor sees a shortcut: the network seems to tell the classes by"
    return "SaliencyMonitor sees what can be a shortcut: the maps point to"


def _advice(look: str, cure: str, number: str, hiding: Hiding | None) -> tuple[str, ...]:
    if hiding is None:
        return look, cure
    if hiding.idle:
        return look, f"{hiding.callback} hides nothing: its own warning says why, and what helps."
    if not hiding.begun:
        return look, f"{hiding.callback} hides it later in this run."
    return (
        f"{hiding.callback} hides what is salient in training already. The maps may go on showing a mark that stands "
        "out by itself, also where the network no longer uses it. Whether it does, tell the validation accuracy on "
        f"images with the mark, which falls with the cure, the fall of {number}, and best images without the mark.",
    )


def _joined(*sentences: str) -> str:
    return " ".join(sentence for sentence in sentences if sentence)


def place_name(cell: tuple[int, int]) -> str:
    """Where a cell of the grid lies, in words.

    Example:
        >>> [place_name(cell) for cell in ((1, 1), (0, 8), (8, 8), (15, 14))]
        ['the upper left corner', 'the upper edge', 'the middle', 'the lower right corner']
    """
    row, column = ((part + 0.5) / POSITION_GRID for part in cell)
    vertical = "upper" if row < 0.25 else "lower" if row > 0.75 else ""
    horizontal = "left" if column < 0.25 else "right" if column > 0.75 else ""
    if vertical and horizontal:
        return f"the {vertical} {horizontal} corner"
    return f"the {vertical or horizontal} edge" if vertical or horizontal else "the middle"
