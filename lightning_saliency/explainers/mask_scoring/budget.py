"""A time limit on the passes over masked or noisy images, to estimate what a map costs."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass


@dataclass
class ScoringBudget:
    """Progress of the passes over masked or noisy images within a time limit, see `limited_scoring`.

    Attributes:
        seconds: Time limit in seconds.
        asked: Number of such images to pass through the network.
        run: Number of those that were passed.
        taken: Seconds spent on these.
    """

    seconds: float
    asked: int = 0
    run: int = 0
    taken: float = 0.0

    @property
    def used_up(self) -> bool:
        """Whether no further images are to be run."""
        return self.run > 0 and self.taken >= self.seconds

    def note(self, count: int, seconds: float) -> None:
        """Count images that were run."""
        self.asked += count
        self.run += count
        self.taken += seconds


#: The limit in force, if any.
CURRENT_BUDGET: ContextVar[ScoringBudget | None] = ContextVar("scoring budget", default=None)


@contextmanager
def limited_scoring(seconds: float) -> Iterator[ScoringBudget]:
    """Inside, explainers stop passing masked or noisy images after a time limit, so that their cost can be estimated.

    The first passes are always run; what is not run counts as 0. The maps are meaningless.

    Args:
        seconds: The time for all these passes.

    Yields:
        The progress so far.

    Example:
        >>> import torch
        >>> from torch import nn
        >>> from lightning_saliency.explainers import score_masks
        >>> model = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten())
        >>> with limited_scoring(0.0) as budget:
        ...     _ = score_masks(model, torch.ones(1, 2, 8, 8), torch.rand(1, 50, 8, 8), 0, batch_size=4)
        >>> budget.asked, budget.run
        (50, 4)
    """
    budget = ScoringBudget(seconds)
    token = CURRENT_BUDGET.set(budget)
    try:
        yield budget
    finally:
        CURRENT_BUDGET.reset(token)
