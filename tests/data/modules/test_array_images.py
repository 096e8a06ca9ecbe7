"""Images of an .npz archive: layouts, splits, augmentation, refusals."""

import numpy as np
import pytest
import torch
from torch.nn import functional as F
from torchvision import tv_tensors

from lightning_saliency.data import whole_images
from lightning_saliency.data.modules._image_tensors import RandomCrops
from lightning_saliency.data.modules.array_images import ArrayImagesDataModule

GENERATOR = np.random.default_rng(0)


def arrays(count=40, test=10, size=8, **more):
    return {
        "x_train": GENERATOR.integers(0, 256, (count, size, size, 3), dtype=np.uint8),
        "y_train": np.arange(count) % 4,
        "x_test": GENERATOR.integers(0, 256, (test, size, size, 3), dtype=np.uint8),
        "y_test": np.arange(test) % 4,
        **more,
    }


def module(tmp_path, content, **options):
    np.savez(tmp_path / "images.npz", **content)
    data = ArrayImagesDataModule(
        tmp_path / "images.npz", **{"batch_size": 4, "mean": (0, 0, 0), "std": (1, 1, 1), **options}
    )
    data.setup()
    return data


def test_evaluation_shows_the_pixels_of_the_file(tmp_path):
    content = arrays()
    data = module(tmp_path, content)
    images, labels = next(iter(data.test_dataloader()))
    assert images.dtype == torch.float32
    assert labels.dtype == torch.int64
    expected = torch.from_numpy(content["x_test"][:4]).permute(0, 3, 1, 2) / 255
    assert torch.allclose(images, expected)
    assert (data.classes, data.num_classes) == (["0", "1", "2", "3"], 4)


@pytest.mark.parametrize("layout", ["channels last", "channels first", "grey"])
def test_layouts(tmp_path, layout):
    content = arrays()
    for name in ("x_train", "x_test"):
        if layout == "channels first":
            content[name] = content[name].transpose(0, 3, 1, 2)
        if layout == "grey":
            content[name] = content[name][..., 0]
    images, _ = next(iter(module(tmp_path, content).test_dataloader()))
    assert images.shape == (4, 3, 8, 8)
    if layout == "grey":
        assert torch.equal(images[:, 0], images[:, 2])


def test_the_validation_images_are_set_aside_evenly_and_come_back_alike(tmp_path):
    content = arrays()
    first, again = (module(tmp_path, content, val_fraction=0.2, seed=3) for _ in range(2))
    assert torch.equal(first.datasets["val"].images, again.datasets["val"].images)
    assert first.datasets["val"].labels.bincount().tolist() == [2, 2, 2, 2]
    assert len(first.datasets["train"]) == 32
    other = module(tmp_path, content, val_fraction=0.2, seed=4)
    assert not torch.equal(first.datasets["val"].images, other.datasets["val"].images)


def test_validation_images_and_class_names_of_the_file(tmp_path):
    own = {"x_val": np.zeros((3, 8, 8, 3), np.uint8), "y_val": np.array([[0], [1], [2]])}
    data = module(tmp_path, arrays(**own, classes=np.array(["ant", "bee", "cat", "dog"])))
    assert len(data.datasets["val"]) == 3
    assert len(data.datasets["train"]) == 40
    assert data.classes == ["ant", "bee", "cat", "dog"]


def test_fewer_training_images(tmp_path):
    data = module(tmp_path, arrays(), train_size=7)
    assert [len(data.datasets[split]) for split in ("train", "val", "test")] == [7, 4, 10]


def test_training_images_are_shifted_and_mirrored(tmp_path):
    content = arrays(count=4, test=4)
    content["x_train"][:] = np.arange(8, dtype=np.uint8)[None, None, :, None] + 1
    content["y_train"][:] = 0
    data = module(tmp_path, content, padding=2, val_fraction=0.3)
    shown = [data.datasets["train"].__getitems__([0])[0][0] * 255 for _ in range(60)]
    rows = {tuple(image[0, 4].round().int().tolist()) for image in shown}
    # Five shifts along the row, each mirrored or not.
    assert len(rows) == 10
    assert {0, 1, 2, 3, 4, 5, 6, 7, 8} == {value for row in rows for value in row}
    assert (1, 2, 3, 4, 5, 6, 7, 8) in rows
    assert (8, 7, 6, 5, 4, 3, 2, 1) in rows


def test_maps_are_made_of_whole_images_without_the_padding(tmp_path):
    data = module(tmp_path, arrays(), mean=(0.5, 0.4, 0.3), std=(0.2, 0.3, 0.4))
    for split in ("train", "test"):
        dataset = data.datasets[split]
        whole = whole_images(dataset, 8)
        assert dataset.images.shape[1:] == (3, 8, 8)
        for index in (0, len(dataset) - 1):
            expected = data.normalize(dataset.images[index] / 255)
            assert torch.allclose(whole[index][0], expected, atol=1e-6)


def test_without_augmentation_training_images_stay_as_they_are(tmp_path):
    data = module(tmp_path, arrays(), augment=False)
    one, two = (data.datasets["train"][0][0] for _ in range(2))
    assert torch.equal(one, two)
    assert torch.allclose(one * 255, data.datasets["train"].images[0].float())


def test_random_crops_are_pieces_of_the_images():
    images = torch.arange(2 * 3 * 36).view(2, 3, 6, 6)
    crops = RandomCrops(4, mirror=False)(images)
    for crop, image in zip(crops, images, strict=True):
        windows = image.unfold(1, 4, 1).unfold(2, 4, 1)
        assert any(torch.equal(crop, windows[:, row, column]) for row in range(3) for column in range(3))


def test_padding_in_random_crops_is_padding_before_them():
    images = torch.randint(0, 256, (20, 3, 6, 6), dtype=torch.uint8)
    masks = tv_tensors.Mask(images[:, 0].float() + 1)
    torch.manual_seed(4)
    cut, moved = RandomCrops(6, padding=3)(images, masks)
    state = torch.get_rng_state()
    torch.manual_seed(4)
    assert torch.equal(RandomCrops(6)(F.pad(images, [3] * 4)), cut)
    assert torch.equal(torch.get_rng_state(), state)
    assert type(moved) is tv_tensors.Mask
    assert torch.equal(moved.gt(0) * cut[:, 0], cut[:, 0])
    assert torch.equal((moved - 1).clamp(min=0), cut[:, 0].float())
    assert moved.eq(0).any()


@pytest.mark.parametrize(
    ("change", "match"),
    [
        ({"x_train": np.zeros((40, 8, 8, 3), np.float32)}, "float32"),
        ({"x_train": np.zeros((40, 8, 6, 3), np.uint8)}, "square"),
        ({"y_train": np.zeros(39, int)}, "40 images"),
        ({"y_train": np.zeros(40)}, "float64"),
        ({"classes": np.array(["ant", "bee"])}, "2 names"),
    ],
)
def test_wrong_arrays(tmp_path, change, match):
    with pytest.raises(ValueError, match=match):
        module(tmp_path, {**arrays(), **change})


def test_missing_arrays_files_and_wrong_options(tmp_path):
    content = arrays()
    del content["y_test"]
    with pytest.raises(ValueError, match="without y_test"):
        module(tmp_path, content)
    with pytest.raises(FileNotFoundError, match=r"none\.npz"):
        ArrayImagesDataModule(tmp_path / "none.npz").setup()
    for wrong in ({"batch_size": 0}, {"padding": -1}, {"val_fraction": 1.0}, {"train_size": 0}):
        with pytest.raises(ValueError, match=next(iter(wrong))):
            ArrayImagesDataModule("x.npz", **wrong)
    with pytest.raises(RuntimeError, match="setup"):
        ArrayImagesDataModule("x.npz").train_dataloader()


@pytest.mark.shared
def test_real_cifar(shared_data):
    data = ArrayImagesDataModule(shared_data / "cifar10" / "cifar10_subset.npz")
    data.setup()
    assert [len(data.datasets[split]) for split in ("train", "val", "test")] == [4500, 500, 1000]
    assert data.num_classes == 10
    images, _ = next(iter(data.train_dataloader()))
    assert images.shape == (128, 3, 32, 32)
