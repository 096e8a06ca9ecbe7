"""What the monitor accepts, and what happens to its own errors."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, TypeVar

#: The loops a monitor can watch.
STAGES = ("validate", "train", "test")
Hook = TypeVar("Hook", bound=Callable[..., None])


class MonitorConfigurationError(ValueError):
    """The monitor cannot work as configured; raised before the first training step, while nothing can be lost."""


def harmless(hook: Hook) -> Hook:
    """Watching never ends a training run: an error in a hook switches the monitor off with one warning."""

    @functools.wraps(hook)
    def guarded(self: Any, *args: Any, **kwargs: Any) -> None:
        if self._off:
            return
        try:
            hook(self, *args, **kwargs)
        except MonitorConfigurationError:
            raise
        except Exception as error:  # said aloud, once, by _switch_off
            self._switch_off(f"{type(error).__name__}: {error}")

    return guarded  # type: ignore[return-value]


def positive(name: str, value: int) -> int:
    """A positive integer, or an error that names the option."""
    if not isinstance(value, int) or isinstance(value, bool) or value < 1:
        raise MonitorConfigurationError(f"Expected {name} to be a positive integer, but got {value!r}.")
    return value
