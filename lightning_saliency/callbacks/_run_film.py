"""The film of one callback in one run: files in the run's folder."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Sequence
from typing import Any

import pytorch_lightning as pl

from lightning_saliency.callbacks._run_folder import RunVersion, begin_here, run_folder, version_of
from lightning_saliency.callbacks._trainer_lookups import has_trained, logged_step
from lightning_saliency.callbacks._warnings import warn
from lightning_saliency.files import Location, safe_name
from lightning_saliency.lightning_bases import Callback
from lightning_saliency.pictures.film import Film
from lightning_saliency.pictures.tensors import (
    Normalization,
    Picture,
    find_normalization,
    fits_channels,
    parse_denormalize,
)


class RunFilm:
    """Keeps pictures as files, in a run's folder that is found when there is a picture to keep.

    Args:
        name: Prefix of the pictures' keys; the film's folder is named after it.
        megabytes: Largest size of the film on disk, in 10⁶ bytes.
        views: Names of the views.
        denormalize: How images become colours again, see ``SaliencyMonitor``.

    Attributes:
        opened: Whether a run has begun with it.
        begun_at: The step that the run's training went on from; -1 of one that begins. Later frames that are there
            already are of other runs.
    """

    def __init__(
        self,
        name: str,
        megabytes: float,
        views: Iterable[str] = (),
        denormalize: str | Sequence[Sequence[float]] = "auto",
    ) -> None:
        self.name = name
        self.megabytes = megabytes
        self.denormalize = denormalize
        self.opened = False
        self.begun_at = -1
        self._views = tuple(views)
        self._film: Film | None = None
        self._version: RunVersion | None = None
        self._failed = False

    def open(self, trainer: pl.Trainer) -> None:
        """Begin with a run; to be called by every process in ``setup``, before a checkpoint is loaded.

        Raises:
            ValueError: If another callback of the trainer keeps a film of this name.
        """
        for callback, film in _films(trainer):
            if film is not self and film.opened and film.name == self.name:
                raise ValueError(
                    f"Got two callbacks with films called {self.name!r}, one of them a {type(callback).__name__}. "
                    "Allowed is a name for each; give one of them another, such as name='training'."
                )
        begin_here(trainer)
        self.opened, self._failed, self._film, self._version = True, False, None, version_of(trainer)
        self.begun_at = -1

    def start(self, trainer: pl.Trainer) -> None:
        """Begin with training, after a checkpoint was loaded."""
        if has_trained(trainer):
            self.begun_at = logged_step(trainer)

    def keep(self, trainer: pl.Trainer, view: str, picture: Picture, *, epoch: int, step: int) -> None:
        """Keep a picture. To be called on global rank zero.

        Args:
            trainer: The run.
            view: The picture's view.
            picture: ``[H, W, 3]`` uint8, RGB.
            epoch: From 0; -1 for the network at the start of the run.
            step: The optimiser steps made so far.
        """
        film = self._opened(trainer)
        if film is not None:
            film.add(view, picture, epoch=epoch, step=step)

    def folder(self, trainer: pl.Trainer) -> Location | None:
        """The film's folder, ``None`` where there is none to write to. To be called on global rank zero."""
        film = self._opened(trainer)
        return None if film is None else film.folder

    def normalization_of(self, trainer: pl.Trainer, loaders: object, channels: Collection[int]) -> Normalization:
        """``(mean, std)`` of the images of some loaders; ``None`` where they have none, or none is known.

        As the film's own ``denormalize`` says; with ``"auto"`` as the data's transforms say, and where they say
        nothing, as another film of the trainer was told. What was found so and does not fit the images is none.

        Args:
            trainer: The run.
            loaders: The loaders.
            channels: The images' numbers of channels.
        """
        if self.denormalize != "auto":
            return parse_denormalize(self.denormalize)
        found = find_normalization(getattr(trainer, "datamodule", None), loaders, channels=channels)
        if found is not None:
            return found
        told = (parse_denormalize(film.denormalize) for _, film in _films(trainer) if film.denormalize != "auto")
        return next((each for each in told if all(fits_channels(each, count) for count in channels)), None)

    def state_dict(self) -> dict[str, Any]:
        """The run's folder, where it has one of its own."""
        return {} if self._version is None else {"version": self._version.name, "run": self._version.run}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on in the folder of the run whose checkpoint this is."""
        version, run = state.get("version"), state.get("run")
        self._version = RunVersion(version, run) if isinstance(version, str) and isinstance(run, str) else None

    def frames(self, view: str) -> list[Any]:
        """The frames of a view that are kept of the present run."""
        return [] if self._film is None else self._film.frames(view)

    def _opened(self, trainer: pl.Trainer) -> Film | None:
        if self._failed:
            return None
        try:
            return self._film_of(trainer)
        # A remote store's package raises anything; a picture less must not end a training run.
        except Exception as error:
            self._failed = True
            warn(
                f"No film of {self.name!r} is kept, since the run's folder cannot be made ({type(error).__name__}: "
                f"{error}). Training goes on; pictures in loggers are not affected. Give a default_root_dir that can "
                "be written to."
            )
            return None

    def _film_of(self, trainer: pl.Trainer) -> Film | None:
        resumed = None
        if trainer.state.fn == "fit":  # what others do with a checkpoint is a run of its own
            resumed = next((film._version for _, film in _films(trainer) if film._version), self._version)
        folder = run_folder(trainer, resumed)
        if folder is None:
            return None
        place = folder / safe_name(self.name)
        if self._film is None or self._film.folder != place:
            self._film = Film(place, self.megabytes, self._views)
            self._version = version_of(trainer)
            if trainer.state.fn == "fit":
                self._film.rewind(self.begun_at)
        return self._film


class FilmingCallback(Callback):
    """A callback that keeps films as its attributes, and opens them in ``setup``."""

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Tell the films where training begins."""
        for film in _films_of(self):
            film.start(trainer)


def _films(trainer: pl.Trainer) -> Iterator[tuple[object, RunFilm]]:
    """The callbacks of a trainer that keep films, and these."""
    for callback in trainer.callbacks:  # type: ignore[attr-defined]  # Lightning sets it without declaring it
        for film in _films_of(callback):
            yield callback, film


def _films_of(callback: object) -> list[RunFilm]:
    return [value for value in vars(callback).values() if isinstance(value, RunFilm)]
