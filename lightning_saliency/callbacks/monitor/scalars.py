"""The numbers of one epoch of the monitor, and keeping them there for whoever watches them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import NamedTuple

import pytorch_lightning as pl
import torch
from torch import Tensor
from torch.nn import functional as F

from lightning_saliency.callbacks._epoch_means import EpochMeans
from lightning_saliency.functional.localization import energy_pointing_game, pointing_game
from lightning_saliency.functional.position_bias import PositionBias

#: Scores of maps against objects: combined maps ``[B, h, w]`` and cells ``[B, h, w]`` bool -> ``[B]``.
OBJECT_SCORES: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "energy_in_box": energy_pointing_game,
    "pointing_game": pointing_game,
}
#: The names of the scalars, each with the value that stands for "not measured" where another callback watches it: no
#: energy on an object, a map that changes as much as one that has nothing to do with the last, no sign of a shortcut.
NOT_MEASURED = {
    **dict.fromkeys(OBJECT_SCORES, 0.0),
    "drift": 1.0,
    **dict.fromkeys(("position_bias", "content_bias", "shortcut_alert"), 0.0),
}


class EpochScalars(EpochMeans):
    """Means of saliency scores over an epoch and over all processes."""

    def __init__(self) -> None:
        super().__init__(tuple(NOT_MEASURED))

    def add_objects(self, score: str, combined: Tensor, objects: GridObjects, counted: Tensor | None = None) -> None:
        """Score combined maps ``[B, h, w]`` against objects on the maps' own grid; so of volumes.

        Images without an object do not count.

        Args:
            score: A name in ``OBJECT_SCORES``.
            combined: The maps.
            objects: Where the images' objects lie, see `on_grid`.
            counted: Whether the batch counts, a bool on the maps' device; ``None``: it does.
        """
        has = objects.has if counted is None else objects.has & counted
        # A volume's slices one below the other.
        self.add(score, OBJECT_SCORES[score](combined.flatten(1, -2), objects.inside), has)

    def add_drift(self, drift: Tensor | None) -> None:
        """Take in each map's distance ``[n]`` from the one before; ``None``, no map before, counts as 1."""
        self.add("drift", torch.ones(1) if drift is None else drift)

    def add_positions(self, found: PositionBias | None) -> None:
        """Take in where the maps of all images point; numbers that could not be computed do not count."""
        if found is not None:
            self.add("position_bias", torch.tensor(found.bias))
            self.add("content_bias", torch.tensor(found.content))


class GridObjects(NamedTuple):
    """The images' objects on their maps' grid.

    Attributes:
        inside: ``[B, h, w]`` bool, the cells of the objects; of volumes ``[B, t·h, w]``.
        has: ``[B]`` bool, whether the image has an object.
    """

    inside: Tensor
    has: Tensor


def on_grid(objects: Tensor, combined: Tensor) -> GridObjects:
    """Objects ``[B, H, W]`` bool on the grid of maps ``[B, h, w]``; so of volumes.

    A cell belongs to an object that covers half of it; of a smaller object, the cells with the most of it.

    Args:
        objects: Where the images' objects lie, on any device: boxes that are lists of numbers lie on the CPU.
        combined: The maps.
    """
    covered = objects.to(combined.device, torch.float32)
    if objects.shape != combined.shape:
        pool: Callable[..., Tensor] = F.adaptive_avg_pool3d if objects.ndim == 4 else F.adaptive_avg_pool2d
        covered = pool(covered[:, None], combined.shape[1:])[:, 0]
    covered = covered.flatten(1, -2)
    fullest = covered.flatten(1).amax(1)
    inside = covered >= (0.5 * fullest).clamp_min(torch.finfo(torch.float32).tiny)[:, None, None]
    return GridObjects(inside, fullest > 0)


def values_to_log(measured: Mapping[str, float], trainer: pl.Trainer, prefix: str) -> dict[str, float]:
    """The values of this epoch's log, by their full keys.

    Once there was a value there is one in every validation, the last one that was measured. Of a value that another
    callback or a scheduler of the learning rate watches (``EarlyStopping``, ``ModelCheckpoint``,
    ``ReduceLROnPlateau``) there is one from the first validation of a fit on, the one in ``NOT_MEASURED`` if there is
    no other: who does not find what it watches ends the run.

    Args:
        measured: The latest measured values by name.
        trainer: The run; its callbacks and schedulers are asked for their ``monitor``.
        prefix: The monitor's name.
    """
    waiting = {name: NOT_MEASURED[name] for name in watchers(trainer, prefix)}
    return {f"{prefix}/{name}": value for name, value in {**waiting, **measured}.items()}


def watchers(trainer: pl.Trainer, prefix: str) -> dict[str, str]:
    """The values of a fit that somebody watches, each with the kind of the callback or scheduler that does.

    Args:
        trainer: The run; its callbacks and schedulers are asked for their ``monitor``.
        prefix: The monitor's name.
    """
    if trainer.state.fn != "fit":
        return {}
    found: dict[str, str] = {}
    for each in (*trainer.callbacks, *trainer.lr_scheduler_configs):  # type: ignore[attr-defined]
        key = getattr(each, "monitor", None)
        if isinstance(key, str):  # somebody else's callback may have a `monitor` that is no key
            found.setdefault(key, type(getattr(each, "scheduler", each)).__name__)
    return {name: found[f"{prefix}/{name}"] for name in NOT_MEASURED if f"{prefix}/{name}" in found}
