"""Watching, epoch by epoch, where a network finds its information."""

from __future__ import annotations

import weakref
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal

import pytorch_lightning as pl

from lightning_saliency.batches import BatchReader
from lightning_saliency.callbacks.monitor.film import MonitorFilm
from lightning_saliency.callbacks.monitor.means import MEAN_VIEWS
from lightning_saliency.callbacks.monitor.options import (
    STAGES,
    MonitorConfigurationError,
    check_indices,
    parse_views,
    positive,
)
from lightning_saliency.callbacks.monitor.reading.batch_maps import BatchReading
from lightning_saliency.callbacks.monitor.reading.logits import NetworkPredictions
from lightning_saliency.callbacks.monitor.reading.own_images import Images, OwnImages
from lightning_saliency.callbacks.monitor.reading.sample import WORST, FixedSample
from lightning_saliency.callbacks.monitor.run_checks import check_run, mind_shards
from lightning_saliency.callbacks.monitor.schedule import Schedule
from lightning_saliency.callbacks.monitor.shortcuts.alert import ShortcutAlert
from lightning_saliency.callbacks.monitor.shortcuts.watch import ShortcutWatch
from lightning_saliency.callbacks.monitor.shown import ShownImages
from lightning_saliency.callbacks.monitor.stage_hooks import StageHooks
from lightning_saliency.callbacks.monitor.values import MonitorValues
from lightning_saliency.callbacks.monitor.watching import Watching
from lightning_saliency.explainers import ExplainerOption
from lightning_saliency.explainers.base import Output
from lightning_saliency.functional.statistics import get_statistic
from lightning_saliency.scales.reader import Layers

_LOCATING = "measure where the maps of all images point"
_ALERT = ShortcutAlert()


def _no_trainer() -> None:
    """In a copy of a monitor that was used, in the place of the reference to its trainer."""


class SaliencyMonitor(StageHooks):
    """Logs, each epoch, where the network finds its information in the same few images.

    The maps are SMOE Scale maps (SMOE paper, Eq. 1-7), read by hooks in the module's own forward pass over the batch's
    images: no extra pass, no extra data. Training is bit for bit what it would be without the monitor, and an error in
    it never ends a run.

    Logged as pictures, to every logger of the trainer and as PNG files under ``<run>/<name>/``, one key a view:
    ``<name>/overview``, ``<name>/lovi``, ``<name>/combined``, … At the end of the run, and on demand by
    `lightning_saliency.film`, one page shows all of it: ``<run>/<name>/film.html``. Logged as scalars, each time:

    - ``<name>/drift``: 1 − Spearman correlation of each sample's combined map with the one logged before, averaged, in
      [0, 2]; 1 while there is no earlier one, and none for ``stage="train"``. ``EarlyStopping`` can watch it.
    - ``<name>/energy_in_box`` and ``<name>/pointing_game``, where batches carry boxes or masks, over every batch: the
      share of the combined map's energy on the objects, and of images whose maximum lies on an object.
    - ``<name>/position_bias`` and ``<name>/content_bias``, where batches carry classes: how far the maps of many images
      point to one place that gives the class away, and to something that gives it away wherever it is, each in [0, 1].
      ``<name>/shortcut_alert``: 1 while a warning of a shortcut stands, else 0. See `PositionBias`, `ShortcutAlert`.

    Acts in ``setup`` (checks), around the batches of its stage that are wanted (hooks are on the network during their
    steps alone), and at the end of the stage's epochs. The first such step also finds the scales. Only a compiled
    network is prepared before the run's first pass, and keeps its hooks until ``teardown`` or ``on_exception``. Saves
    the sample's fingerprints, last maps and last values in the checkpoint. In another trainer it begins anew. A
    validation beside a fit of the same trainer is measured and logged, and leaves film, drift and warnings as they are.

    Volumes and clips ``[B, C, T, H, W]`` are watched alike. The film shows the frame T // 2 of each and the maps there;
    drift and the scores of objects, which are masks ``[B, T, H, W]``, take the whole volume, ``position_bias`` and
    ``content_bias`` the means over T.

    What fails, fails by itself: a view, a score, a logger. One warning says so; it is tried again at each frame and
    given up after three frames in a row. Once there was a value, each validation logs one, the last that was measured.

    Args:
        every_n_epochs: Log every n-th epoch; where validation is timed in steps (``check_val_every_n_epoch=None``),
            every n-th validation. An endless epoch of training is cut where validations come.
        num_images: Number of images in the film: the first ones of the stage's first loader with images, found again in
            every epoch wherever a shuffling loader puts them.
        indices: Which images instead, as numbers from 0 in the order in which that loader yields them in the first
            epoch (of the first process); or ``"one_per_class"``, the first image of each class, ``num_images`` at most.
            Those beyond the trainer's sanity check are in the film from the first epoch on. Or ``"worst"``: the
            ``num_images`` images whose class has the highest cross-entropy in the first epoch with a frame, the worst
            first. They are followed from then on, so the film has no frame of the run's start. It is measured by
            the logits of the step or of the network; that one epoch reads the maps of all images.
        statistic: A name in ``STATISTICS``.
        weights: Weights of the scales in the combined map (Eq. 3): ``"equal"``, ``"prior"``, ``"ramp"``,
            ``"deep"`` or one number a scale, see `scale_weights`.
        model: Dotted path of the submodule to watch; ``None`` takes the module itself if it defines ``forward``, else
            its only child with parameters.
        layers: ``"auto"``, or the modules whose outputs are the scales: themselves, or by their dotted paths within the
            watched submodule (``"name:input"`` reads the input).
        views: Names of pictures: ``"overview"`` (photo, overlay, LOVI), ``"overlay"``, ``"lovi"``, ``"combined"``,
            ``"scales"``, ``"mean"`` and ``"class_means"`` of the images that ``position_images`` counts, and
            explainers, such as ``"fast_cam"``; a list, or a text with commas. The film's page shows all but explainers
            and means anyway. Or a mapping from a picture's name to its explainer in any form, ``None`` where the name
            says it:
            ``{"lovi": None, "16 groups": {"class_path": "group_cam", "init_args": {"groups": 16}}}``. Explainers show
            the images' own classes, and the predicted class where a label is none (-1, 255, NaN, missing); the network
            runs again for them, on the sample alone and without a trace.
        stage: ``"validate"``, ``"train"`` or ``"test"``. With ``"train"`` each epoch's first images are shown.
        log_at_start: Also log the network as it is at the start of the run, from the trainer's sanity check
            (``stage="validate"`` only).
        image_key: Where a batch carries its images, see ``BatchReader``; ``None`` searches. Loaders without images are
            passed over.
        label_key: Where a batch carries the images' classes; ``None`` searches.
        box_format: Format of boxes that do not tell theirs: ``"xyxy"``, ``"xywh"``, ``"cxcywh"``, …, see
            ``BatchReader``.
        ignore_index: The number of pixels without a label in masks; ``None``: there are none.
        denormalize: Conversion to colours: ``"imagenet"``, ``(mean, std)``, ``"none"`` (they are in [0, 1]), or
            ``"auto"``: the first ``Normalize`` in the data module's or the data sets' transforms, else as
            another film of the trainer was told, else as ``displayable`` guesses.
        name: Prefix of every key, and the film's folder.
        tile: The longer side of an image in pictures, in pixels. Pictures have up to four tiles in a line.
        alpha: Opacity of overlays where the map is highest, in [0, 1].
        film_megabytes: Largest size of the film on disk, in 10⁶ bytes; beyond it every second frame is dropped.
        class_names: Names of the classes; ``None``: ``classes`` or ``class_names`` of the data module, the module or
            the data set, or the data set's ``class_to_idx``, as far as there are any.
        position_images: About how many images an epoch tell ``position_bias``, but at least four a class, in batches
            that lie evenly over the stage's first loader with images; the scales have equal weights. 0: none.
        alert: When a shortcut is warned of; ``None``: never.
        images: Images of your own to show instead: ``[N, C, H, W]`` (volumes: ``[N, C, T, H, W]``) as the network takes
            them, or files and folders, which are brought to the size of the batches' images and normalised like them,
            see ``denormalize``. The network runs on them once more in each frame, without a trace; drift and pictures
            are theirs. Their labels are not known.
        output: Of a network that returns more than one thing, what takes the logits out of it, for explainers' views
            and predictions: a function, a key, the name of an attribute, a position, or a dotted path of these, see
            ``Explainer``.

    Raises:
        MonitorConfigurationError: Before the first training step, for options that make no sense, missing validation
            data, a batch without images, an unknown layer, or a network without scales. What is found out later is a
            warning.

    Example:
        >>> monitor = SaliencyMonitor(every_n_epochs=2, weights="ramp", views=("lovi", "scales"))
        >>> monitor.state_key
        "SaliencyMonitor{'name': 'saliency', 'stage': 'validate', 'model': None}"
    """

    def __init__(
        self,
        every_n_epochs: int = 1,
        num_images: int = 8,
        indices: Sequence[int] | Literal["one_per_class", "worst"] | None = None,
        statistic: str = "smoe_scale",
        weights: str | Sequence[float] = "equal",
        model: str | None = None,
        layers: Layers = "auto",
        views: str | Sequence[str] | Mapping[str, ExplainerOption | None] = ("overview",),
        stage: Literal["validate", "train", "test"] = "validate",
        log_at_start: bool = True,
        image_key: str | int | None = None,
        label_key: str | int | None = None,
        box_format: str = "xyxy",
        ignore_index: int | None = 255,
        denormalize: str | Sequence[Sequence[float]] = "auto",
        name: str = "saliency",
        tile: int = 160,
        alpha: float = 0.8,
        film_megabytes: float = 64.0,
        class_names: Sequence[str] | None = None,
        position_images: int = 500,
        alert: ShortcutAlert | None = _ALERT,
        output: Output = None,
        images: Images | None = None,
    ) -> None:
        self.every_n_epochs = positive("every_n_epochs", every_n_epochs)
        self.indices = None if indices is None else check_indices(indices)
        if indices is not None and images is not None:
            raise MonitorConfigurationError("Got indices= and images=. Allowed is one of them; leave the other out.")
        own = None if images is None else OwnImages(images)
        chosen = own if own is not None else self.indices if isinstance(self.indices, tuple) else ()
        self.num_images = len(chosen) or positive("num_images", num_images)
        self.statistic = get_statistic(statistic)
        self.weights = weights
        self.model = model
        self.layers = layers
        self.views = parse_views(views, output)
        if stage not in STAGES:
            raise MonitorConfigurationError(
                f"Got stage={stage!r}. Allowed are {', '.join(map(repr, STAGES))}; use one."
            )
        if stage == "train" and self.indices == WORST:
            raise MonitorConfigurationError(
                f"Got indices={WORST!r} with stage='train', whose film shows each epoch's first images. Allowed are "
                "stage='validate' and 'test'; use one, or leave indices= out."
            )
        self.stage = stage
        self.log_at_start = log_at_start
        try:
            self._batches = BatchReader(
                image_key, label_key, box_format=box_format, ignore_index=ignore_index, volumes=True
            )
        except ValueError as error:
            raise MonitorConfigurationError(str(error)) from None
        self.name = name
        self._film = MonitorFilm(
            name, self.views, weights, model, stage, denormalize, tile, film_megabytes, class_names, alpha
        )
        self._shown = ShownImages(self._film, self.num_images, self.indices, own, self.statistic, layers, output)
        self._shortcuts = ShortcutWatch(position_images, alert, name)
        if not position_images and MEAN_VIEWS.keys() & self.views:
            raise MonitorConfigurationError(
                f"Got position_images=0 with views={list(self.views)}. Allowed are numbers from 1 where one of "
                f"{', '.join(MEAN_VIEWS)} is shown; raise it, or leave the view out."
            )
        self._values = MonitorValues(name, self._film.page)
        self._schedule = Schedule(self.every_n_epochs, stage, log_at_start)
        # The trainer of the last run; None before the first.
        self._run: Callable[[], pl.Trainer | None] | None = None
        self._fitted = False  # whether its film is that of a training run
        self._output = output
        self._watching = self._new_watching()

    @property
    def state_key(self) -> str:
        """Several monitors in one trainer keep their films apart."""
        return self._generate_state_key(name=self.name, stage=self.stage, model=self.model)

    def __getstate__(self) -> dict[str, Any]:
        """For pickling and copies: what belongs to the present run stays behind."""
        run = None if self._run is None else _no_trainer
        return {**vars(self), "_run": run, "_watching": self._new_watching()}

    def setup(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        """Check what can be checked without data; begin anew in another trainer. Other runs are let be."""
        if stage not in STAGES[self.stage]:
            self._begin_run(trains=stage == "fit", off=True)
            return
        if self._run is not None and self._run() is not trainer:
            self._shown.begin_film()
            self._shortcuts.begin_run()
            self._values.latest = {}
            self._schedule = Schedule(self.every_n_epochs, self.stage, self.log_at_start)
            self._fitted = False
        self._run = weakref.ref(trainer)
        self._begin_run(trains=stage == "fit", aside=self._fitted and stage == "validate")
        self._values.begin_run(trainer, self.stage, self._shortcuts, self._shown.follows)
        reason = check_run(trainer, pl_module, self.stage, self.model, self.layers)
        if reason is not None:
            self._watching.switch_off(reason)
        if not self._watching.aside:
            try:
                self._film.open(trainer)
            except ValueError as error:
                raise MonitorConfigurationError(str(error)) from None
        mind_shards(trainer, pl_module, self._film, self._shown)

    def teardown(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        """Remove the hooks, and make the page."""
        self._watching.say_if_nothing_came()
        self._finish(trainer)

    def on_exception(self, trainer: pl.Trainer, pl_module: pl.LightningModule, exception: BaseException) -> None:
        """Remove the hooks, and make the page; ``teardown`` is not called after an exception."""
        self._finish(trainer)

    def on_validation_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Keep what was logged for the page."""
        self._watching.keep_values(trainer, validated=True)

    def on_train_epoch_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Keep what was logged at the end of the epoch before."""
        if self._watching.trained:
            self._watching.keep_values(trainer, validated=False)
        self._watching.trained = True
        super().on_train_epoch_start(trainer, pl_module)

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """From now on the film is that of a training run."""
        super().on_train_start(trainer, pl_module)
        self._fitted |= not self._watching.off

    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Keep what was logged at the end of the last epoch."""
        self._watching.keep_values(trainer, validated=False)

    def state_dict(self) -> dict[str, Any]:
        """The sample's fingerprints and last maps, the latest values, and where the film is."""
        return {
            **self._shown.state_dict(),
            "values": dict(self._values.latest),
            "schedule": self._schedule.state_dict(),
            "film": self._film.state_dict(),
            "alert": self._shortcuts.state_dict(),
        }

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Go on with the film of the checkpoint, in a run that trains on; others measure its weights alone."""
        if not self._watching.trains:
            return
        self._shown.load_state_dict(state_dict)
        self._values.latest = dict(state_dict["values"])
        self._schedule.load_state_dict(state_dict["schedule"])
        self._film.load_state_dict(state_dict["film"])
        self._shortcuts.load_state_dict(state_dict["alert"])

    def begin_epoch(self, trainer: pl.Trainer, stage: str) -> None:
        """Decide whether this epoch is logged."""
        self._watching.begin_epoch(trainer, stage)

    def before_batch(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, batch: Any, stage: str, dataloader_idx: int
    ) -> None:
        """Watch the passes to come, where this batch is wanted."""
        self._watching.before_batch(trainer, pl_module, batch, stage, dataloader_idx)

    def after_batch(self, trainer: pl.Trainer, outputs: Any, batch: Any, stage: str) -> None:
        """Take the maps, and make the class-specific views of the same images, see `MonitorFilm.explain`."""
        self._watching.after_batch(trainer, outputs)

    def end_epoch(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        """Log the epoch: pictures where it has a frame, and the values, new or old, in any case."""
        self._watching.end_epoch(trainer, pl_module, stage)

    @property
    def _sample(self) -> FixedSample:
        return self._shown.sample

    def _finish(self, trainer: pl.Trainer) -> None:
        self._watching.close()
        if trainer.is_global_zero and not self._watching.aside and not self._watching.off:
            self._film.finish(trainer, self._watching.attempts)

    def _begin_run(self, trains: bool, aside: bool = False, off: bool = False) -> None:
        self._watching.close()
        self._watching = self._new_watching(trains, aside, off)
        self._shown.begin_run()

    def _new_watching(self, trains: bool = True, aside: bool = False, off: bool = False) -> Watching:
        shortcuts = ShortcutWatch(self._shortcuts.images, None, self.name) if aside else self._shortcuts
        return Watching(
            stage=self.stage,
            model=self.model,
            name=self.name,
            weights=self.weights,
            film=self._film,
            shown=self._shown,
            shortcuts=shortcuts,
            values=self._values,
            schedule=self._schedule,
            reading=BatchReading(self.statistic, self.layers, self._batches),
            predictions=NetworkPredictions(self._output),
            trains=trains,
            aside=aside,
            off=off,
        )
