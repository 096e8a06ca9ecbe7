"""Which items a shortcut can be planted into: their form, the names in them, their types, and labels of no class."""

from __future__ import annotations

from collections import namedtuple

import numpy as np
import pytest
import torch
from pytorch_lightning import LightningDataModule
from torch.utils.data import DataLoader, Dataset, default_collate
from torchvision import tv_tensors

from lightning_saliency.data import BackgroundTint, CornerMark, PlantedShortcut
from tests.callbacks.monitor.helpers import trainer
from tests.data.test_planted import Trained

Sample = namedtuple("Sample", ["image", "label"])


def image(index):
    return torch.rand(3, 16, 16, generator=torch.Generator().manual_seed(index))


IMAGES = torch.stack([image(index) for index in range(8)])


class Items(Dataset):
    def __init__(self, item):
        self.item = item

    def __len__(self):
        return 8

    def __getitem__(self, index):
        return self.item(index)


class Data(LightningDataModule):
    num_classes = 4

    def __init__(self, item, **options):
        super().__init__()
        self.item, self.options = item, {"batch_size": 4, **options}

    def train_dataloader(self):
        return DataLoader(Items(self.item), **self.options)

    test_dataloader = train_dataloader


def planted(item, shortcut=None, share=1.0, **options):
    """The two batches of eight planted items."""
    return list(PlantedShortcut(Data(item, **options), shortcut, share).train_dataloader())


def is_marked(images, first=0):
    """Whether images ``[B, 3, H, W]`` are those from an index on but for a corner in the colour of class index % 4."""
    expected, _ = CornerMark().plant(
        IMAGES[first : first + len(images)], torch.arange(len(images)) % 4, 4, torch.zeros(len(images), 2)
    )
    return torch.equal(images, expected)


# --- forms ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("pixels", "target"), [("pixel_values", "labels"), ("img", "target"), ("image", "label")])
def test_the_marked_image_lies_under_the_bases_own_name(pixels, target):
    first, second = planted(lambda index: {pixels: image(index), target: index % 4, "name": f"n{index}"})
    assert sorted(first) == sorted([pixels, target, "name", "index", "mark", "marked"])
    assert is_marked(first[pixels])
    assert is_marked(second[pixels], 4)
    assert first["name"] == ["n0", "n1", "n2", "n3"]
    assert second["index"].tolist() == [4, 5, 6, 7]
    assert second[target].tolist() == [0, 1, 2, 3]
    assert first["mark"].sum((1, 2)).tolist() == [4] * 4


def test_an_image_inside_other_containers_is_marked_there():
    first, _ = planted(lambda index: {"inputs": {"x": (image(index), "a")}, "label": index % 4})
    assert is_marked(first["inputs"]["x"][0])


def test_items_that_are_not_to_be_marked_are_the_bases_own():
    data = [{"image": image(index), "label": index % 4} for index in range(8)]
    dataset = PlantedShortcut(Data(data.__getitem__), share=0.5).train_dataloader().dataset
    for index in range(8):
        assert (dataset[index]["image"] is data[index]["image"]) == (not dataset.marked[index])
        assert sorted(data[index]) == ["image", "label"]
        assert torch.equal(data[index]["image"], IMAGES[index])


class FromTuples:
    """A collate_fn that takes tuples as its data set makes them."""

    def __init__(self, kind, returned):
        self.kind, self.returned = kind, returned

    def __call__(self, items):
        assert all(type(item) is self.kind for item in items)
        return self.returned(torch.stack([item[0] for item in items]), torch.tensor([item[1] for item in items]))


@pytest.mark.parametrize("kind", [tuple, list, Sample])
@pytest.mark.parametrize(
    "returned",
    [
        lambda images, labels: (images, labels),
        lambda images, labels: [images, labels],
        lambda images, labels: (labels, images),
        lambda images, labels: (images, torch.nn.functional.one_hot(labels, 4).float()),
        lambda images, labels: {"image": images, "label": labels},
        Sample,
    ],
)
def test_the_bases_collate_function_gets_items_of_the_bases_form(kind, returned):
    def item(index):
        return Sample(image(index), index % 4) if kind is Sample else kind((image(index), index % 4))

    first, second = planted(item, collate_fn=FromTuples(kind, returned))
    for number, batch in enumerate((first, second)):
        assert sorted(batch) == ["image", "index", "label", "mark", "marked"]
        assert is_marked(batch["image"], 4 * number)
        label = batch["label"].argmax(1) if batch["label"].ndim == 2 else batch["label"]
        assert label.tolist() == [0, 1, 2, 3]
        assert batch["index"].tolist() == [4 * number + place for place in range(4)]


def test_a_collate_function_that_leaves_images_out_is_refused():
    with pytest.raises(ValueError, match="Got a batch of 3 images from 4 items"):
        planted(lambda index: (image(index), index % 4), collate_fn=lambda items: default_collate(items[1:]))


def test_loaders_without_batches_are_refused():
    with pytest.raises(TypeError, match="Got DataLoader with batch_size=None as the train loader"):
        planted(lambda index: (image(index), index % 4), batch_size=None)


class Own(DataLoader):
    def __init__(self, items, **options):
        super().__init__(items, **{**options, "collate_fn": FromTuples(tuple, lambda *batch: batch)})


@pytest.mark.parametrize("made", [Own, DataLoader])
def test_a_loader_that_lightning_makes_anew_adds_the_marks_too(tmp_path, made):
    data, module = Data(lambda index: (image(index), index % 4)), Trained()
    data.train_dataloader = lambda: made(Items(data.item), batch_size=4, shuffle=True)
    with pytest.warns(UserWarning, match="turning off the train dataloader shuffling"):
        trainer(tmp_path, epochs=1, overfit_batches=1).fit(module, PlantedShortcut(data, share=1.0))
    [batch] = module.given
    assert is_marked(batch["image"])
    assert batch["mark"].any()


# --- boxes ------------------------------------------------------------------------------------------------------------


def boxes(index):
    return torch.tensor([[0.0, 0.0, 8.0, 8.0], [8.0, 8.0, 16.0, 16.0]])[: index % 3]


@pytest.mark.parametrize("made", [boxes, lambda index: boxes(index).tolist(), lambda index: boxes(index).numpy()])
def test_boxes_of_different_numbers_reach_the_shortcut_and_the_collate_function(made):
    def collate(items):
        return {
            "image": torch.stack([item["image"] for item in items]),
            "label": torch.tensor([item["label"] for item in items]),
            "boxes": [item["boxes"] for item in items],
        }

    def item(index):
        return {"image": image(index), "label": index % 4, "boxes": made(index)}

    first, second = planted(item, BackgroundTint(0.5), collate_fn=collate)
    assert [len(own) for own in first["boxes"]] == [0, 1, 2, 0]
    quarter = torch.zeros(16, 16, dtype=torch.bool)
    quarter[:8, :8] = True
    assert first["mark"][0].all()  # no box
    assert torch.equal(first["mark"][1], ~quarter)
    assert torch.equal(first["mark"][2], ~(quarter | quarter.flip((0, 1))))
    assert torch.equal(second["mark"][0], ~quarter)


def test_entries_that_cannot_be_stacked_are_left_to_the_collate_function():
    def collate(items):
        return {"image": torch.stack([item["image"] for item in items]), "label": [item["label"] for item in items]}

    first, _ = planted(lambda index: {"image": image(index), "label": index % 4, "note": None}, collate_fn=collate)
    assert is_marked(first["image"])


# --- types ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_images_of_every_floating_point_type_keep_it(dtype):
    first, _ = planted(lambda index: (image(index).to(dtype), index % 4))
    assert first["image"].dtype == dtype
    corner = torch.tensor([[1.0, 0, 0], [0.5, 1, 0], [0, 1, 1], [0.5, 0, 1]], dtype=dtype)
    torch.testing.assert_close(first["image"][:, :, 0, 0], corner, rtol=0, atol=1e-6)
    assert torch.equal(first["image"][:, :, 2:, 2:], IMAGES[:4, :, 2:, 2:].to(dtype))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_normalised_images_of_half_precision_are_not_taken_for_others(dtype):
    data = Data(lambda index: (((image(index).round() - 0.45) / 0.22).to(dtype), index % 4))

    class Normalize:
        mean, std = (0.45,) * 3, (0.22,) * 3

    data.transform = Normalize()
    first = next(iter(PlantedShortcut(data, share=1.0).train_dataloader()))
    assert first["marked"].all()


@pytest.mark.parametrize(
    ("made", "kind"), [(torch.Tensor.numpy, np.ndarray), (tv_tensors.Image, tv_tensors.Image)], ids=["numpy", "tv"]
)
def test_images_stay_what_they_are(made, kind):
    def collate(items):
        assert all(isinstance(pixels, kind) for pixels, _ in items)
        return default_collate(items)

    first, _ = planted(lambda index: (made(image(index)), index % 4), collate_fn=collate)
    assert is_marked(first["image"])


# --- labels -----------------------------------------------------------------------------------------------------------


def test_images_without_a_class_are_not_marked():
    first, _ = planted(lambda index: (image(index), (-1, 1, -100, 3)[index % 4]))
    assert first["marked"].tolist() == [False, True, False, True]
    assert first["mark"].flatten(1).any(1).tolist() == [False, True, False, True]
    assert torch.equal(first["image"][::2], IMAGES[:4:2])
    misled = PlantedShortcut(Data(lambda index: (image(index), -1))).group_dataloaders()["misled"]
    assert not any(batch["marked"].any() for batch in misled)


@pytest.mark.parametrize("share", [0.0, 1.0])
def test_labels_beyond_the_classes_are_refused(share):
    message = r"Got the label 9 where the data module has 4 classes\. Allowed are whole numbers from 0 to 3"
    with pytest.raises(ValueError, match=message):
        planted(lambda index: (image(index), 9 if index == 2 else 0), share=share)


def test_labels_of_one_column_are_taken():
    first, _ = planted(lambda index: (image(index), torch.tensor([index % 4])))
    assert is_marked(first["image"])


def test_items_without_labels_are_refused():
    with pytest.raises(ValueError, match=r"Got items that make the batch .*Allowed are images"):
        planted(lambda index: (image(index), "name"))
