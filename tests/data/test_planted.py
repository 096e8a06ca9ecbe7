"""A shortcut planted into a data module: who is marked, the groups of test images, and what stays as it was."""

import pytest
import torch
from pytorch_lightning import LightningDataModule, LightningModule
from torch import nn
from torch.utils.data import DataLoader, Dataset, TensorDataset

from lightning_saliency.data import ClassPhotograph, CornerMark, DigitScenes, PlantedShortcut, RandomMark
from lightning_saliency.data.modules._scenes import PHOTOGRAPHS
from lightning_saliency.data.shortcuts import pixels_in_boxes
from lightning_saliency.lightning_bases import overrides
from tests.callbacks.monitor.helpers import trainer

SCENES = {"train_size": 40, "val_size": 20, "test_size": 30, "size": 16, "batch_size": 7}


@pytest.fixture(scope="module")
def scenes():
    data = DigitScenes(**SCENES)
    data.setup()
    return data


class Pairs(LightningDataModule):
    """Images in [0, 1] and labels as tuples, without a normalisation or an index."""

    num_classes = 3

    def __init__(self, images=None, seed=0):
        super().__init__()
        generator = torch.Generator().manual_seed(seed)
        self.images = torch.rand(12, 3, 8, 8, generator=generator) if images is None else images
        self.labels = torch.arange(12) % 3

    def train_dataloader(self):
        return DataLoader(TensorDataset(self.images, self.labels), batch_size=5, shuffle=True)

    def val_dataloader(self):
        return DataLoader(TensorDataset(self.images, self.labels), batch_size=5)

    test_dataloader = val_dataloader


class Named(Dataset):
    """The pairs of a data set as dictionaries."""

    def __init__(self, pairs, image="image", label="label"):
        self.pairs, self.image, self.label = pairs, image, label

    def __len__(self):
        return len(self.pairs)

    def __getitem__(self, index):
        image, label = self.pairs[index]
        return {self.image: image, self.label: label}


class Hooked(Pairs):
    """Tells which of its hooks were called and with what; on the device its images become ten times as bright."""

    trainer_in_setup = None

    def __init__(self, form=None, **settings):
        super().__init__(**settings)
        self.form, self.called = form, []

    def prepare_data(self):
        self.called.append("prepare_data")

    def setup(self, stage):
        self.trainer_in_setup = self.trainer

    def train_dataloader(self):
        loader = super().train_dataloader()
        return loader if self.form is None else DataLoader(Named(loader.dataset, *self.form), batch_size=5)

    def on_before_batch_transfer(self, batch, dataloader_idx):
        self.called.append(type(batch).__name__)
        return batch

    def transfer_batch_to_device(self, batch, device, dataloader_idx):
        self.called.append(f"to {device}")
        return super().transfer_batch_to_device(batch, device, dataloader_idx)

    def on_after_batch_transfer(self, batch, dataloader_idx):
        if isinstance(batch, dict):
            return {name: 10 * value if name in ("image", "img") else value for name, value in batch.items()}
        images, labels = batch
        return 10 * images, labels

    def on_exception(self, exception):
        self.called.append(str(exception))

    def state_dict(self):
        return {"seen": 7}

    def load_state_dict(self, state_dict):
        self.called.append(state_dict)


class Trained(LightningModule):
    """Keeps what it is given."""

    def __init__(self):
        super().__init__()
        self.layer, self.given = nn.Linear(1, 1), []

    def training_step(self, batch, batch_idx):
        self.given.append(batch)
        return self.layer(torch.ones(1, 1)).sum()

    def validation_step(self, batch, batch_idx):
        pass

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), 0.1)


def gathered(loader):
    """All of a loader's items in the order of their indices."""
    batches = list(loader)
    whole = {name: torch.cat([batch[name] for batch in batches]) for name in batches[0]}
    order = whole["index"].argsort()
    return {name: value[order] for name, value in whole.items()}


def test_training_and_validation_are_marked_and_the_test_images_are_not(scenes):
    planted = PlantedShortcut(scenes, CornerMark(0.25), share=0.8)
    assert (planted.num_classes, planted.classes) == (10, scenes.classes)
    for name, count in (("train", 32), ("val", 16), ("test", 0)):
        own = gathered(getattr(planted, f"{name}_dataloader")())
        base = gathered(getattr(scenes, f"{name}_dataloader")())
        assert int(own["marked"].sum()) == count
        assert torch.equal(own["mark"].flatten(1).any(1), own["marked"])
        assert torch.equal(own["label"], base["label"])
        assert torch.equal(own["boxes"], base["boxes"])
        # Beside the marks nothing changes, to the bit.
        changed = (own["image"] != base["image"]).any(1)
        assert not changed[~own["mark"]].any()
        assert (changed.flatten(1).any(1) == own["marked"]).all()


def test_the_mark_is_the_class_of_the_image_in_the_colours_that_the_network_sees(scenes):
    planted = PlantedShortcut(scenes, CornerMark(0.25), share=1.0)
    own = gathered(planted.train_dataloader())
    mean, std = (torch.tensor(value)[:, None, None] for value in (scenes.normalize.mean, scenes.normalize.std))
    expected, _ = CornerMark(0.25).plant(torch.zeros(40, 3, 16, 16), own["label"], 10, torch.zeros(40, 2))
    assert torch.allclose((own["image"] * std + mean)[:, :, :4, :4], expected[:, :, :4, :4], atol=1e-5)


def test_an_image_looks_the_same_in_every_epoch_and_whoever_asks(scenes):
    planted = PlantedShortcut(scenes, RandomMark(0.25), share=0.5, seed=3)
    first, second = (gathered(planted.train_dataloader()) for _ in range(2))
    again = gathered(PlantedShortcut(scenes, RandomMark(0.25), share=0.5, seed=3).train_dataloader())
    other = gathered(PlantedShortcut(scenes, RandomMark(0.25), share=0.5, seed=4).train_dataloader())
    assert torch.equal(first["image"], second["image"])
    assert torch.equal(first["image"], again["image"])
    assert not torch.equal(first["marked"], other["marked"])
    assert len({tuple(torch.nonzero(one)[0].tolist()) for one in first["mark"] if one.any()}) > 5
    dataset = planted.train_dataloader().dataset
    assert torch.equal(dataset[-1]["image"], first["image"][39])
    with pytest.raises(IndexError, match="40 images"):
        dataset[40]


def test_the_test_images_come_in_three_groups(scenes):
    planted = PlantedShortcut(scenes, RandomMark(0.25), share=0.5)
    groups = {name: gathered(loader) for name, loader in planted.group_dataloaders().items()}
    assert list(groups) == ["unmarked", "misled", "marked"]
    assert [int(group["marked"].sum()) for group in groups.values()] == [0, 30, 30]
    for group in groups.values():
        assert torch.equal(group["label"], groups["unmarked"]["label"])
    # Misled and marked differ in the colour alone.
    assert torch.equal(groups["misled"]["mark"], groups["marked"]["mark"])
    differs = (groups["misled"]["image"] != groups["marked"]["image"]).any(1)
    assert torch.equal(differs, groups["marked"]["mark"])


def test_each_class_on_its_photograph(scenes):
    planted = PlantedShortcut(scenes, ClassPhotograph(zoom=1.0), share=1.0)
    own, base = gathered(planted.train_dataloader()), gathered(scenes.train_dataloader())
    inside = pixels_in_boxes(own["boxes"], 16, 16)
    assert torch.equal(own["mark"], ~inside)
    kept = inside[:, None].expand_as(own["image"])
    assert torch.equal(own["image"][kept], base["image"][kept])
    # A photograph as large as the image has one place in one direction: squares of it are the same in all images.
    square = [place for place, (_, path) in enumerate(PHOTOGRAPHS[:10]) if "astronaut" in path]
    same = [place for place, label in enumerate(own["label"].tolist()) if label == square[0]]
    assert len(same) == 4
    outside = ~(inside[same].any(0))
    first, *others = (own["image"][place][:, outside] for place in same)
    assert all(torch.equal(first, other) for other in others)
    with pytest.raises(ValueError, match="Got 3 classes without boxes"):
        next(iter(PlantedShortcut(Pairs(), ClassPhotograph(), share=1.0).train_dataloader()))
    with pytest.raises(ValueError, match=r"Got zoom=0\.5"):
        ClassPhotograph(0.5)


def test_tuples_and_images_that_nobody_normalised():
    planted = PlantedShortcut(Pairs(), CornerMark(0.5), share=1.0)
    own = gathered(planted.train_dataloader())
    assert sorted(own) == ["image", "index", "label", "mark", "marked"]
    assert own["image"][:3, :, 0, 0].tolist() == [[1.0, 0, 0], [0, 1.0, 0], [0, 0, 1.0]]
    misled = gathered(planted.group_dataloaders()["misled"])
    shown = misled["image"][:, :, 0, 0].argmax(1)
    assert (shown != misled["label"]).all()
    assert planted.classes == ["0", "1", "2"]


def test_images_of_an_unknown_normalisation_are_refused():
    with pytest.raises(ValueError, match=r"normalisation is not known.*Allowed are images in \[0, 1\]"):
        next(iter(PlantedShortcut(Pairs(3 * torch.randn(12, 3, 8, 8))).train_dataloader()))


@pytest.mark.parametrize("form", [None, ("image", "label")])
def test_the_bases_hooks_run_and_its_state_is_kept(tmp_path, form):
    base, module = Hooked(form), Trained()
    planted = PlantedShortcut(base, share=1.0)
    run = trainer(tmp_path, epochs=1, enable_checkpointing=True, num_sanity_val_steps=0, limit_val_batches=0)
    run.fit(module, planted)
    assert base.trainer_in_setup is run
    assert base.trainer is run
    # In the base's own form, as it was written for.
    assert base.called[:3] == ["prepare_data", "list" if form is None else "dict", "to cpu"]
    whole = {name: torch.cat([batch[name] for batch in module.given]) for name in module.given[0]}
    assert sorted(whole) == ["image", "index", "label", "mark", "marked"]
    order = whole["index"].argsort()
    expected = gathered(planted.train_dataloader())
    assert torch.equal(whole["image"][order], 10 * expected["image"])
    assert all(torch.equal(whole[name][order], expected[name]) for name in ("label", "mark", "marked"))
    assert planted.state_dict() == {"seen": 7}
    planted.on_exception(RuntimeError("oh"))
    assert base.called[-1] == "oh"
    run.save_checkpoint(tmp_path / "a.ckpt")
    trainer(tmp_path, epochs=1, limit_val_batches=0).fit(module, planted, ckpt_path=tmp_path / "a.ckpt")
    assert {"seen": 7} in base.called


def test_batches_that_hooks_cannot_be_given_as_they_are_written_for_are_refused(tmp_path):
    class Triples(Hooked):
        def train_dataloader(self):
            return DataLoader(TensorDataset(self.images, self.labels, torch.arange(12)), batch_size=5)

    with pytest.raises(ValueError, match=r"Got batches list\(.*Allowed are dictionaries and pairs \(images, labels\)"):
        next(iter(PlantedShortcut(Triples()).train_dataloader()))
    without_hooks = Pairs()
    without_hooks.train_dataloader = Triples().train_dataloader
    own = gathered(PlantedShortcut(without_hooks).train_dataloader())
    assert sorted(own) == ["image", "index", "label", "mark", "marked"]

    class Renaming(Hooked):
        def on_after_batch_transfer(self, batch, dataloader_idx):
            return dict(zip(("image", "label"), batch, strict=True))

    with pytest.raises(TypeError, match=r"Got \{'image': .* from a hook that was given a pair"):
        trainer(tmp_path, epochs=1).fit(Trained(), PlantedShortcut(Renaming()))


def test_what_the_base_lacks_is_lacking(tmp_path):
    class Alone(LightningDataModule):
        num_classes = 3

        def train_dataloader(self):
            return Pairs().train_dataloader()

    class Hooking(Trained):
        def on_after_batch_transfer(self, batch, dataloader_idx):
            return {**batch, "image": -batch["image"]}

    module = Hooking()
    planted = PlantedShortcut(Alone())
    assert not any(overrides(planted, hook) for hook in ("val_dataloader", "test_dataloader", "predict_dataloader"))
    trainer(tmp_path, epochs=1).fit(module, planted)  # without validation, and by the module's own hook
    assert max(float(batch["image"].max()) for batch in module.given) <= 0


def test_the_bases_attributes_are_seen(scenes):
    planted = PlantedShortcut(scenes)
    assert planted.normalize is scenes.normalize
    assert planted.data is scenes
    assert planted.prepare_data_per_node == scenes.prepare_data_per_node
    with pytest.raises(AttributeError, match="nothing_like_it"):
        _ = planted.nothing_like_it


def test_what_is_no_data_module_and_no_shortcut_is_refused(scenes):
    with pytest.raises(TypeError, match="Got data of type int"):
        PlantedShortcut(3)
    with pytest.raises(TypeError, match="Got shortcut of type str"):
        PlantedShortcut(scenes, "corner")
    with pytest.raises(ValueError, match=r"Got share=95\. Allowed"):
        PlantedShortcut(scenes, share=95)
    with pytest.raises(ValueError, match="Got seed=-1"):
        PlantedShortcut(scenes, seed=-1)
    several = Pairs()
    several.train_dataloader = lambda: [1, 2]
    with pytest.raises(TypeError, match="Got list as the train loader of Pairs"):
        PlantedShortcut(several).train_dataloader()
