"""What of an augmentation lives as long as a step, a fit, a checkpoint; and several augmentations of one run."""

from __future__ import annotations

import warnings

import pytest
import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import ModelCheckpoint
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from lightning_saliency.callbacks import FilmConfig, MaskTune, SaliencyAugmentation
from lightning_saliency.callbacks.augmentation.swap import _LAYERS
from tests.callbacks.augmentation.helpers import Watching, equal, fit, originals
from tests.callbacks.monitor.helpers import loader


class _Raising(Watching):
    """Fails in its fourth step, as somebody's code may."""

    def training_step(self, batch, batch_idx):
        if len(self.given) == 3:
            raise RuntimeError("out of luck")
        return super().training_step(batch, batch_idx)


def _own(folder):
    """A guide with state of each kind: a copy of the network, a sum of maps, a count of batches."""
    return MaskTune("smoe", share=0.1, maps="mean", film=FilmConfig(num_images=2))


def _kept(path):
    states = torch.load(path, weights_only=False)["callbacks"]
    return next(state for name, state in states.items() if name.startswith("MaskTune"))


def test_a_checkpoint_of_a_fit_that_is_over_holds_what_one_of_its_last_step_does(tmp_path):
    saving = ModelCheckpoint(tmp_path / "kept", save_last=True)
    run = fit(tmp_path, None, Watching(), callbacks=[_own(tmp_path), saving], enable_checkpointing=True)
    run.save_checkpoint(tmp_path / "after.ckpt")
    after, last = _kept(tmp_path / "after.ckpt"), _kept(tmp_path / "kept" / "last.ckpt")
    assert set(after["guide"]) == {"mean", "network"}
    assert after["batches"] == 4
    assert equal(after, last)


def test_a_checkpoint_of_an_error_goes_on_with_the_same_guide(tmp_path):
    whole = Watching()
    fit(tmp_path / "whole", _own(tmp_path), whole, epochs=2)
    raising, callback = _Raising(), _own(tmp_path)
    with pytest.raises(RuntimeError, match="out of luck"):
        fit(tmp_path / "raising", callback, raising, epochs=2)
    state = callback.state_dict()
    assert state["batches"] == 3  # of the fourth, no step was made
    start = {name: tensor for name, tensor in state["guide"]["network"].items() if name.endswith("weight")}
    assert any(not torch.equal(tensor, raising.state_dict()[name]) for name, tensor in start.items())
    assert equal(raising.given, whole.given[:3])


def test_another_fit_of_the_same_callback_begins_anew(tmp_path):
    callback, first, second = SaliencyAugmentation("random_blobs", probability=0.5), Watching(), Watching()
    fit(tmp_path / "first", callback, first)
    fit(tmp_path / "second", callback, second)
    assert equal(first.given, second.given)
    other = DataLoader(TensorDataset(torch.rand(8, 3, 24, 24), torch.arange(8) % 3), batch_size=4)
    fit(tmp_path / "third", callback, Watching(), other)
    assert callback.state_dict()["sample"]["images"].shape[1:] == (3, 24, 24)


def test_a_fit_that_goes_on_keeps_its_guide(tmp_path):
    """With the same trainer, for some epochs more: the network of the start is that of the first fit."""
    callback, module = _own(tmp_path), Watching()
    run = fit(tmp_path, callback, module)
    start = callback.state_dict()["guide"]["network"]
    run.fit_loop.max_epochs = 2
    run.fit(module, loader())
    assert callback.state_dict()["batches"] == 8
    assert equal(callback.state_dict()["guide"]["network"], start)
    assert callback.state_dict()["guide"]["mean"]["count"] == 32


def test_each_fit_is_warned_for_itself(tmp_path):
    images = torch.rand(16, 3, 16, 16)
    data = DataLoader(TensorDataset(images, torch.arange(16) % 2), batch_size=8)
    cure = MaskTune("smoe", maps="shortcut", film=False)
    for folder in ("first", "second"):
        with pytest.warns(UserWarning, match="maps='shortcut'"):
            fit(tmp_path / folder, cure, Watching(), data)


def test_a_reason_that_changes_is_told(tmp_path):
    """Too few images to tell at first; then they tell that the class is all over the image."""
    labels = torch.arange(12) % 2
    images = torch.rand(12, 3, 16, 16) + 3.0 * labels[:, None, None, None]

    class More(pl.LightningDataModule):
        def train_dataloader(self):
            some = 4 if self.trainer.current_epoch == 0 else 12
            return DataLoader(TensorDataset(images[:some], labels[:some]), batch_size=4)

    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        fit(
            tmp_path,
            MaskTune("smoe", maps="shortcut", film=False),
            Watching(),
            More(),
            epochs=3,
            reload_dataloaders_every_n_epochs=1,
        )
    said = " ".join(str(one.message) for one in caught)
    assert said.count("too few images of each class") == 1
    assert said.count("lies all over the image") == 1


class _Batches(pl.LightningDataModule):
    """Hands out the same tensors in every epoch, as a loader of ready-made batches does."""

    def __init__(self, form):
        super().__init__()
        images, labels = originals(8), torch.arange(8) % 3
        rows = [slice(0, 4), slice(4, 8)]
        self.batches = {
            "tensors": lambda: [[images[part].clone(), labels[part].clone()] for part in rows],
            "lists": lambda: [{"image": images[part].clone(), "label": labels[part].tolist()} for part in rows],
        }[form]()

    def train_dataloader(self):
        return DataLoader(self.batches, batch_size=None)


class _ListLabels(Watching):
    def training_step(self, batch, batch_idx):
        if isinstance(batch, dict):
            batch = [batch["image"], torch.as_tensor(batch["label"])]
        return super().training_step(batch, batch_idx)


class _After(pl.Callback):
    """Sees the batch after both augmentations have ended their step."""

    def __init__(self):
        self.seen = []

    def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx):
        images = batch["image"] if isinstance(batch, dict) else batch[0]
        self.seen.append(images.clone())


@pytest.mark.parametrize("form", ["tensors", "lists"])
@pytest.mark.parametrize("keep_original", [False, True])
def test_two_augmentations_leave_the_batches_as_they_came(tmp_path, form, keep_original):
    data, before = _Batches(form), _Batches(form).batches
    first, second = (
        SaliencyAugmentation(
            "random_blobs", action="hide", film=False, keep_original=keep_original, seed=s, name=str(s)
        )
        for s in (1, 2)
    )
    module, after = _ListLabels(), _After()
    fit(tmp_path, None, module, data, callbacks=[first, second, after], epochs=3)
    assert equal(data.batches, before)
    assert [len(given) for given in module.given] == [16 if keep_original else 4] * 6
    assert not torch.equal(module.given[0], module.given[2])  # both act, anew in each epoch
    images = [batch["image"] if isinstance(batch, dict) else batch[0] for batch in before]
    assert equal(after.seen, images * 3)
    assert not _LAYERS


def test_two_that_replace_labels_leave_them_as_they_came(tmp_path):
    """Class probabilities in the place of classes cannot be pointed to, and are put into the batch."""
    data, before = _Batches("tensors"), _Batches("tensors").batches

    class Soft(Watching):
        def training_step(self, batch, batch_idx):
            self.given.append(batch[1].clone())
            return nn.functional.cross_entropy(self.net(batch[0]), batch[1])

    mixing = [SaliencyAugmentation("random_blobs", action="mix", film=False, seed=s, name=str(s)) for s in (1, 2)]
    module = Soft()
    fit(tmp_path, None, module, data, callbacks=mixing, epochs=2)
    assert equal(data.batches, before)
    assert all(given.shape == (4, 4) for given in module.given)
