"""``fit``, ``validate`` and ``test``: LightningCLI on any module and data module."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from typing import Any

import pytorch_lightning as pl
from pytorch_lightning.cli import LightningArgumentParser, LightningCLI, SaveConfigCallback

from lightning_saliency.cli.parsing.parser import CommandParser
from lightning_saliency.files import location


def fit(arguments: Sequence[str]) -> int:
    """Train a network.

    Args:
        arguments: For example ``["--config", "configs/digit_scenes.yaml", "--trainer.max_epochs", "3"]``.

    Returns:
        0; errors in the arguments end the process with status 2, as LightningCLI does.
    """
    return _run("fit", arguments)


def validate(arguments: Sequence[str]) -> int:
    """Run a network on the validation data; arguments and status as for `fit`."""
    return _run("validate", arguments)


def test(arguments: Sequence[str]) -> int:
    """Run a network on the test data; arguments and status as for `fit`."""
    return _run("test", arguments)


def _run(subcommand: str, arguments: Sequence[str]) -> int:
    # LightningCLI warns where it is handed arguments although the process has some; these are the same.
    warnings.filterwarnings("ignore", message="LightningCLI's args parameter is intended")
    _CLI(
        pl.LightningModule,
        pl.LightningDataModule,
        subclass_mode_model=True,
        subclass_mode_data=True,
        save_config_callback=SaveConfigBeside,
        parser_kwargs={"prog": "lightning-saliency"},
        args=[subcommand, *arguments],
    )
    return 0


class _Parser(CommandParser, LightningArgumentParser):
    """LightningCLI's parser, with errors that name the option meant."""


class _CLI(LightningCLI):
    """LightningCLI with this parser."""

    def init_parser(self, **kwargs: Any) -> LightningArgumentParser:
        """Lightning's hook."""
        self.parser_class = _Parser
        return super().init_parser(**kwargs)


class SaveConfigBeside(SaveConfigCallback):
    """Saves the configuration of a run beside whatever is there: ``config.yaml``, else ``config_1.yaml`` and so on.

    Without a logger that is the folder in which the command was started, where ``config.yaml`` may be the user's own.
    """

    def setup(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        """Lightning's hook."""
        folder = trainer.log_dir  # of every process: they tell it one another
        if trainer.is_global_zero and not self.already_saved and folder is not None:
            place, number = location(folder), 0
            while (place / self.config_filename).exists():
                number += 1
                self.config_filename = f"config_{number}.yaml"
        super().setup(trainer, pl_module, stage)
