"""``fit``, ``validate`` and ``test``: LightningCLI on any module and data module."""

from __future__ import annotations

import sys
from collections.abc import Sequence

import pytorch_lightning as pl
from pytorch_lightning.cli import LightningCLI


def run(subcommand: str, arguments: Sequence[str]) -> int:
    """Run one of LightningCLI's subcommands.

    Args:
        subcommand: ``"fit"``, ``"validate"`` or ``"test"``.
        arguments: For example ``["--config", "configs/digit_scenes.yaml", "--trainer.max_epochs", "3"]``.

    Returns:
        0; errors in the arguments end the process with status 2, as LightningCLI does.
    """
    given = [subcommand, *arguments]
    LightningCLI(
        pl.LightningModule,
        pl.LightningDataModule,
        subclass_mode_model=True,
        subclass_mode_data=True,
        save_config_kwargs={"overwrite": True},
        parser_kwargs={"prog": "lightning-saliency"},
        # LightningCLI warns where it is handed arguments although the process has some: let it read its own.
        args=None if sys.argv[1:] == given else given,
    )
    return 0
