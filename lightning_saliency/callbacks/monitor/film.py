"""The pictures of the monitor: drawn from the sample's records, for every logger and as files."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence

import pytorch_lightning as pl
import torch
from pytorch_lightning.utilities import rank_zero_info
from torch import Tensor, nn

from lightning_saliency.callbacks._run_film import RunFilm
from lightning_saliency.callbacks._trainer_lookups import class_names, logged_step, watched_module
from lightning_saliency.callbacks._warnings import warn
from lightning_saliency.callbacks.monitor.attempts import Attempts
from lightning_saliency.callbacks.monitor.frame import Frame
from lightning_saliency.callbacks.monitor.means import MEAN_VIEWS, mean_maps
from lightning_saliency.callbacks.monitor.options import MonitorConfigurationError, positive
from lightning_saliency.callbacks.monitor.page import KEEPING, MonitorPage
from lightning_saliency.callbacks.monitor.reading.sample import SampleRecord
from lightning_saliency.explainers import ExplainerSpec
from lightning_saliency.explainers.base import undisturbed
from lightning_saliency.explainers.labelled import explain_labels
from lightning_saliency.functional.class_labels import NO_CLASS
from lightning_saliency.functional.position_bias import PositionSums
from lightning_saliency.pictures.class_names import as_names
from lightning_saliency.pictures.loggers import (
    log_page_to,
    log_picture_to,
    log_table_to,
    shows_pages,
    shows_tables,
    viewing_hint,
)
from lightning_saliency.pictures.tensors import Normalization, Picture, parse_denormalize

_COMPARING = "see which part of the module the class views run"
_REMEDY = "Give the explainer other arguments with views=, or leave the view out; LOVI and the scalars do not need it."


class MonitorFilm(RunFilm):
    """Shows the sample, one picture a view.

    Args:
        name: Prefix of the pictures' keys, and the film's folder.
        views: Name of the view -> explainer, ``None`` for the views of the scales, see ``parse_views``.
        weights: Weights of the scales in the combined map.
        model: Dotted path of the watched submodule, or ``None``.
        stage: The loop whose images are shown.
        denormalize: Conversion of images back to colours, see ``SaliencyMonitor``.
        tile: The longer side of an image in pictures, in pixels.
        megabytes: Largest size of the film on disk, in 10⁶ bytes.
        class_names: Names of the classes; ``None``: they are looked for.
        alpha: Opacity of overlays.

    Raises:
        MonitorConfigurationError: If an option is out of range.
    """

    def __init__(
        self,
        name: str,
        views: Mapping[str, ExplainerSpec | None],
        weights: str | Sequence[float],
        model: str | None,
        stage: str,
        denormalize: str | Sequence[Sequence[float]],
        tile: int,
        megabytes: float,
        class_names: Sequence[str] | None = None,
        alpha: float = 0.8,
    ) -> None:
        try:
            parse_denormalize(denormalize)
        except ValueError as error:
            raise MonitorConfigurationError(str(error)) from None
        if not megabytes > 0:
            raise MonitorConfigurationError(
                f"Got film_megabytes={megabytes}. Allowed are positive sizes; give the space that the film may take."
            )
        super().__init__(name, megabytes, views, denormalize)
        self.page = MonitorPage(self)
        if isinstance(class_names, str):
            raise MonitorConfigurationError(f"Got class_names={class_names!r}. Allowed are lists of names; give one.")
        self.class_names = None if class_names is None else as_names(class_names)
        self.views = dict(views)
        self._explains = True
        self._flat: set[str] = set()
        self._hinted = self._compared = False
        self.weights = weights
        self.model = model
        self.stage = stage
        self.tile = positive("tile", tile)
        if not 0 <= alpha <= 1:
            raise MonitorConfigurationError(f"Got alpha={alpha}. Allowed are opacities in [0, 1]; give one.")
        self.alpha = alpha

    def check(self, network: nn.Module) -> None:
        """Build each view's explainer once, so that wrong values of its arguments are found out early."""
        for spec in self.class_views.values():
            spec(network)

    def open(self, trainer: pl.Trainer) -> None:
        """Begin with a run, with all of the views, see `RunFilm.open`."""
        super().open(trainer)
        self.page.open()
        self._explains = True
        self._flat = set()
        self._hinted = self._compared = False

    def leave_out_class_views(self) -> None:
        """Make no pictures of the views with an explainer in this run."""
        self._explains = False

    @property
    def class_views(self) -> dict[str, ExplainerSpec]:
        """The views with an explainer: the network runs again for them."""
        if not self._explains:
            return {}
        return {view: spec for view, spec in self.views.items() if spec is not None and view not in self._flat}

    def explain(
        self,
        trainer: pl.Trainer,
        records: Sequence[SampleRecord],
        attempts: Attempts,
        entrance: nn.Module | None = None,
    ) -> None:
        """Compute the class-specific views of images whose maps were just read.

        With the same weights, but for ``stage="train"``: there the optimiser has made its step meanwhile.

        Args:
            trainer: The run.
            records: Images of the sample; the views' maps go into ``record.views``.
            attempts: Each view fails by itself.
            entrance: The module that the images entered in the pass that was read, where it is known.
        """
        if self.class_views and entrance is not None and attempts.wants(_COMPARING):
            with attempts.trying(_COMPARING):
                self._mind_other_part(trainer, entrance, records[0].image)
        for view, spec in self.class_views.items():
            if not attempts.wants(part := f"make the view {view!r}"):
                continue
            with attempts.trying(part, _REMEDY):
                if any(record.image.ndim == 4 for record in records) and not self._takes_volumes(trainer, spec):
                    self._leave_out_flat(view)
                    continue
                for size in {record.image.shape for record in records}:
                    same = [record for record in records if record.image.shape == size]
                    images = torch.stack([record.image for record in same])
                    maps = self._explain(trainer, spec, images, _labels(same)).float().cpu()
                    for record, map_ in zip(same, maps, strict=True):
                        record.views[view] = map_

    def show(
        self,
        trainer: pl.Trainer,
        records: Sequence[SampleRecord],
        names: Sequence[str],
        attempts: Attempts,
        sums: PositionSums,
        slots: Sequence[int] | None = None,
    ) -> bool:
        """Log the pictures of one epoch.

        Args:
            trainer: The run; its loggers get the picture.
            records: The sample, one or more images.
            names: Names of the scales.
            attempts: Each view, and each logger, fails by itself.
            sums: Those of all images, for the views of their means.
            slots: See `MonitorPage.keep`.

        Returns:
            Whether the images' range was guessed.
        """
        normalization = self.normalization(trainer, {record.image.shape[0] for record in records})
        classes = self.classes(trainer)
        if attempts.wants(KEEPING):
            with attempts.trying(KEEPING):
                means = mean_maps(sums, classes)
                self.page.keep(trainer, records, names, self.weights, normalization, classes, means, slots)
        hint = None if self._hinted else viewing_hint(trainer.loggers)
        self._hinted = True
        if hint is not None:
            rank_zero_info(hint)
        step, epoch = logged_step(trainer), -1 if trainer.sanity_checking else trainer.current_epoch
        title = f"{'start' if epoch < 0 else f'epoch {epoch}'}, step {step}"
        frame = Frame(records, names, self.weights, normalization, self.tile, classes, self.alpha, title)
        for view in [view for view, spec in self.views.items() if spec is None or view in self.class_views]:
            making, drawing = f"make the view {view!r}", f"draw the view {view!r}"
            if not attempts.wants(drawing) or not attempts.wants(making):
                continue
            with attempts.trying(drawing, "Leave it out with views=."):
                if view in MEAN_VIEWS:
                    picture, captions = MEAN_VIEWS[view](sums, normalization, self.tile, classes), [view]
                else:
                    picture, captions = frame.picture(view), frame.captions
                self.keep(trainer, view, picture, epoch=epoch, step=step)
                self._log(trainer, view, picture, step, captions, attempts)
        return frame.guessed

    def finish(self, trainer: pl.Trainer, attempts: Attempts) -> None:
        """At the end of a run: make its page, and log it, or a table of all epochs' pictures, where a logger shows one.

        Args:
            trainer: The run. To be called on global rank zero.
            attempts: The page, and each logger, fails by itself.
        """
        page = None
        with attempts.trying("make the page", "`lightning-saliency film RUN` tries again.", again=False):
            page = self.page.finish()
        for number, logger in enumerate(trainer.loggers if page else (), start=1):
            where = f"{type(logger).__name__}, logger {number} of the trainer"
            if page and shows_pages(logger):
                with attempts.trying(f"log the page to {where}", again=False):
                    log_page_to(logger, f"{self.name}/{page.name}", page.read_bytes().decode())
            if shows_tables(logger):
                with attempts.trying(f"log a table to {where}", again=False):
                    log_table_to(logger, f"{self.name}/film", *self._table())

    def _table(self) -> tuple[list[str], list[list[int | bytes]]]:
        """The names of the columns, and a row of PNG files for each frame of which there is a picture of every view."""
        kept = {view: {(frame.epoch, frame.step): frame for frame in self.frames(view)} for view in self.views}
        kept = {view: frames for view, frames in kept.items() if frames}
        times = sorted(set.intersection(*(set(frames) for frames in kept.values()))) if kept else []
        rows: list[list[int | bytes]] = [
            [*time, *(frames[time].path.read_bytes() for frames in kept.values())] for time in times
        ]
        return ["epoch", "step", *kept], rows

    def _log(
        self,
        trainer: pl.Trainer,
        view: str,
        picture: Picture,
        step: int,
        captions: Sequence[str],
        attempts: Attempts,
    ) -> None:
        for number, logger in enumerate(trainer.loggers, start=1):
            if attempts.wants(part := f"log pictures to {type(logger).__name__}, logger {number} of the trainer"):
                with attempts.trying(part, "Pictures kept as files are not affected."):
                    log_picture_to(logger, f"{self.name}/{view}", picture, step, captions=captions)

    def _takes_volumes(self, trainer: pl.Trainer, spec: ExplainerSpec) -> bool:
        return bool(getattr(spec(watched_module(trainer.lightning_module, self.model)), "takes_volumes", False))

    def _leave_out_flat(self, view: str) -> None:
        """Make no more pictures of a view in this run whose explainer takes no volumes, and say so."""
        self._flat.add(view)
        warn(
            f"SaliencyMonitor leaves out the view {view!r}: its explainer takes no volumes [B, C, T, H, W]. Allowed "
            "are explainers with takes_volumes=True, such as fast_cam and grad_cam; name one of these with views=."
        )

    def _explain(self, trainer: pl.Trainer, spec: ExplainerSpec, images: Tensor, labels: Tensor) -> Tensor:
        network = watched_module(trainer.lightning_module, self.model)
        explainer = spec(network)
        try:
            with trainer.precision_plugin.forward_context():
                return explain_labels(explainer, images.to(trainer.strategy.root_device), labels)
        except Exception as error:
            if _takes(trainer, network, images[0]):
                raise
            raise TypeError(
                f"{type(network).__name__} cannot be called with images alone, as explainers do: "
                f"{type(error).__name__}: {error}. Name the part of it that takes images and returns logits with "
                "model=, or give its forward images first and defaults for the rest."
            ) from error

    def classes(self, trainer: pl.Trainer) -> Sequence[str] | None:
        """The names of the classes, if there are any."""
        return class_names(trainer, self.stage) if self.class_names is None else self.class_names

    def _mind_other_part(self, trainer: pl.Trainer, entrance: nn.Module, image: Tensor) -> None:
        """Say so, once a run, where the class views run another part of the module than the pass that was read."""
        network = watched_module(trainer.lightning_module, self.model)
        if self._compared or entrance is network:
            return
        self._compared = True
        passed: list[bool] = []
        handle = entrance.register_forward_pre_hook(lambda *_: passed.append(True))
        try:
            if not _takes(trainer, network, image):
                return  # The views will tell of it.
        finally:
            handle.remove()
        name = next((name for name, each in trainer.lightning_module.named_modules() if each is entrance), None)
        if not passed and name is not None:
            warn(
                f"SaliencyMonitor's views {', '.join(self.class_views)} are of other weights than its maps: the pass "
                f"over the batch went through {name!r}, which the forward() that they run does not use. Give "
                f"model={name!r}, and all of them are of it."
            )

    def normalization(self, trainer: pl.Trainer, channels: Collection[int]) -> Normalization:
        """``(mean, std)`` of the stage's images of these numbers of channels, see `RunFilm.normalization_of`."""
        loaders = {
            "train": trainer.train_dataloader,
            "validate": trainer.val_dataloaders,
            "test": trainer.test_dataloaders,
        }
        return self.normalization_of(trainer, loaders[self.stage], channels)


def _takes(trainer: pl.Trainer, network: nn.Module, image: Tensor) -> bool:
    """Whether a network can be called with images alone; it is called with one."""
    try:
        with undisturbed(network), torch.no_grad(), trainer.precision_plugin.forward_context():
            network(image[None].to(trainer.strategy.root_device))
    except Exception:  # of the user's network
        return False
    return True


def _labels(records: Sequence[SampleRecord]) -> Tensor:
    """The images' classes, -1 for none."""
    return torch.tensor([NO_CLASS if record.label is None else record.label for record in records])
