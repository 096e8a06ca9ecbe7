"""A time limit on the scoring of masked images, to estimate what a map costs."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass

from torch import Tensor


@dataclass
class ScoringBudget:
    """Progress of the scoring of masked images within a time limit, see `limited_scoring`.

    Attributes:
        seconds: Time limit in seconds.
        asked: Number of masked images to score.
        run: Number of masked images that the network was run on.
        taken: Seconds spent on these.
    """

    seconds: float
    asked: int = 0
    run: int = 0
    taken: float = 0.0

    @property
    def used_up(self) -> bool:
        """Whether no further masked images are to be run."""
        return self.run > 0 and self.taken >= self.seconds

    def note(self, scores: Tensor, seconds: float) -> None:
        """Count masked images that were run."""
        self.asked += len(scores)
        self.run += len(scores)
        self.taken += seconds


#: The limit in force, if any.
CURRENT_BUDGET: ContextVar[ScoringBudget | None] = ContextVar("scoring budget", default=None)


@contextmanager
def limited_scoring(seconds: float) -> Iterator[ScoringBudget]:
    """Inside, explainers stop scoring masked images after a time limit, so that their cost can be estimated.

    The first passes are always run; the scores of masked images that are not run are 0. The maps are meaningless.

    Args:
        seconds: The time for all passes over masked images.

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
