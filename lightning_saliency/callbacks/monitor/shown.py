"""The images of the film, their frame of an epoch, and what has to be said about them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import pytorch_lightning as pl
import torch
from pytorch_lightning.utilities import rank_zero_info
from torch import Tensor, nn

from lightning_saliency.batches import BatchContent
from lightning_saliency.callbacks._trainer_lookups import watched_module
from lightning_saliency.callbacks._warnings import warn
from lightning_saliency.callbacks.monitor.attempts import Attempts
from lightning_saliency.callbacks.monitor.film import MonitorFilm
from lightning_saliency.callbacks.monitor.frame import combined_maps
from lightning_saliency.callbacks.monitor.reading.batch_maps import BatchReading
from lightning_saliency.callbacks.monitor.reading.own_images import OwnImages
from lightning_saliency.callbacks.monitor.reading.sample import ONE_PER_CLASS, FixedSample, SampleRecord
from lightning_saliency.callbacks.monitor.scalars import EpochScalars
from lightning_saliency.explainers.base import Output
from lightning_saliency.functional.position_bias import PositionSums
from lightning_saliency.functional.statistics import Statistic
from lightning_saliency.scales.reader import Layers

#: What fails as one, see `Attempts`: the maps of a batch.
READING = "read the maps of the scales"
_OWN = "read the maps of images="


class ShownImages:
    """The images of the film: found again in the stage's batches, or the user's own.

    Args:
        film: Draws them.
        size: Their number.
        indices: Which of the loader, see `FixedSample`.
        own: The user's own, which are shown instead.
        statistic: Read at each scale of the user's own.
        layers: The scales of these.
        output: What takes the logits out of what the network returns for these.

    Attributes:
        sample: The images' records of this epoch.
        own: As given.
    """

    def __init__(
        self,
        film: MonitorFilm,
        size: int,
        indices: Sequence[int] | str | None,
        own: OwnImages | None,
        statistic: Statistic,
        layers: Layers,
        output: Output,
    ) -> None:
        self.own = own
        self._film = film
        self._size, self._indices = size, indices
        self._statistic, self._layers, self._output = statistic, layers, output
        # What was asked for, as a checkpoint keeps it.
        self._asked: dict[str, Any] = {
            "num_images": size,
            "indices": list(indices) if isinstance(indices, tuple) else indices,
            "images": None if own is None else own.digest,
        }
        self._unread: list[Tensor] = []
        self.begin_film()
        self.begin_run()

    def begin_film(self) -> None:
        """Choose images anew, in another trainer."""
        self.sample = FixedSample(self._size, self.follows, self._indices)

    @property
    def follows(self) -> bool:
        """Whether the same images are to be shown in each epoch."""
        return self._film.stage != "train" or self.own is not None

    def state_dict(self) -> dict[str, Any]:
        """The sample, and which images it was asked for."""
        return {**self.sample.state_dict(), "asked": self._asked}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on with the sample of a checkpoint, if it is of the images that are asked for now; else choose anew."""
        before = state.get("asked", self._asked)
        others = [f"{name}=" for name, asked in self._asked.items() if before[name] != asked]
        if not others:
            self.sample.load_state_dict(state)
            return
        self.begin_film()
        rank_zero_info(
            f"SaliencyMonitor chooses its images anew: those of the checkpoint are of another {', '.join(others)}. The "
            "film goes on with the new ones."
        )

    def mind_unread(self, own: Tensor) -> None:
        """A batch was taken to be unchanged; a bool on its device, which is read at the epoch's end, tells whether."""
        self._unread.append(own)

    def were_written(self) -> bool:
        """Whether one of these batches had been written to: those are not counted, which is said once."""
        unread, self._unread = self._unread, []
        changed = int(torch.stack(unread).logical_not().sum()) if unread else 0
        if changed:
            self._warn_once(
                "written",
                f"SaliencyMonitor left {changed} of this epoch's batches out of its values: their steps wrote to the "
                "images in place. From now on each batch is looked at before it is read, for which a GPU is waited "
                "for.",
            )
        return changed > 0

    def begin_run(self) -> None:
        """Begin with a run: what was said is said again."""
        self._unread = []
        self._said: set[str] = set()
        self._like: tuple[int, ...] | None = None
        self._own_names: tuple[str, ...] = ()

    def wanted_of(self, content: BatchContent) -> FixedSample | None:
        """What chooses images of a batch; ``None`` where none of any batch are shown."""
        self._like = tuple(content.pictures[0].shape)
        return self.sample if self.own is None else None

    def handed_over(self) -> tuple[FixedSample, tuple[int, ...] | None]:
        """What another process needs to show the images that this one has met."""
        return self.sample, self._like

    def take_over(self, given: tuple[FixedSample, tuple[int, ...] | None]) -> None:
        """Go on with what another process has met; the maps that its own are compared with are known here alone."""
        given[0].drift_maps = self.sample.drift_maps
        self.sample, self._like = given

    def end(self, trainer: pl.Trainer, attempts: Attempts) -> bool:
        """Close the sample's epoch; returns whether there may be something to show.

        Args:
            trainer: The run.
            attempts: Whether all batches could be read.
        """
        # Which images are the worst is known after a whole epoch of training, all of whose batches could be read.
        if self.sample.chooses and (trainer.sanity_checking or not attempts.wants(READING)):
            return False
        # Images that could not be read are not lost.
        if attempts.wants(READING) and self.sample.end():
            self._warn_once(
                "images do not come back",
                "SaliencyMonitor did not find the film's images again: the loader changes them at random, or holds "
                "others. Each epoch's first images are shown instead, and no drift is measured.",
            )
        return True

    def say_who_shows(self, without: str, rank: int) -> None:
        """Say, once, that some processes met no images.

        Args:
            without: These processes, named.
            rank: The process whose images are shown.
        """
        self._warn_once(
            "processes",
            f"SaliencyMonitor found images in no batch of {without}. What it measures is of the others, and the film "
            f"shows images of process {rank}.",
        )

    def show(
        self, trainer: pl.Trainer, reading: BatchReading, attempts: Attempts, scalars: EpochScalars, sums: PositionSums
    ) -> None:
        """Log the epoch's pictures, and measure how much the maps have changed. To be called on global rank zero.

        Args:
            trainer: The run.
            reading: Has read the epoch's batches.
            attempts: What may fail, and how often.
            scalars: Gets the drift.
            sums: Those of all images, for the views of their means.
        """
        self._read_own(trainer, attempts)
        if not self.end(trainer, attempts):
            return
        records = self.sample.present()
        if not records:
            self._say_what_is_missing(trainer, reading)
            return
        guessed = False
        with attempts.trying("draw the frame"):
            names, slots = self._own_names or reading.names, self.sample.slots()
            guessed = self._film.show(trainer, records, names, attempts, sums, slots)
        if guessed:
            self._warn_once(
                "display range",
                "SaliencyMonitor does not know how the images were normalised and stretches each to its own range for "
                "display: give denormalize='imagenet' or denormalize=(mean, std).",
            )
        with attempts.trying("look at the classes of the film's images"):
            self._mind_one_class(trainer, records, sums)
        with attempts.trying(f"measure {self._film.name}/drift"):
            drift = self.sample.drift(combined_maps(records, self._film.weights))
            if self.sample.followed:
                scalars.add_drift(drift)

    def explain(
        self,
        trainer: pl.Trainer,
        records: dict[int, SampleRecord],
        attempts: Attempts,
        entrance: nn.Module | None = None,
    ) -> None:
        """Take in records of a batch, and make the class-specific views of its images, see `MonitorFilm.explain`.

        Args:
            trainer: The run.
            records: Images whose maps were just read, by their slots.
            attempts: Each view fails by itself.
            entrance: The module that they entered, where it is known.
        """
        self.sample.records.update(records)
        if records:
            self._film.explain(trainer, list(records.values()), attempts, entrance)

    def say_changed(self) -> None:
        """Say, once, that the maps are of what the step has made of the images."""
        self._warn_once(
            "changed",
            "SaliencyMonitor shows the images as they entered the network: this step makes others of the batch's "
            "(mirrored, cropped, mixed) before. Their objects are not scored. Where one pass of the step takes the "
            "images as they are in the batch, its maps are shown.",
        )

    def _mind_one_class(self, trainer: pl.Trainer, records: Sequence[SampleRecord], sums: PositionSums) -> None:
        """Say so where the loader's first images are of one class, and the run has others."""
        labels = {record.label for record in records}
        label = labels.pop()
        if (
            labels
            or label is None
            or label < 0
            or len(records) < 2
            or self.own is not None
            or self._indices is not None
        ):
            return
        if int((sums.count[:-1] > 0).sum()) > 1:
            names = self._film.classes(trainer)
            name = names[label] if names is not None and label < len(names) else label
            self._say_once(
                "one class",
                f"SaliencyMonitor shows one class alone: all {len(records)} images are of class {name}. "
                f"indices={ONE_PER_CLASS!r} shows others.",
                rank_zero_info,
            )

    def _say_what_is_missing(self, trainer: pl.Trainer, reading: BatchReading) -> None:
        if self._indices is not None and not trainer.sanity_checking:
            wanted = self._indices if isinstance(self._indices, str) else list(self._indices)
            self._warn_once(
                "indices",
                f"SaliencyMonitor shows nothing: none of the images with indices={wanted!r} came by. Allowed are "
                "numbers below that of the images of the stage's first loader; give others.",
            )
        if reading.loader is None:
            self._warn_once("nothing to show", "SaliencyMonitor found images in no batch, and shows none.")

    def _read_own(self, trainer: pl.Trainer, attempts: Attempts) -> None:
        """Fill the sample with the user's own images, if there are any."""
        if self.own is None or self._like is None or not attempts.wants(_OWN):
            return
        with attempts.trying(_OWN, "Leave images= out, and the loader's first images are shown."):
            normalization = self._film.normalization(trainer, {self._like[0]})
            if self.own.are_files and normalization is None and self._film.denormalize == "auto":
                self._warn_once(
                    "own images",
                    "SaliencyMonitor does not know how images are normalised, and gives the network those of images= "
                    "in [0, 1]: give denormalize='imagenet', denormalize=(mean, std), or 'none' if that is right.",
                )
            network = watched_module(trainer.lightning_module, self._film.model)
            records, self._own_names = self.own.records(
                trainer, network, self._like, normalization, self._statistic, self._layers, self._output
            )
            self.explain(trainer, records, attempts)

    def _warn_once(self, what: str, message: str) -> None:
        self._say_once(what, message, warn)

    def _say_once(self, what: str, message: str, say: Callable[[str], None]) -> None:
        if what not in self._said:
            self._said.add(what)
            say(message)
