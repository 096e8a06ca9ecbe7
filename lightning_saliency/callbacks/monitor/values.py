"""The monitor's scalars on their way to the loggers, to other callbacks and to the page of the run."""

from __future__ import annotations

from collections.abc import Mapping

import pytorch_lightning as pl

from lightning_saliency.callbacks._trainer_lookups import has_trained
from lightning_saliency.callbacks.monitor.attempts import Attempts
from lightning_saliency.callbacks.monitor.page import KEEPING, MonitorPage
from lightning_saliency.callbacks.monitor.scalars import values_to_log


class MonitorValues:
    """Logs the monitor's values, and keeps whatever was logged for the page.

    Args:
        prefix: The monitor's name, with which every key begins.
        page: What keeps values for the page.
    """

    def __init__(self, prefix: str, page: MonitorPage) -> None:
        self.latest: dict[str, float] = {}
        """The last measured value of each name, also of epochs ago."""
        self._prefix = prefix
        self._page = page

    def log(
        self, trainer: pl.Trainer, module: pl.LightningModule, stage: str, measured: Mapping[str, float], *, own: bool
    ) -> None:
        """Log values with ``module.log``.

        Args:
            trainer: The run.
            module: Its module.
            stage: Whose epoch ends.
            measured: The values by name.
            own: Whether the monitor watches it. Else other callbacks get what they watch and do not have yet, and
                loggers nothing.
        """
        values = values_to_log(measured, trainer, self._prefix)
        if not own:
            # For a callback that looks after a validation before the watched stage had its first values.
            in_fit = stage == "validate" and trainer.state.fn == "fit"
            values = {key: value for key, value in values.items() if in_fit and key not in trainer.callback_metrics}
        for key, value in values.items():
            module.log(
                key, value, on_step=False, on_epoch=True, sync_dist=True, batch_size=1, logger=None if own else False
            )

    def log_start(self, trainer: pl.Trainer, means: Mapping[str, float], attempts: Attempts) -> None:
        """Log the values at the start of the run, which are the film's first.

        They go to the loggers directly: what a module logs in the sanity check is dropped.

        Args:
            trainer: The run.
            means: The values by name.
            attempts: What may fail, and how often.
        """
        values = {f"{self._prefix}/{name}": value for name, value in means.items()}
        if attempts.wants(KEEPING):
            with attempts.trying(KEEPING):
                self._page.log(trainer, values)
        for number, logger in enumerate(trainer.loggers, start=1):
            with attempts.trying(f"log values to {type(logger).__name__}, logger {number} of the trainer"):
                logger.log_metrics(values, step=0)

    def keep(self, trainer: pl.Trainer, attempts: Attempts, *, validated: bool) -> None:
        """Keep everything that was logged by now, the module's values included, for the page.

        Args:
            trainer: The run.
            attempts: What may fail, and how often.
            validated: See `FilmRecords.log`.
        """
        again = trainer.sanity_checking and has_trained(trainer)  # of a run that goes on: these values are there
        if again or not attempts.wants(KEEPING):
            return
        with attempts.trying(KEEPING):
            # Read by every process: values may have to be reduced over all.
            values = dict(trainer.callback_metrics)
            if trainer.is_global_zero:
                self._page.log(trainer, values, validated=validated)
