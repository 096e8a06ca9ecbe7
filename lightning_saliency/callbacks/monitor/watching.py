"""One run under the monitor: which of its epochs and batches are read, what is made of them, and what failed."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import pytorch_lightning as pl
from torch import Tensor

from lightning_saliency.callbacks._processes import agree_to_refuse, named, of_process, which
from lightning_saliency.callbacks._trainer_lookups import (
    fetches_itself,
    has_trained,
    is_compiled,
    watched_module,
)
from lightning_saliency.callbacks._warnings import warn
from lightning_saliency.callbacks.monitor.attempts import Attempts
from lightning_saliency.callbacks.monitor.film import MonitorFilm
from lightning_saliency.callbacks.monitor.options import MonitorConfigurationError
from lightning_saliency.callbacks.monitor.page import KEEPING
from lightning_saliency.callbacks.monitor.reading.batch_maps import BatchReading, sample_records, worst_of
from lightning_saliency.callbacks.monitor.reading.logits import NetworkPredictions
from lightning_saliency.callbacks.monitor.reading.sample import SampleRecord
from lightning_saliency.callbacks.monitor.run_checks import mind_shards
from lightning_saliency.callbacks.monitor.scalars import OBJECT_SCORES, EpochScalars, on_grid
from lightning_saliency.callbacks.monitor.schedule import Schedule, is_endless
from lightning_saliency.callbacks.monitor.shortcuts.watch import ShortcutWatch
from lightning_saliency.callbacks.monitor.shown import READING, ShownImages
from lightning_saliency.callbacks.monitor.values import MonitorValues
from lightning_saliency.functional.fusion import scale_weights
from lightning_saliency.scales.maps import combined_statistics
from lightning_saliency.scales.reader import NoPassError, PassMaps, rows_of

# So many steps without a pass through the network, and none with one, are no exception.
_PATIENCE = 20
_LOCATING = "measure where the maps of all images point"
_ADDING = "add up where the maps of all images point"


@dataclass
class Watching:
    """A run's epochs and batches under the monitor, in the order of its hooks. Another run has another one.

    Attributes:
        stage: ``"train"``, ``"validate"`` or ``"test"``.
        model: Dotted path of the submodule to watch, as in ``SaliencyMonitor``.
        name: Prefix of the values' names.
        weights: Weights of the scales in the combined map.
        film: Where the pictures go.
        shown: The images that are shown, and their maps.
        shortcuts: Where the maps of all images point.
        values: What is logged.
        schedule: Which epochs have a frame.
        reading: The maps of the batches.
        predictions: The network's own predictions for them.
        attempts: What failed.
        trains: Whether this is a run that trains, and goes on from its checkpoint.
        aside: Whether this is a validation beside a training run whose film it must not change: it is measured alone.
        scalars: The values of the epoch that goes on.
        off: Whether nothing is watched for the rest of the run.
        trained: Whether an epoch of training has begun.
    """

    stage: str
    model: str | None
    name: str
    weights: str | Sequence[float]
    film: MonitorFilm
    shown: ShownImages
    shortcuts: ShortcutWatch
    values: MonitorValues
    schedule: Schedule
    reading: BatchReading
    predictions: NetworkPredictions
    attempts: Attempts = field(default_factory=Attempts)
    trains: bool = True
    aside: bool = False
    scalars: EpochScalars = field(default_factory=EpochScalars)
    off: bool = False
    trained: bool = False
    _came: bool = False  # whether a batch of the stage was met
    _active: bool = False
    _begun: bool = False
    _compiled: bool | None = None
    _nothing_to_lose: bool = True
    # Of the epoch's steps: one that made no pass through the network, how many such, and whether any made one.
    _no_pass: NoPassError | None = None
    _skipped: int = 0
    _passed: bool = False
    # With several processes: why this one cannot watch the run, while the others are not asked yet; how often they
    # were; whether the epoch had images here; and the process whose images are shown, where that is known.
    _refusal: MonitorConfigurationError | None = None
    _asked: int = 0
    _met: bool = False
    _shower: int | None = None

    def begin_epoch(self, trainer: pl.Trainer, stage: str) -> None:
        """Decide whether this epoch is logged."""
        if stage != self.stage:
            return
        self._active = not self.off and self.schedule.is_due(trainer)
        self.shown.sample.begin()
        self.scalars = EpochScalars()
        self.shortcuts.begin_epoch()
        self._no_pass, self._passed, self._skipped, self._met = None, False, 0, False
        if self._active:
            self.attempts.begin_frame()

    def before_batch(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, batch: Any, stage: str, dataloader_idx: int
    ) -> None:
        """Watch the passes to come, where this batch is wanted."""
        self._came |= stage == self.stage
        if stage == self.stage and self._active and fetches_itself(trainer, stage):
            step = {"train": "training_step", "validate": "validation_step", "test": "test_step"}[stage]
            self.switch_off(
                f"Its {step} takes dataloader_iter, so no batch is known before it runs. Allowed are steps "
                "that take the batch; give it one, or watch another stage with stage=."
            )
        if self.off:
            return
        self._watch(trainer, pl_module, batch, stage, dataloader_idx)
        # In training each process has a second batch where the others have one, and what came of the first is known.
        if stage == self.stage == "train" and self._active and self._asked < 2:
            self._ask_the_others(trainer)

    def _watch(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, batch: Any, stage: str, dataloader_idx: int
    ) -> None:
        wanted = stage == self.stage and self._active and self.attempts.wants(READING) and self._refusal is None
        # What is compiled is compiled with its hooks: they come before the run's first pass, whatever its stage.
        if self._compiled is None:
            self._compiled = is_compiled(pl_module)
        early = self._compiled and self.reading.network is None and trainer.state.fn == "fit"
        if wanted or early:
            self._nothing_to_lose = trainer.state.fn != "fit" or not has_trained(trainer)
            with self._guarded(trainer, quiet=not wanted):
                network = watched_module(pl_module, self.model, MonitorConfigurationError)
                content = self.reading.read(trainer, batch, stage)
                if content is None:
                    return
                self._met |= wanted
                if self.reading.network is not network:
                    # Some strategies tell by what they have made of the modules alone.
                    sharded = mind_shards(trainer, pl_module, self.film, self.shown)
                    # A compiled network is run once, as the step runs it.
                    with trainer.precision_plugin.forward_context():
                        self.reading.open(network, content, compiled=self._compiled, sharded=sharded)
                if wanted:
                    shows = self._shower in (None, trainer.global_rank) and not self.aside
                    sample = self.shown.wanted_of(content) if shows else None
                    positions = self.shortcuts.positions(trainer, stage, dataloader_idx)
                    self.reading.start(content, dataloader_idx, sample, positions)
                    # A part of the module that was named may return features; a compiled one has its hooks.
                    told = self.model is None or self.predictions.output is not None
                    if told and not self._compiled and self.reading.shows:
                        labels = content.classes() if self.shown.sample.chooses else None
                        self.predictions.watch(network, content.images, labels)

    def after_batch(self, trainer: pl.Trainer, outputs: Any) -> None:
        """Take the maps, and make the class-specific views of the same images, see `MonitorFilm.explain`."""
        records: dict[int, SampleRecord] = {}
        with self._guarded(trainer):
            begun = bool(self.reading.names)
            predicted, losses = None, None
            with self.attempts.trying("read the network's predictions", "Correct output=."):
                predicted, losses = self.predictions.take()
            if predicted is not None and self.predictions.output is not None:
                outputs = None  # The user says where the logits are.
            shows = self.reading.shows
            try:
                read = self.reading.take()
            except NoPassError as error:  # as of a step that leaves its batch out
                self._no_pass, self._skipped = error, self._skipped + 1
                if shows:
                    self.shown.sample.release()
                if self._skipped == _PATIENCE and not self._passed:
                    raise
                return
            if read is None:
                return
            self._passed = True
            self.attempts.went_well(READING)
            pending, found = read
            if not begun:
                scale_weights(self.weights, len(self.reading.names))
                if self._nothing_to_lose and self.reading.network is not None:
                    self.film.check(self.reading.network)
            if found.seen is not None:
                self.shown.say_changed()
            elif pending.objects is not None:
                self._score(found, rows_of(pending.objects, found.images))
            if found.own is not None:
                self.shown.mind_unread(found.own)
            if self.attempts.wants(_LOCATING):
                with self.attempts.trying(_LOCATING, "Leave it out with position_images=0."):
                    self.shortcuts.take(pending, found)
            if pending.pairs and self.shown.sample.chooses:
                pending = worst_of(pending, self.shown.sample, outputs, losses)
            records = sample_records(found, pending, outputs, predicted)
            self._begun = True
        self.shown.explain(trainer, records, self.attempts, self.reading.entrance)

    def end_epoch(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        """Log the epoch: pictures where it has a frame, and the values, new or old, in any case."""
        # An endless epoch of training is cut where validations come.
        endless = stage == "validate" and self.stage == "train" and is_endless(trainer)
        measured = {} if self.aside else self.values.latest
        if stage == self.stage and self.reading.waits:
            self.after_batch(trainer, None)  # The epoch was left before the step of its last batch.
        if self._active and (stage == self.stage or endless):
            self._active = False
            self._ask_the_others(trainer)
            with self.attempts.trying("look whether its batches were written to"):
                if self.shown.were_written():
                    self.reading.mind_written()
            with self.attempts.trying(_ADDING):
                self.shortcuts.add_waiting()
            if self._no_pass is not None and not self._passed and self.attempts.wants(READING):
                self.attempts.fail(READING, self._no_pass)
                self.reading.failed()
            with self.attempts.trying(_ADDING):  # also where that failed: the other processes wait
                self.shortcuts.end_epoch(trainer, self.scalars)
            if not self.aside:
                self._end_frame(trainer)
            with self.attempts.trying("add up its values"):
                # Every process takes part, also one whose monitor failed: the others wait for it.
                means = self.scalars.reduced(trainer)
                measured.update(means)
                if not self.aside and not trainer.sanity_checking and self.attempts.wants(READING):
                    self.values.mind_unmeasured(trainer)
                if trainer.sanity_checking and trainer.is_global_zero:
                    self.values.log_start(trainer, means, self.attempts)
        if not trainer.sanity_checking:
            with self.attempts.trying("log its values"):
                self.values.log(trainer, pl_module, stage, measured, own=stage == self.stage or endless)
        self.schedule.ended(trainer, stage)
        if endless:
            self.begin_epoch(trainer, self.stage)

    def _end_frame(self, trainer: pl.Trainer) -> None:
        """Draw and keep the frame, and judge it."""
        self._gather(trainer)
        if trainer.is_global_zero:
            self.shown.show(trainer, self.reading, self.attempts, self.scalars, self.shortcuts.sums)
        with self.attempts.trying("look for a shortcut", "Leave it out with position_images=0."):
            self.shortcuts.judge(trainer, self.scalars)
        if trainer.is_global_zero and self.attempts.wants(KEEPING):
            with self.attempts.trying(KEEPING):
                self.film.page.warn(trainer, self.shortcuts.history)
        self.schedule.took(trainer)

    def _score(self, found: PassMaps, objects: Tensor) -> None:
        combined = combined_statistics(found.maps, self.weights)
        cells = on_grid(objects, combined)
        for score in OBJECT_SCORES:
            if self.attempts.wants(part := f"measure {self.name}/{score}"):
                with self.attempts.trying(part):
                    self.scalars.add_objects(score, combined, cells, found.own)

    @contextmanager
    def _guarded(self, trainer: pl.Trainer, quiet: bool = False) -> Iterator[None]:
        """Inside, an error ends the reading of this frame; before training, options that cannot work end the run.

        With several processes they do where they work in none, see `_ask_the_others`.
        """
        try:
            yield
        except Exception as error:
            self.predictions.close()
            self.reading.failed()
            if quiet:
                return  # A training batch of another form: the stage's own first batch decides.
            if self._nothing_to_lose and not self._begun and isinstance(error, (TypeError, ValueError)):
                refusal = error
                if not isinstance(refusal, MonitorConfigurationError):
                    refusal = MonitorConfigurationError(f"SaliencyMonitor cannot watch this run. {error}")
                    refusal.__cause__ = error
                if trainer.world_size == 1:
                    raise refusal from refusal.__cause__
                self._refusal = refusal
                return
            self.attempts.fail(READING, error)

    def _ask_the_others(self, trainer: pl.Trainer) -> None:
        """Whether each process could read something. Called on every process alike, and does nothing for one alone.

        A loader gives each process its own share of the data, which may have no images while those of the others do.

        Raises:
            MonitorConfigurationError: If none of them can watch the run.
        """
        if trainer.world_size == 1:
            return
        self._asked += 1
        refusal, self._refusal = self._refusal, None
        said = agree_to_refuse(trainer, refusal)
        if refusal is not None:
            self.attempts.fail(READING, MonitorConfigurationError(said))
        elif said is not None:
            warn(f"SaliencyMonitor could not {READING} everywhere. {said}")

    def _gather(self, trainer: pl.Trainer) -> None:
        """Bring the images to show to the process that draws them. Called on every process alike.

        They are those of the first process, or, where its loader has no images, of the first that met some.
        """
        met = [rank for rank, images in enumerate(which(trainer, self._met)) if images]
        if self._shower not in met:
            self._shower = met[0] if met else None
        missing = [rank for rank in range(trainer.world_size) if rank not in met]
        if met and missing:
            self.shown.say_who_shows(named(missing, trainer.world_size), met[0])
        if self._shower:
            mine = (self.shown.handed_over(), self.reading.names, self.reading.loader)
            given, self.reading.names, self.reading.loader = of_process(trainer, self._shower, mine)
            self.shown.take_over(given)
            if trainer.global_rank == self._shower:
                self.shown.end(trainer, self.attempts)

    def switch_off(self, reason: str) -> None:
        """Watch nothing for the rest of the run, and say why."""
        self.off, self._active = True, False
        self.close()
        warn(f"SaliencyMonitor is switched off for the rest of this run, which goes on without it. {reason}")

    def keep_values(self, trainer: pl.Trainer, validated: bool) -> None:
        """Keep what was logged for the page; ``validated``: at the end of a validation."""
        if not self.off and not self.aside:
            self.values.keep(trainer, self.attempts, validated=validated)

    def say_if_nothing_came(self) -> None:
        """At the end of a run that was not interrupted: say so where the stage had no batch."""
        if not self.off and not self._came and (self.trained or not self.trains):
            warn(
                f"SaliencyMonitor met no batch of stage={self.stage!r} in this run, and shows nothing: its loaders are "
                "empty, or it was not run. Give it data, or watch another stage with stage=."
            )

    def close(self) -> None:
        """Remove the hooks."""
        self.predictions.close()
        self.reading.close()
        self.shown.sample.begin()
        # Of an epoch that an exception ended, maps may lie on a GPU.
        self.shortcuts.begin_epoch()
