"""Hooks that stay with the network they were made for, and pausing them during passes of our own."""

from __future__ import annotations

import weakref
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, Protocol


class Hook:
    """A hook on a module. A copy of the module, or a file that it is pickled to, gets one that does nothing.

    Args:
        function: What the hook does.
    """

    def __init__(self, function: Callable[..., None]) -> None:
        self._function = function

    def __call__(self, *arguments: Any) -> None:
        """What PyTorch calls."""
        self._function(*arguments)

    def __reduce__(self) -> tuple[type[Hook], tuple[Callable[..., None]]]:
        """For ``copy.copy``, ``copy.deepcopy`` and ``pickle``."""
        return Hook, (no_hook,)


def no_hook(*_arguments: object) -> None:
    """A hook that does nothing."""


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
