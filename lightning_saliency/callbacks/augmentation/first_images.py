"""The run's first images: whether the guide can explain them, found out by all processes together."""

from __future__ import annotations

from typing import Any

import pytorch_lightning as pl
from pytorch_lightning.utilities import rank_zero_info

from lightning_saliency.batches import BatchContent, BatchError
from lightning_saliency.callbacks._processes import agree_to_refuse, of_process, which
from lightning_saliency.callbacks.augmentation.frame import AugmentationFilm
from lightning_saliency.callbacks.augmentation.guide import Guide
from lightning_saliency.callbacks.augmentation.options import Failures, refuse_shards
from lightning_saliency.callbacks.augmentation.step import BatchStep


class FirstImages:
    """Reads batches, and tries the guide on the first images, before anything can be lost.

    The processes do so together: none of them ends the run for what another one can do.

    Args:
        guide: Makes the maps.
        step: Reads batches, and tries the recipe.
        film: Gets the images that are shown; ``None``: none are.
        failures: Gives the warnings.
        acts: Whether images will ever be replaced.

    Attributes:
        begun: Whether there were images in any process.
        shows: Whether the latest batch was the first with images, and this process shows what becomes of them.
    """

    def __init__(
        self, guide: Guide, step: BatchStep, film: AugmentationFilm | None, failures: Failures, *, acts: bool
    ) -> None:
        self.guide = guide
        self.step = step
        self.film = film
        self.failures = failures
        self.acts = acts
        self.begin()

    def begin(self) -> None:
        """Another run."""
        self.begun = self.shows = self._tried = False

    def read(self, trainer: pl.Trainer, batch: Any) -> BatchContent | None:
        """The images of a batch; ``None`` where it has none, but others had, or other processes.

        Raises:
            AugmentationConfigurationError: If the run's first batch shows, in each process, that nothing can be done.
            Exception: What else goes wrong with the first images.
        """
        self.shows = False
        content: BatchContent | None = None
        error: Exception | None = None
        try:
            content = self.step.read(trainer, batch)
        except BatchError as found:
            error = found
        if not self.begun:
            return self._begin(trainer, content, error)
        if error is not None:
            self.failures.note_once("no images", f"Batches without images are passed over. {error}")
        elif content is not None and not self._tried:  # The run's first images were other processes'.
            self._try(trainer, content)
        return content

    def _begin(self, trainer: pl.Trainer, content: BatchContent | None, error: Exception | None) -> BatchContent | None:
        met = which(trainer, content is not None)
        self.begun = any(met)
        begins = self.begun and self.acts
        if begins:
            # Some strategies tell by what they have made of the modules alone.
            refuse_shards(trainer, trainer.lightning_module)
            self.step.truth.settle(trainer, content)
            try:
                self.guide.settle(begun=False)
                if content is not None:
                    self._try(trainer, content)
            except Exception as found:  # raised below
                error = found
        said = agree_to_refuse(trainer, self.step.refusal(trainer, error))
        if said is not None:
            self.failures.warn_once("processes", f"It could not augment everywhere. {said}")
        if begins:
            rank_zero_info(f"{self.failures.owner} guides training by {self.guide.spec}.")
            if self.film is not None:
                self.film.sample = of_process(trainer, met.index(True), self.film.sample)
                self.shows = trainer.is_global_zero
        if error is not None and (content is not None or not self.begun):
            raise error
        return content

    def _try(self, trainer: pl.Trainer, content: BatchContent) -> None:
        """Try the guide on this process's first images."""
        self._tried = True
        if self.acts:
            images, targets = self.step.tried(trainer, content)
            if self.film is not None:
                self.film.take(images, targets, self.guide.class_free)
