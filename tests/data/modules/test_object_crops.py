"""Crops of annotated objects: what is cut out, how it is split, what is refused."""

import csv

import numpy as np
import pytest
import torch
from PIL import Image

from lightning_saliency.data.modules.object_crops import ObjectCropsDataModule, split_evenly, square_around

CLASSES = {"red": (255, 0, 0), "green": (0, 255, 0), "blue": (0, 0, 255)}


@pytest.fixture
def annotated(tmp_path):
    """Twelve photographs, each with a red, a green and a blue square, the first also with tiny ones."""
    rows = []
    for number in range(12):
        pixels = np.full((60, 90, 3), 128, np.uint8)
        for place, (name, color) in enumerate(CLASSES.items()):
            left, top = 5 + 28 * place, 10 + number
            pixels[top : top + 24, left : left + 24] = color
            rows.append((f"{number}.png", name, left, top, left + 24, top + 24))
        rows.append((f"{number}.png", "red", 0, 0, 4, 4))
        Image.fromarray(pixels).save(tmp_path / f"{number}.png")
    with (tmp_path / "boxes.csv").open("w", newline="") as file:
        csv.writer(file).writerows([("file", "class_name", "xmin", "ymin", "xmax", "ymax"), *rows])
    return tmp_path / "boxes.csv"


def module(path, **options):
    given = {"min_side": 10, "min_count": 3, "image_size": 14, "context": 0.0, "batch_size": 4}
    data = ObjectCropsDataModule(path, mean=(0, 0, 0), std=(1, 1, 1), **{**given, **options})
    data.setup()
    return data


def test_each_crop_shows_its_object(annotated):
    data = module(annotated)
    assert data.classes == ["blue", "green", "red"]
    for split in ("train", "val", "test"):
        for index in range(len(data.datasets[split])):
            image, label = data.datasets[split][index]
            assert image.shape == (3, 14, 14)
            color = torch.tensor(CLASSES[data.classes[label]]) / 255
            assert torch.allclose(image, color[:, None, None].expand(3, 14, 14), atol=0.02)


def test_small_boxes_are_left_out(annotated):
    assert sum(len(module(annotated).datasets[split]) for split in ("train", "val", "test")) == 36
    assert sum(len(module(annotated, min_side=2).datasets[split]) for split in ("train", "val", "test")) == 48


def test_context_shows_the_surroundings(annotated):
    image, _ = module(annotated, context=0.5).datasets["test"][0]
    grey = (image - 128 / 255).abs().amax(0) < 0.02
    assert 0.1 < grey.float().mean() < 0.8


def test_no_photograph_is_in_two_splits_and_the_split_depends_on_the_seed_alone(annotated):
    data, again, other = (module(annotated, seed=seed) for seed in (0, 0, 1))
    files = [set(data.files[split]) for split in ("train", "val", "test")]
    assert sum(map(len, files)) == len(set().union(*files)) == 12
    assert data.files == again.files != other.files
    assert [len(part) for part in files] == [6, 2, 4]


def test_categories_are_joined_and_left_out(annotated):
    data = module(annotated, groups={"warm": ["Red"], "cold": ["green", "blue"]})
    assert data.classes == ["warm", "cold"]
    counts = sum(data.datasets[split].labels.bincount(minlength=2) for split in ("train", "val", "test"))
    assert counts.tolist() == [12, 24]
    assert module(annotated, groups={"a": ["red"], "b": ["blue"]}).num_classes == 2


def test_no_class_has_more_than_its_share(annotated):
    data = module(annotated, groups={"warm": ["red"], "cold": ["green", "blue"]}, max_count=12)
    counts = sum(data.datasets[split].labels.bincount(minlength=2) for split in ("train", "val", "test"))
    assert counts.tolist() == [12, 12]


def test_too_few_boxes_photographs_or_files(annotated):
    with pytest.raises(ValueError, match="lower `min_count`"):
        module(annotated, min_count=13)
    with pytest.raises(ValueError, match=r"Got no crop of .* for the .* split"):
        module(annotated, max_count=2, min_count=2)
    (annotated.parent / "3.png").unlink()
    with pytest.raises(FileNotFoundError, match=r"3\.png"):
        module(annotated)


@pytest.mark.parametrize(
    "wrong", [{"context": -0.1}, {"min_side": 0}, {"max_count": 0}, {"val_fraction": 0.7, "test_fraction": 0.3}]
)
def test_wrong_options(wrong):
    with pytest.raises(ValueError, match=next(iter(wrong))):
        ObjectCropsDataModule("boxes.csv", **wrong)


@pytest.mark.parametrize(
    ("box", "context", "size", "window"),
    [
        ((40, 40, 60, 50), 0.0, (100, 100), (40, 35, 60, 55)),
        ((0, 0, 20, 20), 0.5, (100, 100), (0, 0, 40, 40)),
        ((0, 10, 100, 20), 0.1, (100, 50), (0, 0, 100, 50)),
        ((10.4, 10.4, 10.6, 10.6), 0.0, (100, 100), (10, 10, 11, 11)),
    ],
)
def test_windows(box, context, size, window):
    assert square_around(tuple(map(float, box)), context, size) == window


def test_labels_are_shared_out_in_proportion():
    generator = np.random.default_rng(0)
    counts = [{int(label): 1 + int(generator.integers(3)) for label in generator.choice(5, 2)} for _ in range(200)]
    chosen = split_evenly(counts, [0.6, 0.15, 0.25], seed=1)
    for label in range(5):
        total = sum(count.get(label, 0) for count in counts)
        for split, fraction in enumerate((0.6, 0.15, 0.25)):
            own = sum(count.get(label, 0) for count, to in zip(counts, chosen, strict=True) if to == split)
            assert abs(own / total - fraction) < 0.06


@pytest.mark.shared
def test_every_split_gets_every_label_that_can_be_spared():
    # The middle split wants 0.9 images of label 1, and is full of label 0 before its turn comes.
    counts = [{0: 1, 1: 4}, {0: 1, 1: 4}, {0: 2, 1: 1}, *({0: 1} for _ in range(9))]
    for seed in range(20):
        chosen = split_evenly(counts, [0.8, 0.1, 0.1], seed)
        for split in range(3):
            assert {label for image, count in enumerate(counts) if chosen[image] == split for label in count} == {0, 1}
    # Two images cannot be in three splits, and none of them is lost.
    few = split_evenly([{0: 1, 1: 1}, {0: 1, 1: 1}, {0: 1}, {0: 1}, {0: 1}], [0.5, 0.25, 0.25], 0)
    assert len(set(few[:2])) == 2


def test_real_coco_crops(shared_data):
    groups = {
        "person": ["person"],
        "animal": ["dog", "cat", "elephant", "giraffe", "bird"],
        "food": ["donut", "carrot"],
    }
    data = ObjectCropsDataModule(
        shared_data / "coco128_boxes" / "boxes.csv", groups=groups, image_size=64, max_count=60
    )
    data.setup()
    assert data.classes == ["person", "animal", "food"] or data.classes == ["person", "animal"]
    images, labels = next(iter(data.train_dataloader()))
    assert images.shape[1:] == (3, 64, 64)
    assert 0 <= int(labels.min()) <= int(labels.max()) < data.num_classes
