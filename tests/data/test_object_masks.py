"""Masks in place of boxes: from folders, from COCO's annotations, and through the images' transforms."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from PIL import Image

from lightning_saliency.data import AnnotatedImages
from lightning_saliency.data.annotations import LabelledImage, LabelledObject, read_annotations
from lightning_saliency.data.boxes import BoxedImages
from lightning_saliency.data.object_masks import VOC_CLASSES, AnnotatedMasks, MaskFolder, read_mask_values

POLYGON = [20.0, 10.0, 40.0, 10.0, 40.0, 30.0, 20.0, 30.0]


@pytest.fixture
def folder(tmp_path):
    """Two photographs of 60×40, a mask for the first: a cat (3) on the right, a dog (7) on the left."""
    for name in ("one.jpg", "two.jpg"):
        Image.new("RGB", (60, 40), (255, 0, 0)).save(tmp_path / name)
    (tmp_path / "masks").mkdir()
    values = np.zeros((40, 60), dtype=np.uint8)
    values[10:30, 40:50] = 3
    values[:, :6] = 7
    Image.fromarray(values).save(tmp_path / "masks" / "one.png")
    lines = ["one.jpg,cat,3,0,0,60,40", "one.jpg,dog,7,0,0,60,40", "two.jpg,cat,3,0,0,60,40"]
    (tmp_path / "boxes.csv").write_text("\n".join(["file,class_name,class_index,xmin,ymin,xmax,ymax", *lines]) + "\n")
    return tmp_path


def values_file(folder, content):
    path = folder / "values.json"
    path.write_text(json.dumps(content))
    return str(path)


def annotated(folder, **options):
    options = {"resize": 20, "crop": 16, "masks": str(folder / "masks"), **options}
    return AnnotatedImages(str(folder / "boxes.csv"), **options)


@pytest.mark.parametrize("content", [None, {"Cat": 3, "dog": [7, 8]}, {"3": "cat", "7": "dog"}])
def test_a_folder_of_masks_follows_resize_and_crop(folder, content):
    data = annotated(folder, mask_classes=None if content is None else values_file(folder, content))
    # Of the second photograph there is no mask; the first one's dog ends at x = 6, that is 3, and is cropped away.
    assert len(data) == 1
    assert data.objects == "masks"
    sample = data[0]
    assert (sample.name, sample.labels, sample.objects) == ("one.jpg", ("cat",), "masks")
    # 60×40 -> 30×20 -> the centre 16×16, which begins at x = 7, y = 2: the cat is at x 13 to 18, y 3 to 13.
    expected = torch.zeros(16, 16, dtype=torch.bool)
    expected[3:13, 13:16] = True
    assert torch.equal(sample.masks[0], expected)
    assert torch.equal(sample.where(0), expected)


def test_without_masks_boxes_say_where(folder):
    data = annotated(folder, masks=None)
    assert (len(data), data.objects, data[0].masks) == (2, "boxes", ())
    assert bool(data[0].where(0).all())


def test_both_sides_change_the_shape_of_image_boxes_and_mask(folder):
    data = annotated(folder, resize=[10, 10], crop=None)
    sample = data[0]
    assert sample.image.shape == (3, 10, 10)
    assert sample.labels == ("cat", "dog")
    assert sample.boxes[0].tolist() == [[0.0, 0.0, 10.0, 10.0]]
    assert sample.masks[1][:, 0].all()
    assert not sample.masks[1][:, 1:].any()
    assert sample.masks[0].nonzero().amin(0).tolist() == [3, 7]


def test_the_masks_of_cocos_annotations(folder):
    pytest.importorskip("pycocotools")
    counts = [0, 40 * 5, 40 * 55]  # column by column: the first five
    things = [("cat", POLYGON), ("cat", {"size": [40, 60], "counts": counts}), ("dog", None)]
    content = {
        "images": [{"id": 1, "file_name": "one.jpg"}],
        "categories": [{"id": 3, "name": "cat"}, {"id": 7, "name": "dog"}],
        "annotations": [
            {
                "image_id": 1,
                "category_id": {"cat": 3, "dog": 7}[name],
                "bbox": [0, 0, 60, 40],
                **({} if part is None else {"segmentation": [part] if isinstance(part, list) else part}),
            }
            for name, part in things
        ],
    }
    (folder / "instances.json").write_text(json.dumps(content))
    data = AnnotatedImages(str(folder / "instances.json"), "coco", resize=[40, 60], masks="annotations")
    sample = data[0]
    assert sample.labels == ("cat",)  # of the dog no mask is known
    expected = torch.zeros(40, 60, dtype=torch.bool)
    expected[10:30, 20:40] = True
    expected[:, :5] = True
    assert torch.equal(sample.masks[0], expected)


def test_runs_that_are_compressed():
    tools = pytest.importorskip("pycocotools.mask")
    mask = np.zeros((40, 60), dtype=np.uint8, order="F")
    mask[5:9, 30:33] = 1
    packed = tools.encode(mask)
    packed["counts"] = packed["counts"].decode()  # as it stands in JSON
    image = LabelledImage("one.jpg", (LabelledObject("cat", 3, None, packed),))
    assert torch.equal(AnnotatedMasks().of(image, "cat", (40, 60)), torch.from_numpy(mask).bool())


def test_a_segmentation_that_is_none_names_its_image(folder):
    pytest.importorskip("pycocotools")
    image = LabelledImage(folder / "one.jpg", (LabelledObject("cat", 3, None, [["left", "top"]]),))
    with pytest.raises(ValueError, match=r"segmentation of .*one\.jpg, which cannot be read"):
        AnnotatedMasks().of(image, "cat", (40, 60))


def test_vocs_masks_need_no_file_of_values(folder):
    (folder / "Annotations").mkdir()
    (folder / "Annotations" / "one.xml").write_text(
        "<annotation><filename>one.jpg</filename><object><name>tvmonitor</name><bndbox><xmin>1</xmin><ymin>1</ymin>"
        "<xmax>60</xmax><ymax>40</ymax></bndbox></object></annotation>"
    )
    values = np.full((40, 60), 255, dtype=np.uint8)
    values[:20] = 20
    palette = Image.fromarray(values)
    palette.putpalette([number % 256 for number in range(768)])
    palette.save(folder / "masks" / "one.png")
    data = AnnotatedImages(
        str(folder / "Annotations"), "voc", str(folder), classes=values_file(folder, list(VOC_CLASSES)),
        resize=[40, 60], masks=str(folder / "masks"),
    )  # fmt: skip
    assert data[0].candidates == ((19,),)
    assert data[0].masks[0].nonzero().amax(0).tolist() == [19, 59]


def test_the_fingerprint_changes_with_the_masks(folder):
    first = annotated(folder).fingerprint()
    assert annotated(folder).fingerprint() == first
    assert annotated(folder, masks=None).fingerprint() != first
    values = np.array(Image.open(folder / "masks" / "one.png"))
    values[12, 44] = 0
    values[13, 44] = 0
    Image.fromarray(values).save(folder / "masks" / "one.png")
    assert annotated(folder).fingerprint() != first


def test_masks_of_another_size_are_refused(folder):
    Image.new("L", (30, 20)).save(folder / "masks" / "two.png")
    with pytest.raises(ValueError, match=r"two\.png of \[20, 30\] for an image of \[40, 60\]"):
        annotated(folder)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"masks": "nowhere"}, "where there is no folder"),
        ({"masks": "annotations"}, "Allowed is it with format='coco'"),
        ({"masks": None, "mask_classes": "values.json"}, "Allowed is it beside a folder of masks"),
        ({"masks": "annotations", "mask_classes": "values.json"}, "Allowed is it beside a folder of masks"),
    ],
)
def test_mistakes_are_told(folder, options, message):
    with pytest.raises(ValueError, match=message):
        annotated(folder, **options)


def test_masks_that_know_no_class_leave_no_image(folder):
    with pytest.raises(ValueError, match="masks that are named like the images"):
        annotated(folder, mask_classes=values_file(folder, {"horse": 3}))


@pytest.mark.parametrize("content", [{}, {"cat": "dog"}, {"cat": 1.5}, 3, {"cat": [True]}])
def test_files_of_values_are_checked(folder, content):
    with pytest.raises(ValueError, match="Got something else from"):
        read_mask_values(values_file(folder, content))


def test_values_below_a_key_and_in_a_list(folder):
    path = folder / "classes.yaml"
    path.write_text("train: {masks: here}\nclasses:\n  0: unlabeled\n  1: person\n  2: person\n")
    assert read_mask_values(path) == {"unlabeled": (0,), "person": (1, 2)}
    assert read_mask_values(values_file(folder, {"names": ["unlabeled", "person"]})) == {
        "unlabeled": (0,),
        "person": (1,),
    }


def test_names_are_compared_without_spaces(folder):
    image = read_annotations(folder / "boxes.csv")[0]
    assert MaskFolder(folder / "masks", {"CAT ": (3,)}).of(image, "cat", (40, 60)).sum() == 200


@pytest.mark.parametrize("resize", [[20], [20, 20, 20], [0, 20], 0])
def test_sides_are_checked(folder, resize):
    with pytest.raises(ValueError, match="Allowed are whole numbers with 1 <= crop <= resize"):
        annotated(folder, resize=resize, crop=None)


def test_a_crop_after_both_sides(folder):
    data = BoxedImages(read_annotations(folder / "boxes.csv"), resize=(20, 24), crop=8)
    assert data[0].image.shape == (3, 8, 8)
