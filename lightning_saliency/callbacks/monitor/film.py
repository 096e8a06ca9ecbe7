"""The pictures of the monitor: drawn from the sample's records, for every logger and as files."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

import pytorch_lightning as pl
from torch import Tensor, nn

from lightning_saliency.callbacks._trainer_lookups import class_names, run_folder, watched_module
from lightning_saliency.callbacks.monitor.frame import draw_views
from lightning_saliency.callbacks.monitor.options import MonitorConfigurationError, positive
from lightning_saliency.callbacks.monitor.sample import SampleRecord
from lightning_saliency.explainers import ExplainerSpec
from lightning_saliency.pictures.film import Film
from lightning_saliency.pictures.loggers import log_picture
from lightning_saliency.pictures.tensors import find_normalization, parse_denormalize


class MonitorFilm:
    """Shows the sample, one picture a view.

    Args:
        name: Prefix of the pictures' keys, and the film's folder.
        views: Name of the view -> explainer, ``None`` for the views of the scales, see ``parse_views``.
        weights: Weights of the scales in the combined map.
        model: Dotted path of the watched submodule, or ``None``.
        stage: The loop whose images are shown.
        denormalize: Conversion of images back to colours, see ``SaliencyMonitor``.
        picture_width: Largest width of a picture in pixels.
        megabytes: Largest size of the film on disk, in 10⁶ bytes.

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
        picture_width: int,
        megabytes: float,
    ) -> None:
        self.name = name
        self.views = dict(views)
        self.weights = weights
        self.model = model
        self.stage = stage
        self.denormalize = denormalize
        try:
            self._normalization = parse_denormalize(denormalize)
        except ValueError as error:
            raise MonitorConfigurationError(str(error)) from None
        self.picture_width = positive("picture_width", picture_width)
        self.megabytes = megabytes
        self._film: Film | None = None

    def open(self, trainer: pl.Trainer) -> None:
        """Begin, or go on with, the run's film. To be called on global rank zero."""
        self._film = Film(run_folder(trainer) / self.name, self.megabytes)

    def check(self, network: nn.Module) -> None:
        """Build each view's explainer once, so that wrong values of its arguments are found out early."""
        for spec in self.views.values():
            if spec is not None:
                spec(network)

    def show(
        self, trainer: pl.Trainer, records: Sequence[SampleRecord], names: Sequence[str]
    ) -> tuple[list[Any], bool]:
        """Log the pictures of one epoch.

        Args:
            trainer: The run; its loggers get the pictures.
            records: The sample, one or more images.
            names: Names of the scales.

        Returns:
            The combined maps ``[h, w]``, and whether the images' range was guessed.
        """
        explain: dict[str, Callable[[Tensor, Tensor | None], Tensor]] = {
            view: partial(self._explain, trainer, spec) for view, spec in self.views.items() if spec is not None
        }
        pictures, combined, guessed = draw_views(
            records,
            names,
            self.weights,
            tuple(self.views),
            self._find_normalization(trainer),
            self.picture_width,
            class_names(trainer),
            explain,
        )
        step = trainer.fit_loop.epoch_loop._batches_that_stepped if trainer.state.fn == "fit" else trainer.global_step
        epoch = -1 if trainer.sanity_checking else trainer.current_epoch
        for view, (picture, captions) in pictures.items():
            log_picture(trainer.loggers, f"{self.name}/{view}", picture, step, captions=captions)
            if self._film is not None:
                self._film.add(view, picture, epoch=epoch, step=step)
        return combined, guessed

    def _explain(self, trainer: pl.Trainer, spec: ExplainerSpec, images: Tensor, targets: Tensor | None) -> Tensor:
        explainer = spec(watched_module(trainer.lightning_module, self.model))
        with trainer.precision_plugin.forward_context():
            return explainer(images.to(trainer.strategy.root_device), targets)

    def _find_normalization(self, trainer: pl.Trainer) -> tuple[Sequence[float], Sequence[float]] | None:
        if self.denormalize != "auto":
            return self._normalization
        loaders = {
            "train": trainer.train_dataloader,
            "validate": trainer.val_dataloaders,
            "test": trainer.test_dataloaders,
        }
        return find_normalization(getattr(trainer, "datamodule", None), loaders[self.stage])
