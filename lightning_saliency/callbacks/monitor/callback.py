"""Watching, epoch by epoch, where a network finds its information."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal

import pytorch_lightning as pl
from pytorch_lightning.utilities import rank_zero_info, rank_zero_warn
from torch import Tensor

from lightning_saliency.batches import find_images, find_labels, find_logits, find_objects
from lightning_saliency.callbacks._trainer_lookups import resolve_scales, watched_module
from lightning_saliency.callbacks.monitor.film import MonitorFilm
from lightning_saliency.callbacks.monitor.options import (
    STAGES,
    MonitorConfigurationError,
    never_fatal,
    parse_views,
    positive,
)
from lightning_saliency.callbacks.monitor.sample import FixedSample, SampleRecord
from lightning_saliency.callbacks.monitor.scalars import EpochScalars
from lightning_saliency.callbacks.monitor.stage_hooks import StageHooks
from lightning_saliency.explainers import ExplainerOption
from lightning_saliency.functional.fusion import scale_weights
from lightning_saliency.functional.statistics import get_statistic
from lightning_saliency.scales.maps import combined_statistics
from lightning_saliency.scales.taps import ScaleTaps


class SaliencyMonitor(StageHooks):
    """Logs, each epoch, where the network finds its information in the same few images.

    The maps are SMOE Scale maps (SMOE paper, Eq. 1-7), read by hooks in the module's own forward pass: no extra pass,
    no extra data. Training is bit for bit what it would be without the monitor, and an error in it never ends a run.

    Logged as pictures, to every logger of the trainer and as PNG files under ``<run>/<name>/``, one key a view:
    ``<name>/lovi``, ``<name>/combined``, ``<name>/scales``. Logged as scalars, each time:

    - ``<name>/drift``: 1 − Spearman correlation of each sample's combined map with the one logged before, averaged, in
      [0, 2]; 1 while there is no earlier one. ``EarlyStopping`` can watch it.
    - ``<name>/entropy``: of the sample's combined maps, in [0, 1].
    - ``<name>/energy_in_box`` and ``<name>/pointing_game``, where batches carry boxes or masks, over every batch: the
      share of the combined map's energy on the objects, and of images whose maximum lies on an object.

    Acts in ``setup`` (checks), at the first batch of a run (finds the scales and registers its hooks, before the first
    forward pass and so before compilation), around each batch and at the end of the epochs of its stage, and closes its
    hooks in ``teardown`` and ``on_exception``. Saves the sample's fingerprints and last maps in the checkpoint.

    Args:
        every_n_epochs: Log every n-th epoch.
        num_images: Number of images in the film: the first ones of the stage's first loader, found again in every
            epoch wherever a shuffling loader puts them.
        statistic: A name in ``STATISTICS``.
        weights: Weights of the scales in the combined map (Eq. 3): ``"equal"``, ``"prior"``, ``"ramp"`` or one number a
            scale.
        model: Dotted path of the submodule to watch; ``None`` takes the module itself if it defines ``forward``, else
            its only child with parameters.
        layers: ``"auto"``, or dotted paths within the watched submodule whose outputs are the scales (``"name:input"``
            reads the input).
        views: Names of pictures: ``"lovi"``, ``"combined"``, ``"scales"``, and explainers, such as ``"fast_cam"``. Or a
            mapping from a picture's name to its explainer in any form, ``None`` where the name says it:
            ``{"lovi": None, "16 groups": {"class_path": "group_cam", "init_args": {"groups": 16}}}``. Explainers show
            the images' own classes; the network runs again for them, on the sample alone and without a trace.
        stage: ``"validate"``, ``"train"`` or ``"test"``. With ``"train"`` each epoch's first images are shown.
        log_at_start: Also log the untrained network, from the trainer's sanity check (``stage="validate"`` only).
        image_key: Where a batch carries its images, see ``find_images``; ``None`` searches.
        denormalize: Conversion to colours: ``"imagenet"``, ``(mean, std)``, ``"none"`` (they are in [0, 1]), or
            ``"auto"``: the first ``Normalize`` in the data module's or the data sets' transforms, else as
            ``displayable`` guesses.
        name: Prefix of every key, and the film's folder.
        picture_width: Largest width of a picture in pixels.
        film_megabytes: Largest size of the film on disk, in 10⁶ bytes; beyond it every second frame is dropped.

    Raises:
        MonitorConfigurationError: Before the first training step, for options that make no sense, missing validation
            data, a batch without images, an unknown layer, or a network without scales.

    Example:
        >>> monitor = SaliencyMonitor(every_n_epochs=2, weights="ramp", views=("lovi", "scales"))
        >>> monitor.state_key
        "SaliencyMonitor{'name': 'saliency', 'stage': 'validate', 'model': None}"
    """

    def __init__(
        self,
        every_n_epochs: int = 1,
        num_images: int = 8,
        statistic: str = "smoe_scale",
        weights: str | Sequence[float] = "equal",
        model: str | None = None,
        layers: str | Sequence[str] = "auto",
        views: Sequence[str] | Mapping[str, ExplainerOption | None] = ("lovi", "combined"),
        stage: Literal["validate", "train", "test"] = "validate",
        log_at_start: bool = True,
        image_key: str | int | None = None,
        denormalize: str | Sequence[Sequence[float]] = "auto",
        name: str = "saliency",
        picture_width: int = 512,
        film_megabytes: float = 64.0,
    ) -> None:
        self.every_n_epochs = positive("every_n_epochs", every_n_epochs)
        self.num_images = positive("num_images", num_images)
        self.statistic = get_statistic(statistic)
        self.weights = weights
        self.model = model
        self.layers = layers
        self.views = parse_views(views)
        if stage not in STAGES:
            raise MonitorConfigurationError(f"Expected stage to be one of {', '.join(STAGES)}, but got {stage!r}.")
        self.stage = stage
        self.log_at_start = log_at_start
        self.image_key = image_key
        self.name = name
        self._film = MonitorFilm(
            name, self.views, weights, model, stage, denormalize, picture_width, megabytes=film_megabytes
        )
        self._taps: ScaleTaps | None = None
        self._sample = FixedSample(self.num_images, follow=stage != "train")
        self._scalars = EpochScalars()
        self._off = False
        self._active = False
        self._batch: tuple[Tensor, list[tuple[int, int]], Tensor | None] | None = None
        self._warned: set[str] = set()

    @property
    def state_key(self) -> str:
        """Several monitors in one trainer keep their films apart."""
        return self._generate_state_key(name=self.name, stage=self.stage, model=self.model)

    def setup(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        """Check what can be checked without data; nothing is touched yet."""
        self._close()
        self._off = False
        self._active = False
        watched_module(pl_module, self.model, MonitorConfigurationError)
        if stage == "fit" and self.stage == "validate" and not trainer.enable_validation:
            if trainer.limit_val_batches == 0:
                self._switch_off("limit_val_batches is 0, so there is no validation to watch")
            else:
                raise MonitorConfigurationError(
                    "SaliencyMonitor watches validation, but this run has none: give validation data and a "
                    "validation_step, or watch training with SaliencyMonitor(stage='train')."
                )
        if trainer.is_global_zero:
            self._film.open(trainer)

    def teardown(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        """Remove the hooks."""
        self._close()

    def on_exception(self, trainer: pl.Trainer, pl_module: pl.LightningModule, exception: BaseException) -> None:
        """Remove the hooks; ``teardown`` is not called after an exception."""
        self._close()

    def state_dict(self) -> dict[str, Any]:
        """The sample's fingerprints and last maps."""
        return self._sample.state_dict()

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Go on with the film of the checkpoint."""
        self._sample.load_state_dict(state_dict)

    def begin_epoch(self, trainer: pl.Trainer, stage: str) -> None:
        """Decide whether this epoch is logged."""
        if stage != self.stage:
            return
        if trainer.sanity_checking:
            self._active = self.log_at_start and trainer.global_step == 0
        else:
            in_fit = trainer.state.fn == "fit"
            self._active = not in_fit or (trainer.current_epoch + 1) % self.every_n_epochs == 0
        self._sample.begin()
        self._scalars = EpochScalars()

    @never_fatal
    def before_batch(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, batch: Any, stage: str, dataloader_idx: int
    ) -> None:
        """Register the taps before the run's first forward pass; switch them on where this batch is wanted."""
        self._batch = None
        if self._taps is None and (stage == self.stage or trainer.state.fn == "fit"):
            self._register(trainer, pl_module, batch, stage)
        if self._taps is None or stage != self.stage or not self._active:
            return
        images = find_images(batch, self.image_key)
        pairs = self._sample.place(images) if trainer.is_global_zero and dataloader_idx == 0 else []
        objects = find_objects(batch, (images.shape[-2], images.shape[-1]))
        if objects is None and not pairs:
            return
        # The rows shown are copied now: a network may change its input in place.
        shown = images[[row for row, _ in pairs]].detach().cpu() if pairs else images[:0].cpu()
        self._batch = (shown, pairs, objects)
        everything = objects is not None
        self._taps.max_images = None if everything else max(row for row, _ in pairs) + 1
        self._taps.start()

    @never_fatal
    def after_batch(self, trainer: pl.Trainer, outputs: Any, batch: Any, stage: str) -> None:
        """Take the maps."""
        if self._batch is None or self._taps is None:
            return
        (shown, pairs, objects), self._batch = self._batch, None
        statistics = self._taps.take()
        if objects is not None and objects.shape[0] == statistics[0].shape[0]:
            self._scalars.add_objects(combined_statistics(statistics, self.weights), objects)
        count = find_images(batch, self.image_key).shape[0]
        labels, logits = find_labels(batch, count), find_logits(outputs, count)
        for position, (row, slot) in enumerate(pairs):
            self._sample.records[slot] = SampleRecord(
                image=shown[position],
                statistics=[map_[row].float().cpu() for map_ in statistics],
                label=None if labels is None else int(labels[row]),
                prediction=None if logits is None else int(logits[row].argmax() if logits.ndim == 2 else logits[row]),
            )

    def end_epoch(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        """Log the epoch."""
        if stage != self.stage or not self._active:
            return
        self._active = False
        if trainer.is_global_zero:
            self._show(trainer)
        # Every process takes part, also one whose monitor is off: the others wait for it.
        means = self._scalars.reduced(trainer)
        if trainer.sanity_checking:
            if trainer.is_global_zero:
                self._log_start(trainer, means)
        else:
            for name, value in means.items():
                pl_module.log(f"{self.name}/{name}", value, on_step=False, on_epoch=True, sync_dist=True, batch_size=1)

    @never_fatal
    def _show(self, trainer: pl.Trainer) -> None:
        if self._sample.end():
            self._warn_once(
                "images do not come back",
                "SaliencyMonitor did not find the film's images again: the loader seems to change them at random. "
                "Each epoch's first images are shown instead, and no drift is measured.",
            )
        records = self._sample.present()
        if not records:
            return
        combined, guessed = self._film.show(trainer, records, self._names)
        if guessed:
            self._warn_once(
                "display range",
                "SaliencyMonitor does not know how the images were normalised and stretches each to its own range for "
                "display: give denormalize='imagenet' or denormalize=(mean, std).",
            )
        self._scalars.add_sample(combined, self._sample.drift(combined))

    @never_fatal
    def _log_start(self, trainer: pl.Trainer, means: dict[str, float]) -> None:
        # What a module logs in the sanity check is dropped, but the untrained network's values are the film's first.
        for logger in trainer.loggers:
            try:
                logger.log_metrics({f"{self.name}/{name}": value for name, value in means.items()}, step=0)
            except Exception as error:  # warned of
                self._warn_once(
                    f"logger {type(logger).__name__}",
                    f"{type(logger).__name__} failed to log: {type(error).__name__}: {error}",
                )

    def _register(self, trainer: pl.Trainer, pl_module: pl.LightningModule, batch: Any, stage: str) -> None:
        """Find the scales and tap them, before the run's first forward pass."""
        nothing_to_lose = trainer.state.fn != "fit" or trainer.global_step == 0
        try:
            images = find_images(batch, self.image_key)
            network = watched_module(pl_module, self.model, MonitorConfigurationError)
            scales = resolve_scales(network, self.layers, images, self.statistic, trainer)
            self._names = tuple(scale.module or "output" for scale in scales)
            scale_weights(self.weights, len(scales))
            self._film.check(network)
            self._taps = ScaleTaps(network, scales, self.statistic)
        except Exception as error:
            if stage != self.stage and trainer.enable_validation:
                return  # a training batch of another form; the stage's own first batch decides
            if nothing_to_lose:
                raise MonitorConfigurationError(f"SaliencyMonitor cannot watch this run. {error}") from error
            raise
        found = ", ".join(f"{scale.module or 'output'} {scale.grid[0]}×{scale.grid[1]}" for scale in scales)
        rank_zero_info(f"SaliencyMonitor watches {len(scales)} scales: {found}")

    def _switch_off(self, reason: str) -> None:
        self._off = True
        self._close()
        rank_zero_warn(f"SaliencyMonitor is switched off for the rest of this run, which goes on without it. {reason}")

    def _warn_once(self, what: str, message: str) -> None:
        if what not in self._warned:
            self._warned.add(what)
            rank_zero_warn(message)

    def _close(self) -> None:
        if self._taps is not None:
            self._taps.close()
        self._taps = None
        self._batch = None
        self._sample.begin()
