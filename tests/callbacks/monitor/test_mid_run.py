"""What is found out in mid-run, when there is something to lose: it ends no run, and is said."""

import logging
import warnings

import pytest
import pytorch_lightning as pl
import torch
from torch import nn
from torch.utils.data import DataLoader

from lightning_saliency.callbacks import SaliencyMonitor
from lightning_saliency.pictures.film import Film
from tests.callbacks.monitor.helpers import Module, Pictures, Recorder, loader, trainer


def _film(tmp_path):
    return Film(tmp_path / "recorder" / "v" / "saliency")


@pytest.mark.parametrize("images", [None, torch.rand(2, 3, 16, 16)])
def test_a_module_that_grows_in_mid_run_costs_the_film_alone(tmp_path, images):
    """What would be refused before training is a warning once there is something to lose."""

    class Growing(Module):
        forward = pl.LightningModule.forward

        def training_step(self, batch, batch_idx):
            return nn.functional.cross_entropy(self.net(batch["image"]), batch["label"])

        def validation_step(self, batch, batch_idx):
            return self.net(batch["image"])

        def on_train_epoch_start(self):
            if self.current_epoch == 1:
                self.probe = nn.Linear(4, 4)

    data = loader(form="dict")
    run = trainer(tmp_path, SaliencyMonitor(num_images=2, images=images), epochs=3)
    with pytest.warns(UserWarning, match="SaliencyMonitor could not.*say which one to watch with model='name'"):
        run.fit(Growing(), data, data)
    assert run.current_epoch == 3
    assert [frame.epoch for frame in _film(tmp_path).frames("overview")][:2] == [-1, 0]


class _OwnSteps(Module):
    """Steps optimisers of its own, which Lightning does not count."""

    def __init__(self, net=None):
        super().__init__(net)
        self.automatic_optimization = False

    def training_step(self, batch, batch_idx):
        optimizer = self.optimizers(use_pl_optimizer=False)
        optimizer.zero_grad()
        self.manual_backward(super().training_step(batch, batch_idx))
        optimizer.step()


def test_a_run_whose_steps_lightning_does_not_count_is_not_ended_after_training(tmp_path):
    module = _OwnSteps(nn.Sequential(nn.Flatten(), nn.Linear(768, 4)))
    run = trainer(tmp_path, SaliencyMonitor(), epochs=2, num_sanity_val_steps=0)
    with pytest.warns(UserWarning, match="SaliencyMonitor could not read the maps"):
        run.fit(module, loader(), loader())
    assert run.global_step == 0
    assert len(module.losses) == 8


def test_a_resumed_run_whose_steps_lightning_does_not_count_has_one_start(tmp_path):
    run = trainer(tmp_path, SaliencyMonitor(num_images=2), epochs=1, enable_checkpointing=True)
    run.fit(_OwnSteps(), loader(), loader())
    run.save_checkpoint(tmp_path / "last.ckpt")
    again = trainer(tmp_path, SaliencyMonitor(num_images=2), epochs=2)
    again.fit(_OwnSteps(), loader(), loader(), ckpt_path=tmp_path / "last.ckpt")
    assert [(frame.epoch, frame.step) for frame in _film(tmp_path).frames("overview")] == [(-1, 0), (0, 3), (1, 7)]


class _Fetching(Module):
    """Its steps fetch their batches themselves."""

    def training_step(self, dataloader_iter):
        return super().training_step(next(dataloader_iter)[0], 0)

    def validation_step(self, dataloader_iter):
        return super().validation_step(next(dataloader_iter)[0], 0)


@pytest.mark.parametrize(("stage", "step"), [("validate", "validation_step"), ("train", "training_step")])
@pytest.mark.parametrize("every", [1, 2])
def test_steps_that_fetch_their_batches_are_not_watched_and_not_refused(tmp_path, recwarn, stage, step, every):
    run = trainer(tmp_path, SaliencyMonitor(stage=stage, every_n_epochs=every), epochs=2, num_sanity_val_steps=0)
    run.fit(_Fetching(), loader(), loader())
    assert run.current_epoch == 2
    (told,) = [str(each.message) for each in recwarn if "SaliencyMonitor" in str(each.message)]
    assert "switched off" in told
    assert f"{step} takes dataloader_iter" in told
    assert not list(tmp_path.rglob("*.png"))


def test_warnings_that_are_errors_end_no_run(tmp_path, caplog):
    class Shifted(Pictures):
        def __getitem__(self, index):
            image, label = super().__getitem__(index)
            return image * 4 - 2, label

    class Failing(Recorder):
        def log_metrics(self, metrics, step=None):
            if any(name.startswith("saliency") for name in metrics) and step == 0:
                raise OSError("disk full")

    run = trainer(tmp_path, SaliencyMonitor(indices=[1, 99]), logger=Failing(tmp_path), epochs=2)
    data = DataLoader(Shifted(8), batch_size=4)
    with caplog.at_level(logging.INFO), warnings.catch_warnings():
        warnings.filterwarnings("error", message="SaliencyMonitor")
        run.fit(Module(), data, data)
    assert run.current_epoch == 2
    for told in ("disk full", "does not know how the images were normalised"):
        assert any(told in record.getMessage() for record in caplog.records)


@pytest.mark.parametrize("at", [0, 2])
def test_an_epoch_that_is_left_before_a_step_leaves_nothing_behind(tmp_path, recwarn, at):
    hooks, waiting = [], []

    class Leaving(Module):
        def on_train_batch_start(self, batch, batch_idx):
            return -1 if batch_idx == at and self.current_epoch == 1 else None

    class Watch(pl.Callback):
        def on_train_epoch_start(self, run, module):
            hooks.append(sum(len(each._forward_hooks) + len(each._forward_pre_hooks) for each in module.modules()))
            waiting.append(monitor._watching.reading.waits)

    monitor = SaliencyMonitor(num_images=2, stage="train")
    run = trainer(tmp_path, monitor, Watch(), epochs=4, limit_val_batches=0)
    run.fit(Leaving(), loader(form="dict"))
    assert hooks == [0] * 4
    assert waiting == [False] * 4
    epochs = [frame.epoch for frame in _film(tmp_path).frames("overview")]
    assert epochs == ([0, 1, 2, 3] if at else [0, 2, 3])
    told = [str(each.message) for each in recwarn if "SaliencyMonitor could not" in str(each.message)]
    assert len(told) == (0 if at else 1)


class _WithoutBatches(pl.LightningDataModule):
    """Trains on something, and validates on nothing."""

    def train_dataloader(self):
        return loader()

    def val_dataloader(self):
        return []

    test_dataloader = val_dataloader


@pytest.mark.parametrize("case", ["no loaders", "validation comes too late", "no test", "interrupted", "all is well"])
def test_a_run_whose_stage_never_came_is_told_of_once(tmp_path, recwarn, case):
    class Interrupting(pl.Callback):
        def on_train_batch_end(self, *_):
            if case == "interrupted":
                raise RuntimeError("on purpose")

    monitor = SaliencyMonitor(num_images=2, stage="test" if case == "no test" else "validate")
    options = {"check_val_every_n_epoch": 9, "num_sanity_val_steps": 0} if case == "validation comes too late" else {}
    run = trainer(tmp_path, monitor, Interrupting(), **options)
    if case == "no test":
        run.test(Module(), datamodule=_WithoutBatches(), verbose=False)
    elif case == "interrupted":
        with pytest.raises(RuntimeError, match="on purpose"):
            run.fit(Module(), datamodule=_WithoutBatches())
    elif case == "no loaders":
        run.fit(Module(), datamodule=_WithoutBatches())
    else:
        run.fit(Module(), loader(), loader())
    told = [str(each.message) for each in recwarn if "SaliencyMonitor" in str(each.message)]
    if case in ("interrupted", "all is well"):
        assert told == []
    else:
        (message,) = told
        assert f"no batch of stage={monitor.stage!r}" in message
