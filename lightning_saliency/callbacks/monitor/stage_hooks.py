"""Lightning's hooks for training, validation and test, as four events with the stage as an argument."""

from __future__ import annotations

from typing import Any

import pytorch_lightning as pl

from lightning_saliency.callbacks._run_film import FilmingCallback


class StageHooks(FilmingCallback):
    """Turns the twelve epoch and batch hooks of the three stages into four methods to override."""

    def begin_epoch(self, trainer: pl.Trainer, stage: str) -> None:
        """An epoch of ``"train"``, ``"validate"`` or ``"test"`` begins."""

    def before_batch(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, batch: Any, stage: str, dataloader_idx: int
    ) -> None:
        """A batch is on its device; the step has not run."""

    def after_batch(self, trainer: pl.Trainer, outputs: Any, batch: Any, stage: str) -> None:
        """The step has run and returned ``outputs``."""

    def end_epoch(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        """The stage's last batch is done; metrics can be logged."""

    def on_validation_epoch_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Lightning's hook."""
        self.begin_epoch(trainer, "validate")

    def on_test_epoch_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Lightning's hook."""
        self.begin_epoch(trainer, "test")

    def on_train_epoch_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Lightning's hook."""
        self.begin_epoch(trainer, "train")

    def on_validation_batch_start(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, batch: Any, batch_idx: int, dataloader_idx: int = 0
    ) -> None:
        """Lightning's hook."""
        self.before_batch(trainer, pl_module, batch, "validate", dataloader_idx)

    def on_test_batch_start(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, batch: Any, batch_idx: int, dataloader_idx: int = 0
    ) -> None:
        """Lightning's hook."""
        self.before_batch(trainer, pl_module, batch, "test", dataloader_idx)

    def on_train_batch_start(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, batch: Any, batch_idx: int
    ) -> None:
        """Lightning's hook."""
        self.before_batch(trainer, pl_module, batch, "train", 0)

    def on_validation_batch_end(
        self,
        trainer: pl.Trainer,
        pl_module: pl.LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """Lightning's hook."""
        self.after_batch(trainer, outputs, batch, "validate")

    def on_test_batch_end(
        self,
        trainer: pl.Trainer,
        pl_module: pl.LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """Lightning's hook."""
        self.after_batch(trainer, outputs, batch, "test")

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Lightning's hook."""
        self.after_batch(trainer, outputs, batch, "train")

    def on_validation_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Lightning's hook."""
        self.end_epoch(trainer, pl_module, "validate")

    def on_test_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Lightning's hook."""
        self.end_epoch(trainer, pl_module, "test")

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Lightning's hook."""
        self.end_epoch(trainer, pl_module, "train")
