"""What becomes of the augmentation's own errors: a warning each, and after several in a row the end of it."""

from __future__ import annotations

from pytorch_lightning.utilities import rank_zero_warn

#: So many attempts in a row may fail before the augmentation gives up.
MOST_FAILURES = 10


class Failures:
    """Counts the attempts that failed in a row, and says what happened, each kind of error once.

    Args:
        owner: Who fails, in front of the warnings.

    Attributes:
        off: Whether there were too many of them.

    Example:
        >>> failures = Failures("SaliencyAugmentation")
        >>> failures.off
        False
    """

    def __init__(self, owner: str) -> None:
        self.owner = owner
        self.off = False
        self._in_a_row = 0
        self._said: set[str] = set()

    def begin(self) -> None:
        """Another run: nothing has failed yet."""
        self.off = False
        self._in_a_row = 0

    def succeeded(self) -> None:
        """An attempt was made and nothing failed. That none was made is no success."""
        self._in_a_row = 0

    def failed(self, error: Exception) -> None:
        """An attempt failed."""
        self._in_a_row += 1
        kind = type(error).__name__
        self.warn_once(kind, f"A training step goes on unaugmented. {kind}: {error}")
        if self._in_a_row >= MOST_FAILURES:
            self.off = True
            self.warn_once("off", f"After {MOST_FAILURES} failures in a row it is off for the rest of the run.")

    def warn_once(self, what: str, message: str) -> None:
        """Warn, on the first process, unless that was said before."""
        if what not in self._said:
            self._said.add(what)
            rank_zero_warn(f"{self.owner}: {message}")
