"""What the monitor keeps for the page of its run, and the page at the end."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import pytorch_lightning as pl
from pytorch_lightning.utilities import rank_zero_info
from torch import Tensor

from lightning_saliency.callbacks._run_film import RunFilm
from lightning_saliency.callbacks._trainer_lookups import logged_step
from lightning_saliency.callbacks.monitor.reading.sample import SampleRecord
from lightning_saliency.files import Location
from lightning_saliency.pictures.page import AlertRecord, FilmRecords, MeanMap, film
from lightning_saliency.pictures.page.find import RECORDS
from lightning_saliency.pictures.page.recorder import Normalization, make_frame

#: What fails as one, see `Attempts`: frames and values lie in the same folder.
KEEPING = "keep what the run's page shows"


class MonitorPage:
    """Keeps frames and values in a run's folder, and makes the page of them.

    Args:
        film: Says where the run keeps its film.
    """

    def __init__(self, film: RunFilm) -> None:
        self._film = film
        self._store: FilmRecords | None = None
        self._kept = False

    def open(self) -> None:
        """Begin with a run."""
        self._store, self._kept = None, False

    def keep(
        self,
        trainer: pl.Trainer,
        records: Sequence[SampleRecord],
        names: Sequence[str],
        weights: str | Sequence[float],
        normalization: Normalization | None,
        classes: Sequence[str] | None,
        means: Sequence[MeanMap] = (),
        slots: Sequence[int] | None = None,
    ) -> None:
        """Keep a frame. To be called on global rank zero.

        Args:
            trainer: The run.
            records: The sample.
            names: The scales' names.
            weights: Weights of the scales in the combined map.
            normalization: ``(mean, std)`` of the images, or ``None``.
            classes: Names of the classes.
            means: Mean maps of many images.
            slots: Which images of the film the records are; ``None``: the first ones.
        """
        store = self._opened(trainer)
        if store is None:
            return
        views = [view for view in records[0].views if all(view in record.views for record in records)]
        frame, photos = make_frame(
            [record.image for record in records],
            [record.statistics for record in records],
            epoch=-1 if trainer.sanity_checking else trainer.current_epoch,
            step=logged_step(trainer),
            scales=names,
            weights=weights,
            normalization=normalization,
            labels=[record.label for record in records],
            predictions=[record.prediction for record in records],
            views={view: [record.views[view] for record in records] for view in views},
            classes=classes,
            means=means,
            slots=slots,
        )
        store.add(frame, photos)
        self._kept = True

    def log(self, trainer: pl.Trainer, values: Mapping[str, float | Tensor], *, validated: bool = True) -> None:
        """Keep what was logged. To be called on global rank zero.

        Args:
            trainer: The run.
            values: By name.
            validated: See `FilmRecords.log`.
        """
        store = self._opened(trainer)
        if store is None:
            return
        numbers = {name: float(value) for name, value in values.items()}
        for name in list(numbers):
            # Of one value Lightning keeps up to three: the latest step's, the epoch's, and one of them under its name.
            if name.rpartition("_")[2] in ("step", "epoch") and name.rpartition("_")[0] in numbers:
                del numbers[name]
        epoch = -1 if trainer.sanity_checking else trainer.current_epoch
        store.log(epoch, logged_step(trainer), numbers, validated=validated)

    def warn(self, trainer: pl.Trainer, alerts: Sequence[AlertRecord]) -> None:
        """Keep the warnings of a shortcut, all of the run. To be called on global rank zero.

        Args:
            trainer: The run.
            alerts: The oldest first.
        """
        store = self._opened(trainer)
        if store is not None:
            store.warn(alerts)

    def finish(self) -> Location | None:
        """Make the page and say where it is; nothing where no frame was kept."""
        if self._store is None or not self._kept:
            return None
        self._kept = False
        page = film(self._store.folder.parent)
        rank_zero_info(f"The film of this run, to be opened in a browser: {page}")
        for alert in self._store.alerts()[-1:]:
            rank_zero_info(f"SaliencyMonitor {alert.summary()}: where, and what helps, is at the top of that page.")
        return page

    def _opened(self, trainer: pl.Trainer) -> FilmRecords | None:
        folder = self._film.folder(trainer)
        if folder is None:
            return None
        if self._store is None or self._store.folder != folder / RECORDS:
            self._store = FilmRecords(folder / RECORDS, self._film.megabytes)
            if trainer.state.fn == "fit":
                self._store.rewind(self._film.begun_at)
        return self._store
