"""What the processes of a run tell each other, so that none is ended for what another one can do."""

from __future__ import annotations

from typing import TypeVar

import pytorch_lightning as pl
import torch

Said = TypeVar("Said")


def which(trainer: pl.Trainer, mine: bool) -> list[bool]:
    """Of each process, whether it says yes. Called on every process alike.

    Args:
        trainer: The run.
        mine: What this process says.
    """
    if trainer.world_size == 1:
        return [mine]
    votes = torch.zeros(trainer.world_size, device=trainer.strategy.root_device)
    votes[trainer.global_rank] = float(mine)
    return [vote > 0 for vote in trainer.strategy.reduce(votes, reduce_op="sum").tolist()]


def of_process(trainer: pl.Trainer, rank: int, mine: Said) -> Said:
    """What one process says, on each of them. Called on every process alike.

    Args:
        trainer: The run.
        rank: The process.
        mine: What this process says.
    """
    if trainer.world_size == 1:
        return mine
    said: Said = trainer.strategy.broadcast(mine, src=rank)
    return said


def named(ranks: list[int], world_size: int) -> str:
    """Processes by their numbers, for a sentence.

    Example:
        >>> named([1], 2), named([0, 2], 4)
        ('process 1 of 2', 'processes 0, 2 of 4')
    """
    return f"process{'es' if len(ranks) > 1 else ''} {', '.join(map(str, ranks))} of {world_size}"


def agree_to_refuse(trainer: pl.Trainer, error: ValueError | None) -> str | None:
    """Raise the error where no process can do without; else say what keeps some of them from it.

    Called on every process alike, before anything can be lost.

    Args:
        trainer: The run.
        error: What keeps this process from it, if anything does.

    Returns:
        Which processes, and the error of the first of them; ``None`` where there is none.

    Raises:
        ValueError: The error of this process, if each has one.
    """
    refused = [rank for rank, failed in enumerate(which(trainer, error is not None)) if failed]
    if not refused:
        return None
    if len(refused) == trainer.world_size and error is not None:
        raise error
    said = of_process(trainer, refused[0], None if error is None else str(error.__cause__ or error))
    return f"This is so in {named(refused, trainer.world_size)}, and the run goes on with the others. {said}"
