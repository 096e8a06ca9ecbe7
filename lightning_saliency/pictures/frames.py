"""Frames as files: their names say epoch and step, and where they grow too many, every second one goes."""

from __future__ import annotations

import os
import re
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path

from lightning_saliency.files import Location, RemotePath

_FILE_NAME = re.compile(r"(?:start|epoch=(?P<epoch>\d+))-step=(?P<step>\d+)(?P<suffix>\.[a-z]+)")


@dataclass(frozen=True)
class Frame:
    """One file of a film.

    Args:
        path: The file, a ``pathlib.Path`` or, on a remote store, a `RemotePath`.
        epoch: The epoch after which it was taken, from 0; -1 for the network at the start of the run.
        step: Number of optimiser steps at that time (``trainer.global_step``).
    """

    path: Location
    epoch: int
    step: int

    @property
    def label(self) -> str:
        """``"start"`` or ``"epoch 3"``."""
        return "start" if self.epoch < 0 else f"epoch {self.epoch}"


def frame_name(epoch: int, step: int, suffix: str = ".png") -> str:
    """The name of a frame's file.

    Raises:
        ValueError: If the epoch is below -1, or the step below 0.

    Example:
        >>> frame_name(-1, 0), frame_name(3, 150, ".json")
        ('start-step=0000000.png', 'epoch=0003-step=0000150.json')
    """
    if epoch < -1 or step < 0:
        raise ValueError(
            f"Got epoch={epoch}, step={step}. Allowed are epochs from -1 (the start of the run) and steps from 0; "
            "give trainer.current_epoch and trainer.global_step."
        )
    return f"{'start' if epoch < 0 else f'epoch={epoch:04d}'}-step={step:07d}{suffix}"


def frames_in(folder: Location, suffix: str = ".png") -> list[Frame]:
    """The frames in a folder, by step; empty where there is no such folder."""
    if not folder.is_dir():
        return []
    matches = [(path, _FILE_NAME.fullmatch(path.name)) for path in folder.iterdir()]
    frames = [
        Frame(path, int(match["epoch"] or -1), int(match["step"]))
        for path, match in matches
        if match and match["suffix"] == suffix
    ]
    return sorted(frames, key=lambda frame: (frame.step, frame.epoch))


def every_second(frames: list[Frame], kept: Collection[Location] = ()) -> list[Frame]:
    """Half of the frames between the first and the last, each time the one whose neighbours are closest together.

    At equal distances these are the second, the fourth and so on.

    Args:
        frames: By step.
        kept: Files of frames that are not to be among them.
    """
    left = list(frames)
    victims = []
    for _ in range((len(frames) - 1) // 2):
        inner = [index for index in range(1, len(left) - 1) if left[index].path not in kept]
        if not inner:
            break
        closest = min(inner, key=lambda index: left[index + 1].step - left[index - 1].step)
        victims.append(left.pop(closest))
    return victims


def evenly_spaced(frames: list[Frame], count: int) -> list[Frame]:
    """At most ``count`` frames, first and last included, each the nearest to its share of the steps."""
    count = min(count, len(frames))
    first, last = frames[0].step, frames[-1].step
    chosen = [] if count == 1 else [0]
    for position in range(1, count - 1):
        target = first + (last - first) * position / (count - 1)
        # As many frames must be left as are still to be chosen.
        candidates = range(chosen[-1] + 1, len(frames) - (count - 1 - position))
        chosen.append(min(candidates, key=lambda index: abs(frames[index].step - target)))
    return [frames[index] for index in (*chosen, len(frames) - 1)]


def file_size(path: Location) -> int:
    """A file's length in bytes."""
    return path.size() if isinstance(path, RemotePath) else path.stat().st_size


def move_file(path: Location, target: Location) -> None:
    """Move a file to another place of the same store."""
    if isinstance(path, RemotePath) and isinstance(target, RemotePath):
        path.move_to(target)
    elif isinstance(path, Path) and isinstance(target, Path):
        target.parent.mkdir(parents=True, exist_ok=True)
        os.replace(path, target)
