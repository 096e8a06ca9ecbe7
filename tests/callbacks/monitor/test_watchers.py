"""Callbacks that watch a value of the monitor: what is never measured is told of, before it ends a run in silence."""

from __future__ import annotations

import pytest
import torch
from pytorch_lightning.callbacks import EarlyStopping, ModelCheckpoint

from lightning_saliency.callbacks import MonitorConfigurationError, SaliencyMonitor
from tests.callbacks.monitor.helpers import Module, loader, trainer


def _fit(folder, *callbacks, module=None, val=None, epochs=2, **options):
    run = trainer(folder, *callbacks, epochs=epochs, **options)
    run.fit(module or Module(), loader(8), val or loader(8))
    return run


@pytest.mark.parametrize(
    ("options", "name", "said"),
    [
        ({"position_images": 0}, "position_bias", "position_images=0: .* saliency/energy_in_box, .*saliency/drift"),
        ({"position_images": 0}, "shortcut_alert", "position_images=0"),
        ({"alert": None}, "shortcut_alert", "alert=None: .*saliency/position_bias"),
        ({"stage": "train"}, "drift", "stage='train'"),
    ],
)
@pytest.mark.parametrize("watcher", [EarlyStopping, ModelCheckpoint])
def test_a_run_that_waits_for_what_is_never_measured_is_refused(tmp_path, options, name, said, watcher):
    module, other = Module(), watcher(monitor=f"saliency/{name}")
    checkpoints = watcher is ModelCheckpoint
    with pytest.raises(
        MonitorConfigurationError, match=rf"Got {watcher.__name__}\(monitor='saliency/{name}'\).*{said}"
    ):
        _fit(tmp_path, SaliencyMonitor(**options), other, module=module, enable_checkpointing=checkpoints)
    assert module.losses == []


def test_drift_of_the_users_own_images_is_measured_in_training_too(tmp_path):
    monitor = SaliencyMonitor(stage="train", images=torch.rand(2, 3, 16, 16))
    run = _fit(tmp_path, monitor, EarlyStopping("saliency/drift", patience=9))
    assert run.current_epoch == 2


@pytest.mark.parametrize("objects", [True, False])
def test_what_is_watched_and_was_not_measured_is_told_of_once(tmp_path, recwarn, objects):
    data = loader(form="dict" if objects else "tuple")
    monitor = SaliencyMonitor(num_images=2, every_n_epochs=2)
    run = _fit(tmp_path, monitor, EarlyStopping("saliency/energy_in_box", mode="max", patience=9), val=data, epochs=4)
    said = [str(each.message) for each in recwarn if "has measured no" in str(each.message)]
    assert len(said) == (0 if objects else 1)
    assert objects or "no saliency/energy_in_box, which EarlyStopping watches: it needs batches with boxes" in said[0]
    assert run.current_epoch == 4
