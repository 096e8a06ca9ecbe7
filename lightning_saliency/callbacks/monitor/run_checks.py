"""What is checked of a run before it has data."""

from __future__ import annotations

import pytorch_lightning as pl

from lightning_saliency.callbacks._trainer_lookups import builds_late, watched_module
from lightning_saliency.callbacks.monitor.options import MonitorConfigurationError, check_layers
from lightning_saliency.scales.reader import Layers


def check_run(
    trainer: pl.Trainer, module: pl.LightningModule, stage: str, model: str | None, layers: Layers
) -> str | None:
    """Look up the network and its layers, and whether the stage will come; to be called in ``setup``.

    Args:
        trainer: The run.
        module: Its module.
        stage: The loop that is watched.
        model: Dotted path of the submodule to watch, or ``None``.
        layers: The scales, or ``"auto"``.

    Returns:
        Why there is nothing to watch, one sentence or more; ``None`` where there is something.

    Raises:
        MonitorConfigurationError: If the run cannot be watched as it is configured.
    """
    if not builds_late(module):
        check_layers(watched_module(module, model, MonitorConfigurationError), layers)
    if trainer.state.fn != "fit" or stage != "validate" or trainer.enable_validation:
        return None
    if trainer.limit_val_batches == 0:
        return "limit_val_batches is 0, so there is no validation to watch."
    raise MonitorConfigurationError(
        "SaliencyMonitor watches validation, but this run has none: give validation data and a validation_step, or "
        "watch training with SaliencyMonitor(stage='train')."
    )
