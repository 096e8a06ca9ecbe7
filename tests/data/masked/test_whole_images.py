"""Whole images to make maps of, and telling data sets apart."""

from __future__ import annotations

import numpy as np
import pytest
import pytorch_lightning as pl
import torch
from PIL import Image
from torch.utils.data import ConcatDataset, DataLoader, Dataset, Subset, TensorDataset
from torchvision.datasets.vision import VisionDataset
from torchvision.transforms import v2

from lightning_saliency.data import DigitScenes, SaliencyGeometryError, whole_image_loaders, whole_images
from lightning_saliency.data.masked.whole_images import check_whole, data_fingerprint

TO_TENSOR = (v2.ToImage(), v2.ToDtype(torch.float32, scale=True))


class Pictures(VisionDataset):
    def __init__(self, count: int = 5, transform=None, transforms=None, shift: int = 0) -> None:
        super().__init__("", transform=transform, transforms=transforms)
        draw = np.random.default_rng(3)
        self.images = [draw.integers(0, 255, (20 + 2 * n, 30, 3)).astype(np.uint8) for n in range(count)]
        self.images[-1] = np.roll(self.images[-1], shift)

    def __len__(self):
        return len(self.images)

    def __getitem__(self, index):
        image, target = Image.fromarray(self.images[index]), index
        return (image, target) if self.transforms is None else self.transforms(image, target)


def augmented(**options) -> Pictures:
    crop = [v2.RandomResizedCrop(8), v2.RandomHorizontalFlip(), *TO_TENSOR, v2.Normalize([0.5] * 3, [0.25] * 3)]
    return Pictures(transform=v2.Compose(crop), **options)


def test_images_are_whole_of_one_size_and_normalised_as_in_training():
    data = augmented()
    whole = whole_images(data, (12, 14))
    for index in range(5):
        image, target = whole[index]
        resize = v2.Compose([*TO_TENSOR[:1], v2.Resize([12, 14], antialias=True), TO_TENSOR[1]])
        expected = (resize(Image.fromarray(data.images[index])) - 0.5) / 0.25
        assert target == index
        assert torch.allclose(image, expected, atol=1e-5)
        assert torch.equal(whole[index][0], image)
    assert type(image) is torch.Tensor
    assert (len(whole), data[0][0].shape) == (5, (3, 8, 8))


def test_a_transform_of_ones_own():
    whole = whole_images(augmented(), 6, v2.Compose([v2.Resize([6, 6]), v2.Grayscale(), *TO_TENSOR]))
    assert whole[1][0].shape == (1, 6, 6)


def test_joint_transforms_get_the_image_alone():
    whole = whole_images(Pictures(transforms=v2.Compose([v2.RandomCrop(8), *TO_TENSOR])), 6)
    image, target = whole[3]
    assert (image.shape, target) == ((3, 6, 6), 3)


def test_subsets_concatenations_and_batches():
    data = ConcatDataset([Subset(augmented(), [4, 0]), augmented()])
    whole = whole_images(Subset(data, [0, 3]), 6)
    single = whole_images(augmented(), 6)
    assert torch.equal(whole[0][0], single[4][0])
    assert torch.equal(whole[1][0], single[1][0])
    images, targets = next(iter(DataLoader(whole, batch_size=2)))
    assert (images.shape, targets.tolist()) == ((2, 3, 6, 6), [4, 1])
    scenes = DigitScenes(6, 4, 4, size=32)
    scenes.setup("fit")
    whole = whole_images(scenes.datasets["train"], 16)
    batch = next(iter(DataLoader(Subset(whole, [5, 2]), batch_size=2)))
    assert (batch["image"].shape, batch["index"].tolist()) == ((2, 3, 16, 16), [5, 2])
    assert torch.allclose(whole[5]["image"], batch["image"][0])


def test_data_without_transforms_are_resized_only():
    images = torch.rand(3, 3, 8, 8)
    whole = whole_images(TensorDataset(images, torch.arange(3)), 8)
    assert torch.equal(whole[1][0], images[1])

    class Secret(Dataset):
        def __len__(self):
            return 3

        def __getitem__(self, index):
            return {"image": images[index]}

    with pytest.raises(SaliencyGeometryError, match="Got Secret without `transform`"):
        whole_images(Secret(), 4)
    assert whole_images(Secret(), 4, geometry="fixed")[0]["image"].shape == (3, 4, 4)


def test_fingerprints_see_pixels_and_length_but_no_transform():
    reference = data_fingerprint(augmented())
    assert data_fingerprint(augmented()) == reference
    assert data_fingerprint(Pictures(transform=v2.Identity())) == reference
    assert whole_images(augmented(), 9).fingerprint() == reference
    for other in (augmented(shift=1), Pictures(4, transform=v2.Identity()), Subset(augmented(), [1, 0, 2, 3, 4])):
        assert data_fingerprint(other) != reference
    state = torch.get_rng_state()
    data_fingerprint(augmented())
    assert torch.equal(torch.get_rng_state(), state)
    assert data_fingerprint(TensorDataset(torch.zeros(0, 3, 4, 4)))


def test_fingerprints_of_images_that_change():
    class Noisy(Pictures):
        def __getitem__(self, index):
            return self.transform(torch.rand(3, 4, 4)), index

    with pytest.raises(SaliencyGeometryError, match="changes its images before its transform"):
        data_fingerprint(Noisy(transform=v2.Identity()))
    fixed = data_fingerprint(Noisy(transform=v2.Identity()), geometry="fixed")
    assert fixed == data_fingerprint(Noisy(transform=v2.Identity()), geometry="fixed")
    assert fixed != data_fingerprint(Noisy(4, transform=v2.Identity()), geometry="fixed")


def test_what_is_not_whole_is_refused():
    check_whole(whole_images(augmented(), 6))
    check_whole(Pictures(transform=v2.Compose([*TO_TENSOR])))
    check_whole(TensorDataset(torch.rand(2, 3, 4, 4)))
    for transform in (v2.CenterCrop(8), v2.RandomHorizontalFlip(), v2.ColorJitter(0.5)):
        with pytest.raises(SaliencyGeometryError, match=r"wrap it in whole_images\(dataset, size\)"):
            check_whole(Pictures(transform=v2.Compose([transform, *TO_TENSOR])))


class Data(pl.LightningDataModule):
    def __init__(self):
        super().__init__()
        self.stages: list[str] = []

    def setup(self, stage):
        self.stages.append(stage)

    def train_dataloader(self):
        return DataLoader(augmented(), batch_size=2, shuffle=True, drop_last=True)

    def val_dataloader(self):
        return [DataLoader(augmented())]

    def test_dataloader(self):
        return DataLoader(Pictures(3, transform=v2.Identity()), batch_size=3)


def test_loaders_of_whole_stages():
    data = Data()
    loaders = whole_image_loaders(data, 6, stages=("test", "train"), num_workers=0)
    assert list(loaders) == ["test", "train"]
    assert data.stages == ["fit", "test"]
    assert [target for _, targets in loaders["train"] for target in targets.tolist()] == [0, 1, 2, 3, 4]
    assert loaders["test"].batch_size == 3
    with pytest.raises(TypeError, match="Got list from val_dataloader"):
        whole_image_loaders(data, 6)
    with pytest.raises(ValueError, match=r"stages \['valid'\]"):
        whole_image_loaders(data, 6, stages=("valid",))


class Detection(Dataset):
    """Images with as many boxes as there are."""

    transform = None

    def __len__(self):
        return 5

    def __getitem__(self, index):
        image = torch.full((3, 8, 8), float(index))
        return {"image": image, "boxes": torch.zeros(index, 4), "label": index, "note": None if index else "first"}


class Boxes(pl.LightningDataModule):
    def train_dataloader(self):
        return DataLoader(Detection(), batch_size=3, collate_fn=list, shuffle=True)


def test_what_cannot_be_stacked_is_listed():
    """A loader's own collate_fn is not called: it may mix images."""
    first, second = whole_image_loaders(Boxes(), 8, stages=["train"])["train"]
    assert first["image"][:, 0, 0, 0].tolist() == [0, 1, 2]
    assert first["label"].tolist() == [0, 1, 2]
    assert [len(boxes) for boxes in second["boxes"]] == [3, 4]
    assert first["note"] == ["first", None, None]
