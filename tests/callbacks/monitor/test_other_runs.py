"""A monitor in runs that it does not watch, and in those of checkpoints: it refuses nothing and keeps its film."""

import pytest
import pytorch_lightning as pl
import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from lightning_saliency.callbacks import SaliencyMonitor, write_maps
from lightning_saliency.data import whole_images
from lightning_saliency.explainers import SMOE
from tests.callbacks.monitor.helpers import Module, loader, trainer


class _Heads(pl.LightningModule):
    """Has no network that could be watched without being told which."""

    def __init__(self):
        super().__init__()
        self.one, self.other = nn.Linear(2, 2), nn.Linear(2, 2)

    def predict_step(self, batch, batch_idx):
        return self.one(batch[0])

    def test_step(self, batch, batch_idx):
        self.log("loss", self.other(batch[0]).mean())


def _pairs():
    return DataLoader(TensorDataset(torch.rand(4, 2)), 2)


def _files(folder):
    return {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.mark.parametrize("used", [False, True])
@pytest.mark.parametrize("stage", ["validate", "train"])
def test_a_run_that_is_not_watched_is_not_refused(tmp_path, stage, used):
    monitor = SaliencyMonitor(num_images=2, stage=stage)
    if used:
        trainer(tmp_path, monitor, logger=False).fit(Module(), loader(), loader())
    before, state = _files(tmp_path), repr(monitor.state_dict())
    run = trainer(tmp_path, monitor, logger=False)
    run.predict(_Heads(), _pairs())
    run.test(_Heads(), _pairs(), verbose=False)
    assert _files(tmp_path) == before
    assert repr(monitor.state_dict()) == state


def test_the_trainer_of_a_monitor_writes_maps(tmp_path):
    module = Module()
    run = trainer(tmp_path, SaliencyMonitor(num_images=2), epochs=1)
    run.fit(module, loader(), loader())
    images = DataLoader(whole_images(TensorDataset(torch.rand(4, 3, 16, 16)), 16), batch_size=4)
    assert write_maps(tmp_path / "maps", SMOE(module.net), images, run)


def test_values_of_a_run_that_is_not_watched_stay_out_of_the_film(tmp_path):
    """A monitor of the training keeps what a validation of its trainer logs out of the training run's film."""
    module, monitor = Module(), SaliencyMonitor(num_images=2, stage="train")
    run = trainer(tmp_path, monitor, logger=False, epochs=2)
    run.fit(module, loader(), loader())
    before = _files(tmp_path)
    run.validate(module, loader(), verbose=False)
    assert _files(tmp_path) == before


def test_a_test_after_training_loses_no_folder(tmp_path):
    trainer(tmp_path, SaliencyMonitor(num_images=2), logger=False, epochs=1).fit(Module(), loader(), loader())
    module = Module()
    run = trainer(tmp_path, SaliencyMonitor(num_images=2), logger=False, epochs=1, enable_checkpointing=True)
    run.fit(module, loader(), loader())
    run.test(module, loader(), verbose=False)
    run.save_checkpoint(tmp_path / "last.ckpt")
    again = trainer(tmp_path, SaliencyMonitor(num_images=2), logger=False, epochs=2)
    again.fit(Module(), loader(), loader(), ckpt_path=tmp_path / "last.ckpt")
    assert sorted(path.name for path in tmp_path.glob("version_*")) == ["version_1"]
    epochs = sorted(path.name[:10] for path in (tmp_path / "version_1").rglob("overview/*.png"))
    assert epochs == ["epoch=0000", "epoch=0001", "start-step"]


@pytest.mark.parametrize("stage", ["validate", "test"])
def test_measuring_a_checkpoint_leaves_the_film_of_its_training(tmp_path, stage):
    """Also a new trainer, and another monitor: what it measures begins anew, in a folder of its own."""
    monitors = [SaliencyMonitor(num_images=2), SaliencyMonitor(num_images=2, stage="test", name="tested")]
    run = trainer(tmp_path, *monitors, logger=False, epochs=2, enable_checkpointing=True)
    run.fit(Module(), loader(), loader())
    run.test(run.lightning_module, loader(), verbose=False)
    run.save_checkpoint(tmp_path / "last.ckpt")
    before = _files(tmp_path)
    again = [SaliencyMonitor(num_images=2, indices="worst"), SaliencyMonitor(2, 2, stage="test", name="tested")]
    second = trainer(tmp_path, *again, logger=False)
    getattr(second, stage)(Module(), loader(), ckpt_path=tmp_path / "last.ckpt", verbose=False)
    after = _files(tmp_path)
    assert {path: after[path] for path in before} == before
    new = {path.relative_to(tmp_path).parts[0] for path in after.keys() - before.keys()}
    assert new == {"version_1"}
    if stage == "test":
        return
    # As without the checkpoint: other images than the first ones are chosen.
    alone = SaliencyMonitor(num_images=2, indices="worst")
    module = Module()
    module.load_state_dict(torch.load(tmp_path / "last.ckpt", weights_only=False)["state_dict"])
    trainer(tmp_path / "alone", alone, logger=False).validate(module, loader(), verbose=False)
    prints = [monitor._sample.fingerprints for monitor in (again[0], alone)]
    assert all(torch.equal(one, other) for one, other in zip(*prints, strict=True))
