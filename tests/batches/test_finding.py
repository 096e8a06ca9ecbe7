from collections import namedtuple
from dataclasses import make_dataclass

import pytest
import torch

from lightning_saliency.batches import (
    BatchError,
    BatchReader,
    find_images,
    find_labels,
    find_objects,
    find_predictions,
)

IMAGES = torch.rand(4, 3, 8, 10)
LABELS = torch.tensor([3, 1, 0, 2])


@pytest.mark.parametrize(
    "batch",
    [
        IMAGES,
        (IMAGES, LABELS),
        [IMAGES, LABELS],
        {"image": IMAGES, "label": LABELS},
        {"label": LABELS, "pixel_values": IMAGES},
        {"meta": {"id": LABELS}, "sample": {"views": [IMAGES, IMAGES + 1]}},
        (LABELS, {"inputs": (IMAGES,)}),
        {"unusual": IMAGES, "y": LABELS},
    ],
)
def test_images_are_found_wherever_they_are(batch):
    assert find_images(batch) is IMAGES


def test_a_usual_key_comes_before_the_order_of_the_dictionary():
    depth = torch.rand(4, 1, 8, 10)
    assert find_images({"depth": depth, "image": IMAGES}) is IMAGES


def test_float_images_come_before_uint8_masks():
    masks = torch.zeros(4, 1, 8, 10, dtype=torch.uint8)
    assert find_images((masks, IMAGES)) is IMAGES
    assert find_images((masks, LABELS)) is masks


@pytest.mark.parametrize("key", ["a.b.1", "a.b.-1"])
def test_a_dotted_key_is_followed(key):
    assert find_images({"a": {"b": [LABELS, IMAGES]}, "image": IMAGES + 1}, key) is IMAGES


def test_an_integer_key_is_a_position():
    assert find_images((LABELS, IMAGES), 1) is IMAGES


def test_no_images_says_what_the_batch_is():
    with pytest.raises(BatchError, match=r"'features': Tensor\[4, 16\] float32.*image_key"):
        find_images({"features": torch.rand(4, 16), "label": LABELS})


def test_a_wrong_key_says_what_is_there():
    with pytest.raises(BatchError, match=r"image_key='label'.*Tensor\[4\] int64"):
        find_images({"image": IMAGES, "label": LABELS}, "label")
    with pytest.raises(BatchError, match="NoneType"):
        find_images({"image": IMAGES}, "picture")


def test_labels_are_integers_one_an_image():
    assert find_labels((IMAGES, LABELS), 4) is LABELS
    assert find_labels({"index": torch.arange(4), "label": LABELS}, 4) is LABELS
    assert find_labels((IMAGES, torch.rand(4)), 4) is None
    assert find_labels((IMAGES, LABELS), 5) is None


def test_boxes_become_masks():
    boxes = torch.tensor([[[1.0, 2.0, 4.0, 5.0]]] * 4)
    objects = find_objects({"image": IMAGES, "boxes": boxes}, (8, 10))
    assert objects.shape == (4, 8, 10)
    assert objects.dtype == torch.bool
    assert objects[0].sum() == 9
    assert objects[0, 2:5, 1:4].all()


@pytest.mark.parametrize("shape", [(4, 8, 10), (4, 2, 8, 10)])
def test_masks_are_united(shape):
    masks = torch.zeros(shape)
    masks[..., 3, 3] = 2
    objects = find_objects((IMAGES, {"masks": masks}), (8, 10))
    assert objects.shape == (4, 8, 10)
    assert objects.sum() == 4


def test_detection_targets_one_dictionary_an_image():
    targets = [{"boxes": torch.tensor([[0.0, 0.0, 2.0, 2.0]] * n)} for n in (1, 3, 0, 2)]
    targets[2]["boxes"] = torch.zeros(0, 4)
    objects = find_objects((IMAGES, targets), (8, 10))
    assert objects.flatten(1).sum(1).tolist() == [4, 4, 0, 4]


def test_no_objects_is_none():
    assert find_objects((IMAGES, LABELS), (8, 10)) is None
    assert find_objects({"masks": torch.ones(4, 5, 5)}, (8, 10)) is None


def test_predictions_of_a_step():
    logits = torch.rand(4, 7)
    predicted = logits.argmax(1)
    assert torch.equal(find_predictions({"loss": torch.tensor(1.0), "logits": logits}, 4), predicted)
    assert torch.equal(find_predictions((torch.tensor(1.0), logits), 4), predicted)
    assert torch.equal(find_predictions({"preds": LABELS}, 4), LABELS)
    yes_no = torch.tensor([0.5, -0.5, 2.0, -3.0])
    for one in (yes_no, yes_no[:, None], yes_no[:, None, None, None].expand(-1, 1, 6, 6)):
        assert find_predictions({"logits": one}, 4).tolist() == [1, 0, 1, 0]
    Output, Record = namedtuple("Output", ["loss", "logits"]), make_dataclass("Record", ["loss", "preds"])
    for kind in (Output, Record):
        assert find_predictions(kind(torch.tensor(1.0), yes_no), 4).tolist() == [1, 0, 1, 0]
    Nameless = namedtuple("Nameless", ["loss", "seen"])
    assert torch.equal(find_predictions(Nameless(torch.tensor(1.0), logits), 4), predicted)
    assert find_predictions((torch.tensor(1.0), yes_no), 4) is None  # the losses of the images, perhaps
    assert find_predictions({"loss": torch.tensor(1.0)}, 4) is None
    assert find_predictions(None, 4) is None
    assert find_predictions(torch.tensor(1.0), 4) is None


@pytest.mark.parametrize("key", [None, 0])
@pytest.mark.parametrize(
    ("images", "told"),
    [
        (
            torch.zeros(4, 1, 24, 24, dtype=torch.int32),
            r"\[4, 1, 24, 24\] of torch.int32 is not taken for images.*float",
        ),
        (torch.zeros(4, 1, 24, 24, dtype=torch.int16), r"of torch.int16 is not taken.*or bytes \(uint8\)"),
        (torch.zeros(4, 24, 24), r"\[4, 24, 24\] has no channels.*unsqueeze\(1\)"),
    ],
)
def test_tensors_that_are_nearly_images_are_told_what_is_missing(images, told, key):
    with pytest.raises(BatchError, match=told):
        BatchReader(image_key=key).read([images, torch.arange(4)])


def test_labels_in_floating_point_are_told_to_be_converted():
    batch = BatchReader().read([torch.zeros(4, 3, 8, 8), torch.tensor([0.0, 1.0, 2.0, 3.0])])
    with pytest.raises(BatchError, match=r"convert them with \.long\(\)"):
        batch.ground_truth()
