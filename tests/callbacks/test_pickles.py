"""Callbacks pickle and copy before, during and after a run, as other processes need them; the copies work."""

from __future__ import annotations

import copy
import pickle

import lightning.pytorch
import pytest
import pytorch_lightning as pl

from lightning_saliency import (
    GroupCAMAugmentation,
    ImageClassifier,
    SaliencyAugmentation,
    SaliencyMonitor,
    SaliencyWriter,
)
from lightning_saliency.data import DigitScenes, SaliencyStore, whole_image_loaders
from lightning_saliency.pictures.film import Film
from tests.callbacks.monitor.helpers import SmallNet, loader

MAKE = {
    "monitor": lambda: SaliencyMonitor(num_images=2, views=("combined", "grad_cam")),
    "monitor of training": lambda: SaliencyMonitor(num_images=2, views=("combined",), stage="train"),
    "augmentation": lambda: SaliencyAugmentation("random_blobs", film={"num_images": 2}),
    "preset": lambda: GroupCAMAugmentation(groups=2, film={"num_images": 2}),
}


def run_of(package, folder, *callbacks):
    return package.Trainer(
        accelerator="cpu",
        max_epochs=1,
        default_root_dir=folder,
        logger=package.loggers.CSVLogger(folder, name="run"),
        callbacks=list(callbacks),
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )


class Pickling(pl.Callback):
    """Pickles and copies the trainer's other callbacks at every hook."""

    def __init__(self) -> None:
        self.kept: dict[str, bytes] = {}

    def keep(self, trainer, where):
        [other] = [each for each in trainer.callbacks if type(each).__module__.startswith("lightning_saliency")]
        self.kept[where] = pickle.dumps(other)
        assert copy.deepcopy(other).state_key == other.state_key

    def on_fit_start(self, trainer, module):
        self.keep(trainer, "fit")

    def on_train_batch_start(self, trainer, module, batch, batch_idx):
        self.keep(trainer, "before a training batch")

    def on_before_backward(self, trainer, module, loss):
        self.keep(trainer, "inside a training step")

    def on_train_batch_end(self, trainer, module, outputs, batch, batch_idx):
        self.keep(trainer, "after a training batch")

    def on_validation_batch_start(self, trainer, module, batch, batch_idx, dataloader_idx=0):
        self.keep(trainer, "before a validation batch")

    def on_validation_batch_end(self, trainer, module, outputs, batch, batch_idx, dataloader_idx=0):
        self.keep(trainer, "after a validation batch")

    def on_train_epoch_end(self, trainer, module):
        self.keep(trainer, "end")


@pytest.mark.parametrize(
    ("name", "package"), list(zip(MAKE, (lightning.pytorch, pl, pl, lightning.pytorch), strict=True)), ids=list(MAKE)
)
def test_before_during_and_after_fit(tmp_path, package, name):
    callback = MAKE[name]()
    kept = {"before": pickle.dumps(callback)}
    pickling = Pickling()
    module = ImageClassifier(SmallNet(), 4)
    hooks = {key: len(each._forward_hooks) for key, each in module.named_modules()}
    run_of(package, tmp_path / "a", callback, pickling).fit(module, loader(4), loader(4))
    kept |= {**pickling.kept, "after": pickle.dumps(callback)}
    assert len(kept) == 9
    assert {key: len(each._forward_hooks) for key, each in module.named_modules()} == hooks
    for number, where in enumerate(("after a training batch", "before a validation batch", "after")):
        again = pickle.loads(kept[where])
        folder = tmp_path / str(number)
        run_of(package, folder, again).fit(ImageClassifier(SmallNet(), 4), loader(4), loader(4))
        film = Film(folder / "run" / "version_0" / again.name)
        assert film.frames("combined" if "monitor" in name else "augmentation"), where


def test_a_writer_in_the_middle_of_its_store(tmp_path):
    kept = []

    class Keeps(pl.Callback):
        def on_predict_batch_end(self, trainer, module, outputs, batch, batch_idx, dataloader_idx=0):
            kept.append(pickle.dumps(trainer.callbacks[0]))

    images = whole_image_loaders(DigitScenes(4, 4, 4, size=32, batch_size=4), 32, stages=("test",))["test"]
    module = ImageClassifier("small_cnn", 10)
    run_of(pl, tmp_path, SaliencyWriter(tmp_path / "a", "smoe", model="model"), Keeps()).predict(module, images)
    again = pickle.loads(kept[0])
    run_of(pl, tmp_path, again).predict(module, images)
    assert len(SaliencyStore.open(tmp_path / "a")) == 4


@pytest.mark.parametrize(
    "make",
    [
        lambda: SaliencyMonitor(views={"mine": lambda model: None}),
        lambda: SaliencyAugmentation(lambda model: None),
        lambda: SaliencyWriter("maps", lambda model: None),
    ],
)
def test_what_cannot_be_pickled_is_named_by_pickle(make):
    with pytest.raises((AttributeError, pickle.PicklingError), match="lambda"):
        pickle.dumps(make())
