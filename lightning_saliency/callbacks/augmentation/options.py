"""What the augmentation accepts: its error, its checks, the schedule of its probability, its random numbers."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from itertools import pairwise
from typing import Any

import pytorch_lightning as pl
import torch
from pytorch_lightning.utilities import rank_zero_info
from torchvision.transforms import v2

from lightning_saliency.callbacks._trainer_lookups import WHOLE_STRATEGIES, is_sharded
from lightning_saliency.callbacks._warnings import warn
from lightning_saliency.explainers import EXPLAINERS, Explainer

#: A fixed probability, or points (epoch, probability) between which it is interpolated.
Schedule = float | Sequence[Sequence[float]]

#: What may stand in place of the guide's maps, to see whether they matter.
MASK_CONTROLS = ("random_blobs", "other_image")

#: The names of actions, see ``ACTIONS`` of ``actions/options.py``.
ACTION_NAMES = ("keep", "hide", "protect", "swap", "mix")
#: The names of what stands for a whole augmentation.
PRESETS = ("GroupCAMAugmentation", "MaskTune", "KeepAugment")


class AugmentationConfigurationError(ValueError):
    """The augmentation cannot work as configured; raised before the first training step, while nothing can be lost."""


def meant_for(given: object, option: str) -> str:
    """Where a name belongs that was given to another option, as a sentence with a blank before it; else nothing.

    Args:
        given: What was given: a name, a class, or a mapping of ``class_path`` and ``init_args``.
        option: What it was given to: ``"explainer"``, ``"action"`` or ``"transform"``.

    Example:
        >>> meant_for("grad_cam", "transform"), meant_for("grad_cam", "explainer")
        (" 'grad_cam' is an explainer: give it with explainer=.", '')
    """
    name = given.get("class_path") if isinstance(given, Mapping) else given
    kind = name if isinstance(name, type) else getattr(v2, name, None) if isinstance(name, str) else None
    if isinstance(kind, type) and issubclass(kind, Explainer):
        places = ["explainer"]
    elif isinstance(kind, type) and issubclass(kind, v2.Transform):
        places = ["transform"]
    elif isinstance(name, str):
        places = [place for place, names in (("explainer", EXPLAINERS), ("action", ACTION_NAMES)) if name in names]
        if name in PRESETS:
            return f" {name!r} is a callback: use {name}(...) in the place of this one."
    else:
        places = []
    said = repr(name) if isinstance(name, str) else getattr(name, "__name__", "")
    of_protect = " of the action 'protect', or of KeepAugment" if option != "transform" else ""
    return "".join(
        f" {said} is {'a' if place == 'transform' else 'an'} {place}: give it with {place}="
        f"{of_protect if place == 'transform' else ''}."
        for place in places
        if place != option
    )


def parse_schedule(probability: Schedule) -> tuple[tuple[float, float], ...]:
    """The points (epoch, probability) of a schedule; a number is one point.

    Raises:
        AugmentationConfigurationError: If a probability is outside [0, 1] or the epochs do not rise.

    Example:
        >>> parse_schedule(0.5), parse_schedule([[0, 0.0], [10, 1.0]])
        (((0.0, 0.5),), ((0.0, 0.0), (10.0, 1.0)))
    """
    points: list[tuple[float, float]] = []
    try:
        given: Any = probability if isinstance(probability, (list, tuple)) else [(0.0, probability)]
        points = [(float(epoch), float(value)) for epoch, value in given]
    except (TypeError, ValueError):
        points = []
    rising = all(left[0] < right[0] for left, right in pairwise(points))
    if not points or not rising or any(not 0 <= value <= 1 for _, value in points):
        raise AugmentationConfigurationError(
            f"Got probability={probability!r}. Allowed are a number in [0, 1] and points (epoch, probability) with "
            "rising epochs, such as [[0, 0.0], [10, 1.0]]; give one of them."
        )
    return tuple(points)


def probability_at(points: Sequence[tuple[float, float]], epoch: float) -> float:
    """A schedule's probability in an epoch: linear between its points, constant before the first and after the last.

    Example:
        >>> [probability_at([(2, 0.0), (4, 1.0)], epoch) for epoch in (0, 2, 3, 4, 9)]
        [0.0, 0.0, 0.5, 1.0, 1.0]
    """
    if epoch <= points[0][0]:
        return points[0][1]
    for (start, low), (stop, high) in pairwise(points):
        if epoch <= stop:
            return low + (high - low) * (epoch - start) / (stop - start)
    return points[-1][1]


def whole_number(name: str, value: int, minimum: int) -> int:
    """The value, if it is a whole number from ``minimum``, or an error that names the option."""
    if not isinstance(value, int) or isinstance(value, bool) or value < minimum:
        raise AugmentationConfigurationError(
            f"Got {name}={value!r}. Allowed are whole numbers from {minimum}; use one."
        )
    return value


def parse_reuse(reuse_epochs: int | str) -> int | None:
    """The number of epochs for which a map is used, ``None`` for all of them.

    Example:
        >>> parse_reuse("all"), parse_reuse(2)
        (None, 2)
    """
    if reuse_epochs == "all":
        return None
    if not isinstance(reuse_epochs, int) or isinstance(reuse_epochs, bool) or reuse_epochs < 1:
        raise AugmentationConfigurationError(
            f"Got reuse_epochs={reuse_epochs!r}. Allowed are whole numbers from 1 and 'all'; 1 makes each map anew."
        )
    return reuse_epochs


def refuse_shards(trainer: pl.Trainer, module: pl.LightningModule) -> None:
    """Raise an error where no process holds the whole network."""
    if is_sharded(trainer, module):
        raise AugmentationConfigurationError(
            f"{type(trainer.strategy).__name__} spreads the parameters over processes, so that none can run the "
            f"network by itself. {WHOLE_STRATEGIES}, or leave the augmentation out."
        )


def batch_generator(seed: int, rank: int, batch: int, device: torch.device | str = "cpu") -> torch.Generator:
    """Random numbers that depend on the seed, the process and the count of training batches, and on nothing else.

    A run resumed from a checkpoint therefore draws what it would have drawn, on every process, though a checkpoint
    holds the state of the first process alone.

    Example:
        >>> first, again, other = (batch_generator(0, 0, batch) for batch in (3, 3, 4))
        >>> numbers = [torch.rand((), generator=generator).item() for generator in (first, again, other)]
        >>> numbers[0] == numbers[1], numbers[0] == numbers[2]
        (True, False)
    """
    # Any step of a good generator mixes well enough; the multipliers are odd, so that no two triples nearby coincide.
    mixed = (seed * 0x9E3779B97F4A7C15 + rank * 0xC2B2AE3D27D4EB4F + batch * 0x165667B19E3779F9 + 1) % 2**63
    return torch.Generator(device).manual_seed(mixed)


#: Number of failures in a row after which the augmentation is switched off.
MAX_FAILURES = 10


class Failures:
    """Counts failures in a row, and warns of each kind of error once.

    Args:
        owner: Name of the callback, in front of the warnings.

    Attributes:
        off: Whether there were too many failures in a row.
        strict: Whether a failure is an error that ends the run.

    Example:
        >>> failures = Failures("SaliencyAugmentation")
        >>> failures.off
        False
    """

    def __init__(self, owner: str) -> None:
        self.owner = owner
        self.off = self.strict = False
        self._in_a_row = 0
        self._warned: set[str] = set()

    def begin(self) -> None:
        """Another run: nothing has failed yet, and nothing was said."""
        self.off = False
        self._in_a_row = 0
        self._warned.clear()

    def succeeded(self) -> None:
        """An attempt was made and nothing failed. Skipped steps do not reset the counter."""
        self._in_a_row = 0

    def failed(self, error: Exception) -> None:
        """An attempt failed.

        Raises:
            Exception: The error, if ``strict``.
        """
        if self.strict:
            raise error
        self._in_a_row += 1
        kind = type(error).__name__
        self.warn_once(kind, f"A training step goes on unaugmented. {kind}: {error}")
        if self._in_a_row >= MAX_FAILURES:
            self.off = True
            self.warn_once("off", f"After {MAX_FAILURES} failures in a row it is off for the rest of the run.")

    @contextmanager
    def apart(self, part: str, remedy: str = "") -> Iterator[None]:
        """Inside, an error is a warning that does not touch training: the images are augmented all the same.

        Args:
            part: What is tried, as an infinitive: ``"draw its pictures"``.
            remedy: What the user can do about it.
        """
        try:
            yield
        except Exception as error:  # named in a warning
            self.warn_once(
                part,
                f"It could not {part}; the images are augmented all the same. {type(error).__name__}: {error} "
                f"{remedy or 'film=False leaves it out.'}",
            )

    def note_once(self, what: str, message: str) -> None:
        """Say something that is no failure, on the first process, unless it was said before."""
        if what not in self._warned:
            self._warned.add(what)
            rank_zero_info(f"{self.owner}: {message}")

    def warn_once(self, what: str, message: str) -> None:
        """Warn, on the first process, unless that was said before."""
        if what not in self._warned:
            self._warned.add(what)
            warn(f"{self.owner}: {message}")
