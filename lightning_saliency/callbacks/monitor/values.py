"""The monitor's scalars on their way to the loggers, to other callbacks and to the page of the run."""

from __future__ import annotations

from collections.abc import Mapping

import pytorch_lightning as pl

from lightning_saliency.callbacks._trainer_lookups import has_trained
from lightning_saliency.callbacks._warnings import warn
from lightning_saliency.callbacks.monitor.attempts import Attempts
from lightning_saliency.callbacks.monitor.options import MonitorConfigurationError
from lightning_saliency.callbacks.monitor.page import KEEPING, MonitorPage
from lightning_saliency.callbacks.monitor.scalars import NOT_MEASURED, OBJECT_SCORES, values_to_log, watchers
from lightning_saliency.callbacks.monitor.shortcuts.watch import ShortcutWatch

#: Of each value, what has to be there for it.
_NEEDS = {
    **dict.fromkeys(OBJECT_SCORES, "batches with boxes or masks of objects"),
    **dict.fromkeys(("position_bias", "content_bias"), "batches with classes, which label_key= finds"),
    "drift": "images that come back in each epoch",
    "shortcut_alert": "100 images or more with classes, which label_key= and position_images= say",
}


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
        self._said: set[str] = set()

    def begin_run(self, trainer: pl.Trainer, stage: str, shortcuts: ShortcutWatch, follows: bool) -> None:
        """Refuse a run that waits for a value which is never measured.

        Whoever watches it would get one number all along: ``EarlyStopping`` ends the run for it.

        Args:
            trainer: The run; its schedulers are not known yet.
            stage: The loop that is watched.
            shortcuts: Says which values of all images there are.
            follows: Whether images are found again.

        Raises:
            MonitorConfigurationError: If a callback of a fit watches such a value.
        """
        self._said = set()
        never: dict[str, str] = {}
        if shortcuts.alert is None:
            never["shortcut_alert"] = "alert=None"
        if not shortcuts.images:
            never |= dict.fromkeys(("position_bias", "content_bias", "shortcut_alert"), "position_images=0")
        if not follows:
            never["drift"] = f"stage={stage!r}, whose film shows each epoch's first images"
        for name, watcher in watchers(trainer, self._prefix).items():
            if name in never:
                measured = ", ".join(f"{self._prefix}/{other}" for other in NOT_MEASURED if other not in never)
                raise MonitorConfigurationError(
                    f"Got {watcher}(monitor='{self._prefix}/{name}') with a SaliencyMonitor of {never[name]}: it is "
                    f"never measured. Allowed are, with this monitor, {measured}; let "
                    f"{watcher} watch another value, or change the monitor."
                )

    def mind_unmeasured(self, trainer: pl.Trainer) -> None:
        """Say so, once for each, where a value that is watched was not measured by the end of a whole frame."""
        for name, watcher in watchers(trainer, self._prefix).items():
            if name not in self.latest and name not in self._said:
                self._said.add(name)
                warn(
                    f"SaliencyMonitor has measured no {self._prefix}/{name}, which {watcher} watches: it needs "
                    f"{_NEEDS[name]}. {watcher} gets {NOT_MEASURED[name]:g} in each epoch until there is one, and "
                    f"EarlyStopping ends a run where nothing gets better. Let {watcher} watch another value if there "
                    "will be none."
                )

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
