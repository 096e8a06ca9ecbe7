"""Pausing what records a network's passes during passes of our own."""

from __future__ import annotations

import weakref
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Protocol


class Recorder(Protocol):
    """Something with a switch."""

    recording: bool


_RECORDERS: weakref.WeakSet[Recorder] = weakref.WeakSet()


def register_recorder(recorder: Recorder) -> None:
    """Let ``recording_paused`` know of a recorder for as long as it lives."""
    _RECORDERS.add(recorder)


@contextmanager
def recording_paused() -> Iterator[None]:
    """Pause recording during our own passes through a network: nobody waits for their activations."""
    paused = [recorder for recorder in _RECORDERS if recorder.recording]
    for recorder in paused:
        recorder.recording = False
    try:
        yield
    finally:
        for recorder in paused:
            recorder.recording = True
