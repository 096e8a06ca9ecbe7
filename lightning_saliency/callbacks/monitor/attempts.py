"""One failure stays one: it is named in one warning, tried again, and given up after three frames in a row."""

from __future__ import annotations

import errno
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from pytorch_lightning.utilities import rank_zero_info

from lightning_saliency.callbacks._warnings import warn

#: Failures in a row after which something is not tried again.
MAX_FAILURES = 3


class Attempts:
    """Keeps account of the parts of a frame that failed: each view, each scalar, each logger, the film, the reading.

    A part that failed is left out of the rest of its frame. It is tried again in the next frame, and given up after
    three frames in a row in which it failed.

    Example:
        >>> attempts = Attempts()
        >>> attempts.begin_frame()
        >>> with attempts.trying("draw lovi", "Leave the view out with views=."):
        ...     picture = "drawn"
        >>> attempts.wants("draw lovi")
        True
    """

    def __init__(self) -> None:
        self._failures: Counter[str] = Counter()
        self._tried: set[str] = set()
        self._failed: set[str] = set()
        self._warned: set[str] = set()

    def begin_frame(self) -> None:
        """Begin a frame: whatever went well in the last one has no failures behind it."""
        for part in self._tried - self._failed:
            self._failures.pop(part, None)
        self._tried, self._failed = set(), set()

    def wants(self, part: str) -> bool:
        """Whether a part is to be tried: it has not failed in this frame, and not in the three before it."""
        return part not in self._failed and self._failures[part] < MAX_FAILURES

    @contextmanager
    def trying(self, part: str, remedy: str = "", *, again: bool = True) -> Iterator[None]:
        """Inside, an error does not get through: one warning names it.

        Args:
            part: What is tried, as an infinitive: ``"draw the view 'lovi'"``.
            remedy: What the user can do about it, one sentence or more.
            again: Whether each frame tries it; else it is of the run's end.
        """
        self._tried.add(part)
        try:
            yield
        except Exception as error:  # named in a warning
            self.fail(part, error, remedy, again=again)

    def went_well(self, part: str) -> None:
        """A part that was tried elsewhere went well: in the next frame it has no failures behind it."""
        self._tried.add(part)

    def fail(self, part: str, error: Exception, remedy: str = "", *, again: bool = True) -> None:
        """Count a failure that was caught elsewhere."""
        self._tried.add(part)
        self._failures[part] += part not in self._failed
        self._failed.add(part)
        if part not in self._warned:
            self._warned.add(part)
            help_ = _remedy(error, remedy)
            warn(
                f"SaliencyMonitor could not {part}. {type(error).__name__}: {error}{help_} The run goes on without it. "
                f"It is tried again at each frame, until it has failed {MAX_FAILURES} times in a row."
                if again
                else f"SaliencyMonitor could not {part}. {type(error).__name__}: {error}{help_}"
            )
        if self._failures[part] == MAX_FAILURES:
            rank_zero_info(
                f"SaliencyMonitor does not try again to {part}: it failed in {MAX_FAILURES} frames in a row."
            )


def _remedy(error: Exception, remedy: str) -> str:
    """What helps, with a blank before it: what the part says, or what there is against lack of memory or disk."""
    if "out of memory" in str(error).lower() or isinstance(error, (torch.OutOfMemoryError, MemoryError)):
        return " Show fewer images with num_images=, or fewer views."
    if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
        return " Make room on the disk, or keep less of the film with film_megabytes=."
    return f" {remedy}" if remedy else ""
