"""Objects of a batch: boxes in every format, and which masks are masks of objects."""

from __future__ import annotations

import pytest
import torch
from torchvision import tv_tensors

from lightning_saliency.batches import BatchReader, find_objects

SIZE = (16, 20)
IMAGES = torch.rand(2, 3, *SIZE)
#: The same object, x from 4 to 10 and y from 2 to 6, in each format.
SAME = {
    "xyxy": [4, 2, 10, 6],
    "xywh": [4, 2, 6, 4],
    "cxcywh": [7, 4, 6, 4],
    "relative_xyxy": [0.2, 0.125, 0.5, 0.375],
    "relative_xywh": [0.2, 0.125, 0.3, 0.25],
    "relative_cxcywh": [0.35, 0.25, 0.3, 0.25],
    "xywhr": [4, 2, 6, 4, 0],
    "cxcywhr": [7, 4, 6, 4, 0],
    "xyxyxyxy": [4, 2, 10, 2, 10, 6, 4, 6],
    "relative_xyxyxyxy": [0.2, 0.125, 0.5, 0.125, 0.5, 0.375, 0.2, 0.375],
}
KNOWN = [form.name for form in tv_tensors.BoundingBoxFormat]


def _is_the_object(objects):
    expected = torch.zeros(2, *SIZE, dtype=torch.bool)
    expected[:, 2:6, 4:10] = True
    return objects is not None and torch.equal(objects, expected)


@pytest.mark.parametrize("form", [form for form in SAME if form.removeprefix("relative_").upper() in KNOWN])
def test_plain_boxes_of_each_format_are_the_same_object(form):
    boxes = torch.tensor([[SAME[form]]] * 2, dtype=torch.float32)
    reader = BatchReader(box_format=form.upper())
    for given in (boxes, list(boxes), boxes[:, 0], boxes.tolist(), boxes.double()):
        assert _is_the_object(reader.read({"image": IMAGES, "boxes": given}).objects())
    targets = [{"boxes": box, "labels": torch.ones(1)} for box in boxes]
    assert _is_the_object(reader.read((IMAGES, targets)).objects())


@pytest.mark.parametrize("form", KNOWN)
@pytest.mark.parametrize("dtype", [torch.float32, torch.int64])
def test_boxes_of_torchvision_tell_their_format_wherever_they_lie(form, dtype):
    if dtype == torch.int64 and form not in ("XYXY", "XYWH", "CXCYWH"):
        pytest.skip("rotated boxes are floating point")
    box = torch.tensor([SAME[form.lower()]], dtype=dtype)
    boxes = tv_tensors.BoundingBoxes(box, format=form, canvas_size=SIZE)
    both = tv_tensors.BoundingBoxes(torch.cat([box, box]), format=form, canvas_size=SIZE)
    reader = BatchReader(box_format="relative_xyxy")
    for batch in (
        {"image": IMAGES, "boxes": [boxes, boxes]},
        (IMAGES, [{"boxes": boxes}, {"boxes": boxes}]),
        (IMAGES, {"unusual": [boxes, boxes]}),
        (IMAGES, (boxes, boxes)),
        {"image": IMAGES, "bbox": both},
    ):
        assert _is_the_object(reader.read(batch).objects())


@pytest.mark.parametrize("name", ["bbox_xyxy", "boxes_xywh", "gt_bboxes_cxcywh"])
def test_a_name_may_tell_the_format(name):
    boxes = torch.tensor([SAME[name.rpartition("_")[2]]] * 2)
    assert _is_the_object(BatchReader(box_format="relative_xywh").read({"image": IMAGES, name: boxes}).objects())


@pytest.mark.skipif("CXCYWHR" not in KNOWN, reason="torchvision has no rotated boxes")
def test_a_rotated_box_covers_the_pixels_within():
    diamond = tv_tensors.BoundingBoxes(torch.tensor([[8.0, 8, 8, 8, 45]]), format="CXCYWHR", canvas_size=SIZE)
    objects = BatchReader().read({"image": IMAGES, "boxes": [diamond, diamond[:0]]}).objects()
    rows, columns = torch.meshgrid(torch.arange(16) + 0.5, torch.arange(20) + 0.5, indexing="ij")
    expected = (rows - 8).abs() + (columns - 8).abs() < 4 * 2**0.5
    assert torch.equal(objects[0], expected)
    assert not objects[1].any()


def test_boxes_of_an_unknown_format_are_refused():
    with pytest.raises(ValueError, match=r"Got box_format='ltrb'.*'xyxy', 'xywh', 'cxcywh'"):
        BatchReader(box_format="ltrb")


@pytest.mark.parametrize("boxes", [[[0.2, 0.1, 0.5, 0.4]], [[0.35, 0.25, 0.3, 0.25], [0.0, 0, 1, 1]]])
def test_relative_boxes_are_no_pixels_and_the_remedy_is_said(boxes):
    with pytest.warns(UserWarning, match="box_format='relative_xyxy'"):
        assert find_objects({"image": IMAGES, "boxes": torch.tensor([boxes] * 2)}, SIZE) is None


@pytest.mark.parametrize("padding", [[float("nan")] * 4, [-1.0] * 4, [0.0] * 4])
@pytest.mark.parametrize("form", ["xyxy", "xywh", "cxcywh"])
def test_padding_covers_nothing(form, padding):
    boxes = torch.tensor([[SAME[form], padding]] * 2)
    assert _is_the_object(find_objects({"image": IMAGES, "boxes": boxes}, SIZE, form))


@pytest.mark.parametrize(
    "boxes", [torch.rand(2, 3, 5), torch.rand(3, 4), [torch.rand(1, 4)], [["a"], ["b"]], "boxes", 3, torch.rand(2)]
)
def test_what_is_no_box_is_no_object(boxes):
    assert find_objects({"image": IMAGES, "boxes": boxes}, SIZE) is None


def test_each_image_has_its_own_number_of_boxes():
    first, second = torch.tensor([SAME["xyxy"], [12, 8, 14, 9]]), torch.zeros(0, 4)
    objects = find_objects({"image": IMAGES, "boxes": [first, second]}, SIZE)
    assert objects is not None
    assert objects.flatten(1).sum(1).tolist() == [26, 0]
    told = tv_tensors.BoundingBoxes(torch.tensor([SAME["xywh"]]), format="XYWH", canvas_size=SIZE)
    assert _is_the_object(find_objects((IMAGES, [{"boxes": told}, {"boxes": torch.tensor([SAME["xyxy"]])}]), SIZE))


def test_one_image_with_relative_boxes_is_enough_to_say_so():
    boxes = [torch.tensor([SAME["xyxy"]]), torch.tensor([[0.2, 0.1, 0.5, 0.4], [0.0, 0, 1, 1]])]
    with pytest.warns(UserWarning, match="box_format='relative_xyxy'"):
        assert find_objects({"image": IMAGES, "boxes": boxes}, SIZE) is None
    # Whole numbers, and boxes that are also elsewhere, are pixels.
    assert find_objects({"image": IMAGES, "boxes": [boxes[0], torch.tensor([[0, 0, 1, 1]])]}, SIZE) is not None
    assert find_objects({"image": IMAGES, "boxes": [boxes[0], torch.cat([boxes[1], boxes[0]])]}, SIZE) is not None


# --- masks ------------------------------------------------------------------------------------------------------------


def _mask(value, background=0, dtype=torch.int64):
    mask = torch.full((2, *SIZE), background, dtype=dtype)
    mask[:, 2:6, 4:10] = value
    return mask


@pytest.mark.parametrize(
    "mask",
    [
        _mask(True, False, torch.bool),
        _mask(7),
        _mask(3, -1),
        _mask(1, 255),
        _mask(1, 255, torch.uint8),
        _mask(9, -100),
        _mask(1.0, 0.0, torch.float32),
        _mask(1.0, 255.0, torch.float32),
        _mask(2.0, 0.0, torch.float16),
        _mask(1.0, float("nan"), torch.float32),
        _mask(1)[:, None],
        torch.stack([_mask(1), torch.zeros(2, *SIZE).long()], 1),
        list(_mask(1)),
        [torch.stack([mask, mask * 0, mask]) for mask in _mask(1)],
        tv_tensors.Mask(_mask(4)),
    ],
)
def test_masks_of_objects(mask):
    assert _is_the_object(find_objects({"image": IMAGES, "mask": mask}, SIZE))
    assert _is_the_object(find_objects((IMAGES, {"meta": 1, "gt_masks": mask}), SIZE))
    if isinstance(mask, tv_tensors.Mask):
        assert _is_the_object(find_objects((IMAGES, mask), SIZE))


@pytest.mark.parametrize(
    "mask",
    [
        torch.rand(2, *SIZE) + 0.1,  # height
        torch.rand(2, 1, *SIZE),  # a soft mask
        torch.rand(2, *SIZE).half() * 80,  # depth
        torch.rand(2, *SIZE).round() + torch.rand(2, *SIZE).round(),  # counts
        torch.randn(2, *SIZE),  # a standardised map
        torch.full((2, *SIZE), 3.7),
        torch.full((2, *SIZE), 4.0),
        _mask(0.5, 0.0, torch.float32),
        list(torch.rand(2, *SIZE)),
        tv_tensors.Mask(torch.rand(2, *SIZE)),
    ],
)
def test_quantities_are_no_objects(mask):
    assert find_objects({"image": IMAGES, "mask": mask}, SIZE) is None
    # But boxes beside them are.
    assert _is_the_object(
        find_objects({"image": IMAGES, "mask": mask, "boxes": torch.tensor([SAME["xyxy"]] * 2)}, SIZE)
    )


@pytest.mark.parametrize("dtype", [torch.uint8, torch.int64, torch.float32])
def test_masks_of_0_and_255_show_nothing_unless_255_is_an_object(dtype):
    batch = {"image": IMAGES, "mask": _mask(255, 0, dtype)}
    with pytest.warns(UserWarning, match="ignore_index=None"):
        assert not BatchReader().read(batch).objects().any()
    assert _is_the_object(BatchReader(ignore_index=None).read(batch).objects())


@pytest.mark.parametrize("ignored", [0, 21, 254])
def test_another_number_may_mean_no_label(ignored):
    mask = _mask(3, ignored)
    assert _is_the_object(BatchReader(ignore_index=ignored).read({"image": IMAGES, "mask": mask}).objects())


@pytest.mark.parametrize("mask", [torch.ones(2, 5, 5), torch.ones(3, *SIZE), torch.ones(20), [1, 2], None])
def test_masks_of_other_sizes_are_none(mask):
    assert find_objects({"image": IMAGES, "mask": mask}, SIZE) is None


def test_objects_of_images_with_the_channels_last():
    content = BatchReader().read({"image": torch.rand(2, *SIZE, 3), "boxes": torch.tensor([SAME["xyxy"]] * 2)})
    assert _is_the_object(content.objects())
