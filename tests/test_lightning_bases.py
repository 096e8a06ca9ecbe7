"""Callbacks, modules and data modules in Lightning's two packages: in either one's Trainer, as its own."""

from __future__ import annotations

import ast
import importlib
import importlib.util
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import lightning.pytorch
import pytest
import pytorch_lightning as pl
import torch
from lightning.pytorch.utilities import model_helpers as other_helpers
from pytorch_lightning.utilities import model_helpers
from torch.utils.data import DataLoader, TensorDataset

from lightning_saliency import (
    GroupCAMAugmentation,
    ImageClassifier,
    ImageFolderDataModule,
    RoarKarDataModule,
    SaliencyMonitor,
    SaliencyWriter,
    lightning_bases,
)
from lightning_saliency.callbacks.saliency_writer import write_maps
from lightning_saliency.data import ArrayImagesDataModule, DigitScenes, SaliencyStore, whole_image_loaders
from lightning_saliency.explainers import SMOE
from lightning_saliency.lightning_bases import is_callback_class, is_data_module, lightning_parent, trainer_class
from lightning_saliency.networks import small_cnn
from lightning_saliency.pictures.film import Film
from lightning_saliency.studies.layer_masking.mask import LayerMask
from tests.callbacks.monitor.helpers import Recorder

HELPERS = {pl: model_helpers, lightning.pytorch: other_helpers}
both = pytest.mark.parametrize("package", list(HELPERS), ids=lambda package: package.__name__)
crossed = pytest.mark.parametrize("of_base", list(HELPERS), ids=lambda package: f"base of {package.__name__}")


def trainer(package: ModuleType, *callbacks: Any, **options: Any) -> Any:
    quiet = {"logger": False, "enable_checkpointing": False, "enable_progress_bar": False}
    return package.Trainer(
        accelerator="cpu",
        max_epochs=1,
        enable_model_summary=False,
        num_sanity_val_steps=0,
        callbacks=list(callbacks),
        **{**quiet, **options},
    )


def scenes() -> DigitScenes:
    return DigitScenes(16, 8, 8, size=32, batch_size=4)


def classifier() -> ImageClassifier:
    torch.manual_seed(3)
    return ImageClassifier("small_cnn", 10, learning_rate=0.01)


def plain_data(package: ModuleType, **also: Any) -> Any:
    """A user's data module that has training images and what is given, and nothing else."""

    def train_dataloader(self: Any) -> DataLoader:
        images = torch.rand(8, 3, 16, 16, generator=torch.Generator().manual_seed(1))
        return DataLoader(TensorDataset(images, torch.arange(8) % 4), batch_size=4)

    return type("Plain", (package.LightningDataModule,), {"train_dataloader": train_dataloader, **also})()


def overridden(package: ModuleType, module: Any, parent: type) -> set[str]:
    """The hooks that Lightning takes as the module's own."""
    helpers = HELPERS[package]
    methods = (name for name in dir(parent) if not name.startswith("__") and name != "load_from_checkpoint")
    return {
        name
        for name in methods
        if hasattr(getattr(parent, name), "__code__") and helpers.is_overridden(name, module, parent)
    }


def test_a_whole_run_is_the_same_in_both(tmp_path):
    runs = {}
    for package in HELPERS:
        pl.seed_everything(5)
        folder = tmp_path / package.__name__
        recorder = Recorder(folder) if package is pl else OtherRecorder(folder)
        monitor = SaliencyMonitor(num_images=2, views=("lovi", "fast_cam"))
        augmentation = GroupCAMAugmentation(groups=4, film={"num_images": 2})
        run, module, data = trainer(package, monitor, augmentation, logger=recorder), classifier(), scenes()
        run.fit(module, data)
        numbers = {**run.callback_metrics, **run.validate(module, data, verbose=False)[0]}
        numbers |= run.test(module, data, verbose=False)[0]
        predicted = torch.cat(run.predict(module, data))
        films = {}
        for name, keys in (("saliency", ("lovi", "fast_cam")), ("group_cam", ("augmentation",))):
            film = Film(folder / "recorder" / "v" / name)
            films |= {key: [frame.epoch for frame in film.frames(key)] for key in keys}
        runs[package] = (numbers, predicted, films, module.state_dict())
    numbers, predicted, films, weights = runs[pl]
    assert {"saliency/drift", "val/accuracy", "test/loss", "group_cam/kept_share"} <= set(numbers)
    assert all(films.values())
    assert len(predicted) == 8
    others = runs[lightning.pytorch]
    assert {name: float(value) for name, value in numbers.items()} == {
        name: float(value) for name, value in others[0].items()
    }
    assert torch.equal(predicted, others[1])
    assert films == others[2]
    assert all(torch.equal(value, others[3][name]) for name, value in weights.items())


class OtherRecorder(lightning.pytorch.loggers.Logger):
    name, version = "recorder", "v"

    def __init__(self, folder: Any) -> None:
        super().__init__()
        self.folder = str(folder)

    @property
    def save_dir(self) -> str:
        return self.folder

    def log_metrics(self, metrics: Any, step: Any = None) -> None:
        pass

    def log_hyperparams(self, params: Any, *args: Any, **kwargs: Any) -> None:
        pass


@both
def test_maps_are_written_by_either_trainer(tmp_path, package):
    network = small_cnn()
    loaders = whole_image_loaders(scenes(), 32, stages=("test",))
    write_maps(tmp_path / "a", SMOE(network), loaders["test"], trainer(package))
    write_maps(tmp_path / "b", SMOE(network), loaders["test"], trainer(pl))
    assert len(SaliencyStore.open(tmp_path / "a")) == 8
    assert torch.equal(SaliencyStore.open(tmp_path / "a")[:], SaliencyStore.open(tmp_path / "b")[:])
    run = trainer(package, SaliencyWriter(tmp_path / "c", "smoe", model="model"))
    run.predict(classifier(), loaders["test"], return_predictions=False)
    assert len(SaliencyStore.open(tmp_path / "c")) == 8


@both
@crossed
def test_masked_data_of_a_base_of_either_package(package, of_base):
    seen = []
    base = plain_data(of_base, on_after_batch_transfer=lambda self, batch, index: seen.append(index) or batch)
    masked = RoarKarDataModule(base, SMOE(small_cnn()), fraction=0.25, fill=0.0)
    module = ImageClassifier("small_cnn", 4)
    run = trainer(package)
    run.fit(module, masked)
    assert run.global_step == 2
    assert len(seen) >= 2
    assert run.num_val_batches in (0, [])  # the base has no validation, and nobody looks for one
    assert overridden(package, masked, package.LightningDataModule).isdisjoint(
        {"val_dataloader", "test_dataloader", "predict_dataloader", "prepare_data", "transfer_batch_to_device"}
    )
    # Not through run.test(): an error in a loader leaves Lightning's patches of DataLoader behind.
    with pytest.raises(Exception, match="`test_dataloader` must be implemented"):
        masked.test_dataloader()


@pytest.mark.parametrize(
    "make",
    [
        classifier,
        scenes,
        lambda: ArrayImagesDataModule.__new__(ArrayImagesDataModule),
        lambda: ImageFolderDataModule("images", 16),
        lambda: RoarKarDataModule(scenes(), SMOE(small_cnn())),
        lambda: RoarKarDataModule(plain_data(lightning.pytorch), SMOE(small_cnn())),
        lambda: type("Mine", (ImageClassifier,), {"on_fit_start": lambda self: None})("small_cnn", 4),
    ],
    ids=["classifier", "scenes", "arrays", "folder", "masked scenes", "masked own data", "a subclass"],
)
def test_each_package_sees_the_same_hooks_as_overridden(make):
    module = make()
    kind = "LightningModule" if isinstance(module, ImageClassifier) else "LightningDataModule"
    seen = {}
    for package in (pl, lightning.pytorch, pl):
        assert isinstance(module, getattr(package, kind))
        run = trainer(package)  # a module keeps no more than a weak reference
        module.trainer = run
        seen[package] = overridden(package, module, getattr(package, kind))
        assert lightning_parent(module) is getattr(package, kind)
    assert seen[pl] == seen[lightning.pytorch]
    expected = "training_step" if kind == "LightningModule" else "train_dataloader"
    assert expected in seen[pl]
    assert ("on_fit_start" in seen[pl]) == (type(module).__name__ == "Mine")


@both
def test_a_checkpoint_of_either_trainer_is_read(tmp_path, package):
    run = trainer(package, enable_checkpointing=True, default_root_dir=tmp_path)
    module = classifier()
    run.fit(module, scenes())
    again = ImageClassifier.load_from_checkpoint(run.checkpoint_callback.best_model_path)
    assert again.hparams == module.hparams
    assert all(torch.equal(value, module.state_dict()[name]) for name, value in again.state_dict().items())


@pytest.mark.parametrize("class_", [SaliencyMonitor, GroupCAMAugmentation, SaliencyWriter, LayerMask])
def test_callbacks_are_both_packages_own(class_):
    assert issubclass(class_, pl.Callback)
    assert issubclass(class_, lightning.pytorch.Callback)
    assert is_callback_class(class_)


def test_what_is_told_of_others_objects():
    for package in HELPERS:
        assert is_data_module(plain_data(package))
        assert not is_data_module(package.LightningModule())
        assert is_callback_class(package.callbacks.EarlyStopping)
        assert not is_callback_class(package.callbacks.Timer())
        assert trainer_class(package.LightningModule(), scenes()) is package.Trainer
        assert trainer_class(classifier(), plain_data(package)) is package.Trainer
    assert not is_data_module(torch.nn.Linear(2, 2))
    assert trainer_class(classifier(), scenes()) is pl.Trainer


def copy_of_the_module() -> Any:
    """The module's text run once more."""
    spec = importlib.util.spec_from_file_location("bases_again", lightning_bases.__file__)
    again = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(again)
    return again


def test_the_other_package_may_come_before_or_after(monkeypatch):
    monkeypatch.setattr(sys, "meta_path", list(sys.meta_path))
    before = copy_of_the_module()
    assert issubclass(before.LightningModule, lightning.pytorch.LightningModule)

    there = sys.modules["lightning.pytorch"]
    monkeypatch.setattr(importlib.import_module("lightning"), "pytorch", there)
    monkeypatch.delitem(sys.modules, "lightning.pytorch")
    after = copy_of_the_module()
    early = type("Early", (after.LightningModule,), {})()
    watching = len(sys.meta_path)
    assert not isinstance(early, there.LightningModule)
    importlib.import_module("lightning.pytorch")
    for name in ("Callback", "LightningModule", "LightningDataModule"):
        assert issubclass(getattr(after, name), getattr(there, name))
        assert issubclass(getattr(after, name), getattr(pl, name))
    assert isinstance(early, there.LightningModule)
    early.trainer = run = trainer(there)
    assert not other_helpers.is_overridden("configure_model", early, there.LightningModule)
    assert run.lightning_module is None
    assert len(sys.meta_path) == watching - 1  # nothing is watched any longer


def test_an_import_that_fails_is_watched_again(monkeypatch):
    monkeypatch.setattr(sys, "meta_path", list(sys.meta_path))
    there = sys.modules["lightning.pytorch"]
    monkeypatch.setattr(importlib.import_module("lightning"), "pytorch", there)
    monkeypatch.delitem(sys.modules, "lightning.pytorch")
    after = copy_of_the_module()
    with monkeypatch.context() as broken:
        broken.setitem(sys.modules, "lightning.pytorch.trainer", None)
        with pytest.raises(ImportError):
            importlib.import_module("lightning.pytorch")
    assert not issubclass(after.Callback, there.Callback)
    importlib.import_module("lightning.pytorch")
    assert issubclass(after.Callback, there.Callback)


def test_nothing_imports_the_other_package():
    files = list(Path(lightning_bases.__file__).parent.rglob("*.py"))
    assert len(files) > 100
    for file in files:
        for node in ast.walk(ast.parse(file.read_text())):
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            names += [node.module or ""] if isinstance(node, ast.ImportFrom) else []
            assert all(name.split(".")[0] != "lightning" for name in names), file
