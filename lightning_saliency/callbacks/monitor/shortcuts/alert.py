"""The warning that a network tells the classes by something that gives them away."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass, replace
from typing import Any

from pytorch_lightning.utilities import rank_zero_info

from lightning_saliency.callbacks._trainer_lookups import Hiding
from lightning_saliency.callbacks._warnings import warn
from lightning_saliency.callbacks.monitor.options import MonitorConfigurationError, positive
from lightning_saliency.callbacks.monitor.shortcuts.texts import content_text, place_name, place_text
from lightning_saliency.functional.position_bias import PositionBias
from lightning_saliency.pictures.page import AlertRecord

#: Fewer images, or fewer of each class on average, say too little.
MIN_IMAGES, MIN_A_CLASS = 100, 2
#: The sanity check at the start of a run has few images. What is uncertain there makes the alert more cautious.
START_IMAGES = 32

#: Stands for the values at the start of the run where they were not measured: those of images whose objects always lie
#: at the same place, such as scanned digits.
UNKNOWN_START = 0.4


@dataclass(frozen=True)
class ShortcutAlert:
    """When the monitor warns of a shortcut, and what it does then.

    ``position_bias`` and ``content_bias`` are set against their values b₀ at the start of the run: (b − b₀) / (1 − b₀).
    The alert is raised when one of them has been at least ``threshold`` in so many frames in a row, and lowered when
    both have been below half of it in as many. A warning says where it is and how sure that is; it stands on the film's
    page, too. ``<name>/shortcut_alert`` is 1 while it is raised, else 0. Where they were not measured at the start,
    0.4 is taken for b₀: what images have whose objects always lie at the same place.

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
        start: ``position_bias`` and ``content_bias`` at the start of the run; ``None`` where they were not measured.
        history: Each time that it was raised, for the page of the run.
    """

    def __init__(self, alert: ShortcutAlert) -> None:
        self.alert = alert
        self.raised = False
        self.start: tuple[float, float] | None = None
        self.history: list[AlertRecord] = []
        self._above = 0
        self._below = 0
        self._said = False

    def begin(self, found: PositionBias | None, name: str) -> None:
        """Take the values at the start of the run, with which those to come are compared.

        Args:
            found: Where the maps of the network point; ``None``: there were none.
            name: The monitor's name, for messages.
        """
        if found is None or cannot_judge(found, START_IMAGES) is not None:
            return
        self.start = (max(found.bias, 0.0), max(found.content, 0.0))
        if max(self.start) >= self.alert.threshold:
            rank_zero_info(
                f"At the start of this run {name}/position_bias is {found.bias:.2f} (in {place_name(found.cell)}) and "
                f"{name}/content_bias {found.content:.2f}. This may be a shortcut that the network has learnt before, "
                "and it may be the images: things that always lie at one place, or colours that belong to the classes. "
                "Look at 'Mean maps' in film.html, the page of this run: is it the object that stands out, or a mark? "
                "SaliencyMonitor warns of a shortcut only if these numbers grow."
            )

    def see(
        self, found: PositionBias | None, name: str, *, epoch: int = 0, step: int = 0, hiding: Hiding | None = None
    ) -> bool | None:
        """Judge a frame, and say what changed.

        Args:
            found: Where the maps of this frame point; ``None``: there were none.
            name: The monitor's name, for messages.
            epoch: The frame's epoch, from 0.
            step: The optimiser steps made so far.
            hiding: What hides, in this run, what is salient in training images; ``None``: nothing.

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
            at_a_place = place >= threshold
            text = (place_text if at_a_place else content_text)(found, name, self._start_text(name), hiding)
            self.history.append(AlertRecord(epoch, step, text, found.cell if at_a_place else None))
            warn(text)
        elif self.raised and self._below >= self.alert.frames:
            self.raised = False
            self.history[-1:] = [replace(record, lowered=epoch) for record in self.history[-1:]]
            rank_zero_info(
                f"SaliencyMonitor takes its warning of a shortcut back: {name}/position_bias is {found.bias:.2f} and "
                f"{name}/content_bias {found.content:.2f}, less than half of what it warns of, {self._below} frames in "
                "a row."
            )
        return self.raised

    def excess(self, found: PositionBias) -> tuple[float, float]:
        """``position_bias`` and ``content_bias`` against their values at the start of the run, in (-∞, 1]."""
        start = self.start or (UNKNOWN_START, UNKNOWN_START)
        place, content = (
            (now - before) / max(1 - before, 1e-6)
            for now, before in zip((found.bias, found.content), start, strict=True)
        )
        return place, content

    def state_dict(self) -> dict[str, Any]:
        """What a resumed run needs."""
        history = [asdict(record) for record in self.history]
        counts = {"above": self._above, "below": self._below}
        return {"raised": self.raised, "start": self.start, "history": history, **counts}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on where ``state_dict`` left it."""
        self.raised = bool(state["raised"])
        self.start = None if state["start"] is None else tuple(state["start"])
        self.history = [AlertRecord(**record) for record in state.get("history", [])]
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
            return "Neither was measured at the start of this run (log_at_start=True and a sanity check would)."
        place, content = self.start
        return f"At the start of this run {name}/position_bias was {place:.2f} and {name}/content_bias {content:.2f}."


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
