"""The warning that a network tells the classes by something that gives them away."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

from pytorch_lightning.utilities import rank_zero_info, rank_zero_warn

from lightning_saliency.callbacks.monitor.options import MonitorConfigurationError, positive
from lightning_saliency.functional.position_bias import POSITION_GRID, PositionBias

#: Fewer images, or fewer of each class on average, say too little.
MIN_IMAGES, MIN_A_CLASS = 100, 2
#: The sanity check before training has few images. What is uncertain there makes the alert more cautious, not less.
START_IMAGES = 32

#: Stands for the values before training where they were not measured: those of images whose objects always lie at the
#: same place, such as scanned digits.
UNKNOWN_START = 0.4

_ADVICE = (
    "Look at the views 'mean' and 'class_means'. If it is a mark, mend the data, or hide it in training "
    "(SaliencyAugmentation)."
)


@dataclass(frozen=True)
class ShortcutAlert:
    """When the monitor warns of a shortcut, and what it does then.

    ``position_bias`` and ``content_bias`` are set against their values before training, b₀: (b − b₀) / (1 − b₀). The
    alert is raised when one of them has been at least ``threshold`` in so many frames in a row, and lowered when both
    have been below half of it in as many. A warning says where it is and how sure that is. ``<name>/shortcut_alert`` is
    1 while it is raised, else 0. Where they were not measured before training, 0.4 is taken for b₀: what images have
    whose objects always lie at the same place.

    Fewer than 100 images, fewer than two of a class on average, or images of fewer than two classes are not judged: one
    message says so, and no ``shortcut_alert`` is logged.

    Args:
        threshold: In (0, 1].
        frames: Number of frames in a row, from 1.
        stop: Whether the run ends, as with ``EarlyStopping``, when the alert is raised.

    Raises:
        MonitorConfigurationError: If a value is out of its range.

    Example:
        >>> ShortcutAlert(stop=True)
        ShortcutAlert(threshold=0.3, frames=2, stop=True)
    """

    threshold: float = 0.3
    frames: int = 2
    stop: bool = False

    def __post_init__(self) -> None:
        if not 0 < self.threshold <= 1:
            raise MonitorConfigurationError(
                f"Got threshold={self.threshold}. Allowed are numbers above 0 and up to 1; 0.3 is the one whose false "
                "alarms were counted."
            )
        positive("frames", self.frames)


class AlertState:
    """What an alert has seen of a run.

    Args:
        alert: Its settings.

    Attributes:
        raised: Whether it is raised.
        start: ``position_bias`` and ``content_bias`` before training; ``None`` where they were not measured.
    """

    def __init__(self, alert: ShortcutAlert) -> None:
        self.alert = alert
        self.raised = False
        self.start: tuple[float, float] | None = None
        self._above = 0
        self._below = 0
        self._said = False

    def begin(self, found: PositionBias | None, name: str) -> None:
        """Take the values before training, with which those to come are compared.

        Args:
            found: Where the maps of the network point; ``None``: there were none.
            name: The monitor's name, for messages.
        """
        if found is None or cannot_judge(found, START_IMAGES) is not None:
            return
        self.start = (max(found.bias, 0.0), max(found.content, 0.0))
        if max(self.start) >= self.alert.threshold:
            rank_zero_info(
                f"Before training {name}/position_bias is {found.bias:.2f} (in {place_name(found.cell)}) and "
                f"{name}/content_bias {found.content:.2f} already. In images of things that are always at the same "
                "place, that is usual, and SaliencyMonitor warns of a shortcut only if they grow. In a network that "
                "was trained before, it may be a shortcut: look at the views 'mean' and 'class_means'."
            )

    def see(self, found: PositionBias | None, name: str) -> bool | None:
        """Judge a frame, and say what changed.

        Args:
            found: Where the maps of this frame point; ``None``: there were none.
            name: The monitor's name, for messages.

        Returns:
            Whether the alert is raised now; ``None`` where this frame could not be judged.
        """
        reason = cannot_judge(found)
        if found is None or reason is not None:
            self._say_cannot(name, reason or "")
            return None
        place, content = self.excess(found)
        threshold = self.alert.threshold
        self._above = self._above + 1 if max(place, content) >= threshold else 0
        self._below = self._below + 1 if max(place, content) < threshold / 2 else 0
        if not self.raised and self._above >= self.alert.frames:
            self.raised = True
            text = place_text if found.bias >= threshold else content_text
            rank_zero_warn(f"{text(found, name)} {self._start_text(name)} {_ADVICE}")
        elif self.raised and self._below >= self.alert.frames:
            self.raised = False
            rank_zero_info(
                f"SaliencyMonitor takes its warning of a shortcut back: {name}/position_bias is {found.bias:.2f} and "
                f"{name}/content_bias {found.content:.2f}, less than half of what it warns of, {self._below} frames in "
                "a row."
            )
        return self.raised

    def excess(self, found: PositionBias) -> tuple[float, float]:
        """``position_bias`` and ``content_bias`` against their values before training, in (-∞, 1]."""
        start = self.start or (UNKNOWN_START, UNKNOWN_START)
        place, content = (
            (now - before) / max(1 - before, 1e-6)
            for now, before in zip((found.bias, found.content), start, strict=True)
        )
        return place, content

    def state_dict(self) -> dict[str, Any]:
        """What a resumed run needs."""
        return {"raised": self.raised, "start": self.start, "above": self._above, "below": self._below}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on where ``state_dict`` left it."""
        self.raised = bool(state["raised"])
        self.start = None if state["start"] is None else tuple(state["start"])
        self._above, self._below = int(state["above"]), int(state["below"])

    def _say_cannot(self, name: str, reason: str) -> None:
        if not self._said:
            self._said = True
            rank_zero_info(
                f"SaliencyMonitor cannot say whether there is a shortcut: {reason} No {name}/shortcut_alert is logged "
                "meanwhile. alert=None (null in YAML) switches it off."
            )

    def _start_text(self, name: str) -> str:
        if self.start is None:
            return "Neither was measured before training (log_at_start=True and a sanity check would)."
        place, content = self.start
        return f"Before training {name}/position_bias was {place:.2f} and {name}/content_bias {content:.2f}."


def cannot_judge(found: PositionBias | None, least: int = MIN_IMAGES) -> str | None:
    """Why nothing can be said of a frame, a sentence; ``None`` where it can.

    Args:
        found: Where its maps point.
        least: The number of images that are needed.
    """
    if found is None:
        return "no map was read."
    if found.classes < 2:
        return (
            f"the images were of {found.classes} classes, and two are needed. Say where the labels are with label_key=."
        )
    needed = max(least, MIN_A_CLASS * found.classes)
    if found.count < needed or math.isnan(found.bias):
        return (
            f"maps of {found.count} images of {found.classes} classes were read, and {needed} are needed. Raise "
            "position_images=, or give more data."
        )
    return None


def place_text(found: PositionBias, name: str) -> str:
    """What an alert says of a place: where, how much, how sure.

    Example:
        >>> found = PositionBias(0.86, (1, 1), 0.93, 0.92, content=0.4, count=600, classes=10)
        >>> place_text(found, "saliency")[:91]
        'SaliencyMonitor sees a shortcut: the network seems to tell the classes by what lies in the '
    """
    row, column = found.cell
    side = 100 / POSITION_GRID
    error = 1.96 * math.sqrt(found.share * (1 - found.share) / found.count)
    low, high = (max(0.0, min(1.0, found.share + sign * error)) for sign in (-1, 1))
    return (
        "SaliencyMonitor sees a shortcut: the network seems to tell the classes by what lies in "
        f"{place_name(found.cell)} of the image, {(column + 0.5) * side:.0f} % of the width from the left and "
        f"{(row + 0.5) * side:.0f} % of the height from the top. "
        f"Of {found.count} images, {found.share:.0%} (95 % interval {low:.0%} to {high:.0%}) have "
        "this place among the tenth with the highest values of their map, and the class explains "
        f"{found.explained:.0%} of how the images differ there: {name}/position_bias is {found.bias:.2f}. "
        "If that place has nothing to do with the classes, train on with MaskTune('smoe', share=0.1, maps='mean'), "
        "which hides it."
    )


def content_text(found: PositionBias, name: str) -> str:
    """What an alert says of marks that have no place of their own."""
    return (
        "SaliencyMonitor sees a shortcut: the network seems to tell the classes by a colour or texture, wherever it "
        f"is. In {found.count} images the class explains {found.content:.0%} of how the most salient 2 % differ in "
        f"colour or contrast: {name}/content_bias is {found.content:.2f}. Where colours are what the classes are, as "
        "in flowers, that is as it should be. If it is a mark, train on with MaskTune('smoe', share=0.03), which hides "
        "the most salient pixels of each image."
    )


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
