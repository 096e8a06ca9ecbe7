"""Looking for shortcuts in a run: the maps of its epochs, the numbers made of them, and the alert."""

from __future__ import annotations

from typing import Any

import pytorch_lightning as pl
import torch

from lightning_saliency.callbacks._trainer_lookups import hiding_callback, logged_step
from lightning_saliency.callbacks.monitor.options import MonitorConfigurationError, positive
from lightning_saliency.callbacks.monitor.reading.batch_maps import Pending
from lightning_saliency.callbacks.monitor.scalars import EpochScalars
from lightning_saliency.callbacks.monitor.shortcuts.alert import AlertState, ShortcutAlert
from lightning_saliency.callbacks.monitor.shortcuts.positions import EpochPositions, batches_of
from lightning_saliency.functional.position_bias import POSITION_GRID, PositionSums
from lightning_saliency.pictures.page import AlertRecord
from lightning_saliency.scales.maps import coarse_statistics
from lightning_saliency.scales.reader import PassMaps, rows_of

#: At least so many images are wanted of each class that the frame before had.
IMAGES_A_CLASS = 4


class ShortcutWatch:
    """Adds up where the maps of an epoch's images point, and judges it at the epoch's end.

    Args:
        images: About how many images an epoch, over all processes; 0: none.
        alert: When to warn; ``None``: never.
        name: The monitor's name, for messages.

    Attributes:
        sums: Those of the latest epoch that ended, over all processes, which therefore agree.

    Raises:
        MonitorConfigurationError: If the number of images is negative, or the alert of another kind.
    """

    def __init__(self, images: int, alert: ShortcutAlert | None, name: str) -> None:
        self.images = images if images == 0 and not isinstance(images, bool) else positive("position_images", images)
        if alert is not None and not isinstance(alert, ShortcutAlert):
            raise MonitorConfigurationError(
                f"Got alert={alert!r}. Allowed are None and ShortcutAlert(threshold={_threshold(alert)}); give one."
            )
        self.alert = alert
        self.name = name
        self._positions: EpochPositions | None = None
        self._state: AlertState | None = None
        self.sums = PositionSums()
        self.begin_run()

    def begin_run(self) -> None:
        """Forget what was seen of another run."""
        self.sums = PositionSums()
        self._positions = None
        self._state = None if self.alert is None or not self.images else AlertState(self.alert)

    def begin_epoch(self) -> None:
        """Begin with the sums of an epoch."""
        self._positions = None

    def positions(self, trainer: pl.Trainer, stage: str, loader: int) -> EpochPositions:
        """What chooses among the batches of this epoch.

        Args:
            trainer: The run.
            stage: The loop that is watched.
            loader: The loader whose batch comes.
        """
        if self._positions is None:
            batches = batches_of(trainer, stage, loader)
            images = max(self.images, IMAGES_A_CLASS * self.sums.classes) if self.images else 0
            self._positions = EpochPositions(-(-images // trainer.world_size), batches)
        return self._positions

    def take(self, pending: Pending, found: PassMaps) -> None:
        """Add a batch whose maps were read.

        Args:
            pending: What of the batch was wanted.
            found: The maps.
        """
        if pending.cells is not None and self._positions is not None:
            labels = None if pending.classes is None else rows_of(pending.classes, found.images)
            maps = coarse_statistics(found.maps, (POSITION_GRID, POSITION_GRID))
            self._positions.add(maps, labels, rows_of(pending.cells, found.images), found.own)

    def add_waiting(self) -> None:
        """Add up what waits on a GPU; before `end_epoch`, in which the processes wait for each other."""
        if self._positions is not None:
            self._positions.add_waiting()

    def end_epoch(self, trainer: pl.Trainer, scalars: EpochScalars) -> None:
        """Add the epoch up over all processes. Called on every process alike, also on one without a batch.

        Args:
            trainer: The run.
            scalars: Gets the numbers.
        """
        self.sums = PositionSums()
        if self.images:
            self.sums = (self._positions or EpochPositions(0)).reduced(trainer)
        scalars.add_positions(self.sums.result())

    def judge(self, trainer: pl.Trainer, scalars: EpochScalars) -> None:
        """Judge a frame of the film: warn, and end the run where that was asked for.

        Args:
            trainer: The run.
            scalars: Gets whether the warning stands.
        """
        found = self.sums.result()
        if self._state is None:
            return
        if trainer.sanity_checking:
            self._state.begin(found, self.name)
            return
        before = self._state.raised
        epoch, hiding = trainer.current_epoch, hiding_callback(trainer)
        raised = self._state.see(found, self.name, epoch=epoch, step=logged_step(trainer), hiding=hiding)
        if raised is not None:
            scalars.add("shortcut_alert", torch.tensor(float(raised)))
        if self._state.alert.stop and raised and not before and trainer.state.fn == "fit":
            trainer.should_stop = True

    @property
    def history(self) -> list[AlertRecord]:
        """Each time that the alert was raised."""
        return [] if self._state is None else list(self._state.history)

    def state_dict(self) -> dict[str, Any] | None:
        """What the alert has seen; ``None`` without one."""
        return None if self._state is None else self._state.state_dict()

    def load_state_dict(self, state: dict[str, Any] | None) -> None:
        """Go on with the alert of a checkpoint."""
        if self._state is not None and state is not None:
            self._state.load_state_dict(state)


def _threshold(given: object) -> float:
    """The threshold that was meant, if it can be one."""
    number = isinstance(given, (int, float)) and not isinstance(given, bool) and 0 < given <= 1
    return float(given) if number else ShortcutAlert.threshold  # type: ignore[arg-type]
