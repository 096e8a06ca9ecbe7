"""Which epochs, or which rounds of validation, have a frame."""

from __future__ import annotations

from collections.abc import Mapping

import pytorch_lightning as pl

from lightning_saliency.callbacks._trainer_lookups import has_trained


class Schedule:
    """Decides when a frame is due.

    Args:
        every_n_epochs: Frames come every n-th epoch, or every n-th round where epochs are not what is counted.
        stage: The loop that is watched.
        log_at_start: Whether the trainer's sanity check has a frame.

    Attributes:
        last_epoch: The epoch of the last frame of training; -1 before there was one.
        rounds: How many validations of training have ended.
    """

    def __init__(self, every_n_epochs: int, stage: str, log_at_start: bool) -> None:
        self.every_n_epochs = every_n_epochs
        self.stage = stage
        self.log_at_start = log_at_start
        self.last_epoch = -1
        self.rounds = 0

    def is_due(self, trainer: pl.Trainer) -> bool:
        """Whether the epoch or round that begins has a frame."""
        if trainer.sanity_checking:
            return self.log_at_start and not has_trained(trainer)
        if trainer.state.fn != "fit":
            return True
        if is_endless(trainer) if self.stage == "train" else trainer.check_val_every_n_epoch is None:
            return (self.rounds + 1) % self.every_n_epochs == 0
        # Where not every epoch has a validation: the first one at or after each n-th.
        epoch, n = trainer.current_epoch, self.every_n_epochs
        return epoch == self.last_epoch or (epoch + 1) // n > (self.last_epoch + 1) // n

    def took(self, trainer: pl.Trainer) -> None:
        """A frame was taken."""
        if _trains(trainer):
            self.last_epoch = trainer.current_epoch

    def ended(self, trainer: pl.Trainer, stage: str) -> None:
        """An epoch of a stage has ended."""
        if stage == "validate" and _trains(trainer):
            self.rounds += 1

    def state_dict(self) -> dict[str, int]:
        """How far training has come."""
        return {"last_epoch": self.last_epoch, "rounds": self.rounds}

    def load_state_dict(self, state: Mapping[str, int]) -> None:
        """Go on where the checkpoint was made."""
        self.last_epoch, self.rounds = state["last_epoch"], state["rounds"]


def _trains(trainer: pl.Trainer) -> bool:
    """Whether an epoch is one of training, or validates it."""
    return trainer.state.fn == "fit" and not trainer.sanity_checking


def is_endless(trainer: pl.Trainer) -> bool:
    """Whether an epoch of training has no end that is known, in a run that trains."""
    return _trains(trainer) and trainer.num_training_batches == float("inf")
