"""A shortcut planted into a data module: who is marked, the groups of test images, and what stays as it was."""

import pytest
import torch
from pytorch_lightning import LightningDataModule
from torch.utils.data import DataLoader, TensorDataset

from lightning_saliency.data import ClassPhotograph, CornerMark, DigitScenes, PlantedShortcut, RandomMark
from lightning_saliency.data.modules._scenes import PHOTOGRAPHS
from lightning_saliency.data.shortcuts import pixels_in_boxes

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
