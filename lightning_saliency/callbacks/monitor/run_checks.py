"""What is checked of a run and its network before anything is read."""

from __future__ import annotations

import pytorch_lightning as pl

from lightning_saliency.callbacks._trainer_lookups import builds_late, is_sharded, watched_module
from lightning_saliency.callbacks._warnings import warn
from lightning_saliency.callbacks.monitor.film import MonitorFilm
from lightning_saliency.callbacks.monitor.options import MonitorConfigurationError, check_layers
from lightning_saliency.callbacks.monitor.shown import ShownImages
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


def mind_shards(trainer: pl.Trainer, module: pl.LightningModule, film: MonitorFilm, shown: ShownImages) -> bool:
    """Whether parameters are spread over processes; then nothing is left that runs the network in one of them.

    Args:
        trainer: The run.
        module: Its module.
        film: Leaves out the views that run the network.
        shown: May be the user's own images, which one process runs the network on.

    Raises:
        MonitorConfigurationError: If they are.
    """
    if not is_sharded(trainer, module):
        return False
    if shown.own is not None:
        raise MonitorConfigurationError(
            "Got images= with a network whose parameters are spread over processes. Allowed is a whole network, since "
            "one process runs it on them; leave images= out."
        )
    if film.class_views:
        warn(
            f"SaliencyMonitor leaves out the views {', '.join(film.class_views)}: the network's parameters are spread "
            "over processes, and a class-specific view runs the network in one of them. The other views and the "
            "scalars are read in the module's own passes and do not need it."
        )
        film.leave_out_class_views()
    return True
