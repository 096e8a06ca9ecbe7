"""Images of one's own: which of them are taken, what tells them from others, and what is said of damaged items."""

from __future__ import annotations

import pytest
import torch
from torch.utils.data import Dataset

from lightning_saliency.networks import weights_fingerprint
from lightning_saliency.studies.engine.shared import sharing
from lightning_saliency.studies.recipes import data_recipe, model_recipe, network_from, samples_from
from lightning_saliency.studies.samples import OwnImages, build_samples

IMAGES = torch.rand(8, 3, 12, 12, generator=torch.Generator().manual_seed(0))
SCENES = {
    "class_path": "lightning_saliency.data.DigitScenes",
    "init_args": {"train_size": 4, "val_size": 4, "test_size": 6, "size": 32, "batch_size": 4},
}


class Photos(Dataset):
    """Images without classes, as `ImageFiles` gives them."""

    def __init__(self, count=4):
        self.count = count

    def __len__(self):
        return self.count

    def __getitem__(self, index):
        return {"image": IMAGES[index]}


def detection(labels, boxes=None, image=IMAGES[0]):
    return (image, {"labels": labels, **({} if boxes is None else {"boxes": boxes})})


def test_images_of_the_same_means_are_told_apart():
    chequered = torch.ones(12, 12)
    chequered[::2, ::2] = chequered[1::2, 1::2] = -1
    assert OwnImages(IMAGES).fingerprint() == OwnImages(IMAGES.clone()).fingerprint()
    for other in (IMAGES + 0.3 * chequered, IMAGES.double(), IMAGES[:7]):
        assert OwnImages(other).fingerprint() != OwnImages(IMAGES).fingerprint()
    items = [(image, 1) for image in IMAGES]
    assert OwnImages(items).fingerprint() == OwnImages(IMAGES, [1] * 8).fingerprint()
    assert OwnImages(items).fingerprint() != OwnImages(IMAGES).fingerprint()


def test_what_is_made_from_files_may_differ_in_the_last_bit(monkeypatch):
    before = build_samples(SCENES, None, 0)
    item = type(before._data).__getitem__

    def nearly(self, index):
        found = item(self, index)
        return {**found, "image": found["image"] + 1e-6}

    monkeypatch.setattr(type(before._data), "__getitem__", nearly)
    assert build_samples(SCENES, None, 0).fingerprint() == before.fingerprint()


@pytest.mark.parametrize("limit", [None, 2])
def test_images_without_a_class_are_left_out(limit):
    empty = detection([], [], IMAGES[7])
    data = [
        empty,
        *(detection([1, 2], torch.rand(2, 4).cumsum(1).sort(1).values, image) for image in IMAGES[:3]),
        empty,
    ]
    samples = OwnImages(data, limit=limit)
    assert len(samples) == (limit or 3)
    assert samples.pairs == [2] * len(samples)
    assert all(samples[index].labels == ("1", "2") for index in range(len(samples)))
    if limit is None:
        assert samples.description() == "3 images, 6 pairs of image and class (2 images without a class left out)"
    # Where every image shows something, the same ones are chosen as ever.
    assert [OwnImages(IMAGES, limit=4, seed=seed)._chosen for seed in (0, 1)] == [[1, 2, 4, 5], [1, 3, 5, 6]]
    with pytest.raises(ValueError, match="no image that shows a class"):
        OwnImages([empty])


@pytest.mark.parametrize("label", [[{"bbox": [0, 0, 1, 1]}], torch.tensor([0, 1, 0, 1]), "cat", 1.7, torch.tensor(2.0)])
def test_classes_are_whole_numbers(label):
    for item in ((IMAGES[0], label), {"image": IMAGES[0], "label": label}):
        with pytest.raises(TypeError, match=r"as a class of image 0\. Allowed are whole numbers"):
            OwnImages([item])
    for whole in (3, torch.tensor(3), torch.tensor([3]), IMAGES.new_tensor(3, dtype=torch.uint8).numpy()):
        assert OwnImages([(IMAGES[0], whole)]).classes == {3}


@pytest.mark.parametrize("box", [[10, 10, 5, 11], [10, 10, 11, 4], [0, 0, float("nan"), 4], [0, 0, 4, float("inf")]])
def test_boxes_end_after_they_begin(box):
    with pytest.raises(ValueError, match=r"the box .* of image 0, .*is it a corner, width and height"):
        OwnImages([detection([1], [box])])
    assert OwnImages([detection([1], [[3, 3, 3, 9]])]).objects == "boxes"
    with pytest.raises(ValueError, match=r"Got boxes \[4\] for 1 labels of image 0"):
        OwnImages([detection([1], [1, 2, 3, 4])])


def test_targets_stand_for_classes_that_the_data_lack():
    with sharing("unused", elsewhere=False) as share:
        _, listed = data_recipe(IMAGES, [0, 1, 2, 3, 4, 5, 6, 7], 4, 0, share)
        _, tensor = data_recipe(IMAGES, torch.arange(8), 4, 0, share)
        _, photos = data_recipe(Photos(), [5, 6, 7, 8], None, 0, share)
    assert [sample.labels for sample in map(listed.__getitem__, range(4))] == [("1",), ("2",), ("4",), ("5",)]
    assert tensor.fingerprint() == listed.fingerprint()
    assert photos.classes == {5, 6, 7, 8}
    spec = {"class_path": f"{__name__}.Photos", "init_args": {"count": 3}}
    recipe, built = data_recipe(spec, torch.tensor([5, 6, 7]), None, 0, None)
    assert built.classes == samples_from(recipe).classes == {5, 6, 7}


@pytest.mark.parametrize(
    ("data", "targets", "message"),
    [
        (IMAGES, [1, 2], r"targets=\[1, 2\] for 8 images"),
        (IMAGES, torch.rand(8), r"targets=\[8\] of torch\.float32 for 8 images"),
        (IMAGES, ["cat"] * 8, "Allowed is a class for each of them, whole numbers"),
        ([(image, 1) for image in IMAGES], [1] * 8, r"item \d carries a class of its own"),
        (SCENES, [9] * 6, "carries a class of its own"),
        (SCENES, [9] * 5, "for 6 images"),
    ],
)
def test_targets_that_do_not_fit_are_said(data, targets, message):
    with pytest.raises(ValueError, match=message):
        data_recipe(data, targets, 3, 0, None)


def test_a_network_without_weights_is_the_same_in_every_process(tmp_path):
    """What is built anew, as another process would, after other random numbers."""
    found = []
    for number in range(2):
        torch.manual_seed(number)
        with sharing(tmp_path, elsewhere=False) as share:
            state = torch.random.get_rng_state()
            network = network_from(model_recipe({"model": "small_cnn", "num_classes": 10}, "net", share))
            assert torch.equal(torch.random.get_rng_state(), state)
            found.append(network)
    assert found[0] is not found[1]
    assert weights_fingerprint(found[0]) == weights_fingerprint(found[1])


def masked(labels, masks, image=IMAGES[0]):
    return (image, {"labels": torch.tensor(labels, dtype=torch.int64), "masks": masks})


def test_masks_of_a_label_are_joined_and_count_in_place_of_boxes():
    size = tuple(IMAGES[0].shape[1:])
    masks = torch.zeros(3, *size, dtype=torch.uint8)
    masks[0, 0, 0], masks[1, 1, 1], masks[2, 0, 1] = 1, 1, 1
    image, target = masked([4, 4, 2], masks)
    sample = OwnImages([(image, {**target, "boxes": torch.tensor([[0.0, 0.0, 8.0, 8.0]] * 3)})])[0]
    assert (sample.labels, sample.objects) == (("4", "2"), "masks")
    assert [one.nonzero().tolist() for one in sample.masks] == [[[0, 0], [1, 1]], [[0, 1]]]
    assert torch.equal(sample.where(0), sample.masks[0])
    alone = {"image": IMAGES[0], "label": 3, "masks": masks.float()}
    assert OwnImages([alone])[0].where(0).sum() == 3


def test_what_is_known_of_all_images():
    size = tuple(IMAGES[0].shape[1:])
    by_mask, by_box = masked([1], torch.ones(1, *size)), detection([1], [[3, 3, 3, 9]])
    assert OwnImages([by_mask, by_mask]).objects == "masks"
    assert OwnImages([by_mask, by_box]).objects == "boxes"
    assert OwnImages([by_mask, (IMAGES[0], 1)]).objects is None


def test_masks_are_part_of_the_fingerprint():
    size = tuple(IMAGES[0].shape[1:])
    masks = torch.ones(1, *size)
    other = masks.clone()
    other[0, 0, 0] = 0
    plain = OwnImages([(IMAGES[0], 1)]).fingerprint()
    assert len({plain, *(OwnImages([masked([1], each)]).fingerprint() for each in (masks, other))}) == 3


def test_masks_of_another_shape_are_refused():
    with pytest.raises(ValueError, match=r"Got masks \[1, 2, 2\] for 1 labels of image 0"):
        OwnImages([masked([1], torch.ones(1, 2, 2))])
