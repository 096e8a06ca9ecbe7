"""Annotated images: three formats, the same objects; boxes follow the transforms."""

from __future__ import annotations

import json

import pytest
import torch
from PIL import Image

from lightning_saliency.data.boxes import BoxedImages, read_annotations, read_class_indices


@pytest.fixture
def folder(tmp_path):
    for name, size in (("wide.png", (60, 40)), ("tall.png", (40, 80))):
        Image.new("RGB", size, (255, 0, 0)).save(tmp_path / name)
    return tmp_path


def csv_file(folder, lines, header="file,class_name,xmin,ymin,xmax,ymax"):
    path = folder / "boxes.csv"
    path.write_text("\n".join([header, *lines]) + "\n")
    return path


def objects(images):
    return {image.path.name: [(thing.name, thing.box) for thing in image.objects] for image in images}


EXPECTED = {
    "wide.png": [("cat", (20.0, 10.0, 40.0, 30.0)), ("hot dog", (0.0, 0.0, 5.0, 5.0))],
    "tall.png": [("cat", (10.0, 30.0, 30.0, 50.0))],
}


def test_csv_coco_and_voc_say_the_same(folder):
    lines = [f"{file},{name},{','.join(map(str, box))}" for file, things in EXPECTED.items() for name, box in things]
    assert objects(read_annotations(csv_file(folder, lines))) == EXPECTED

    numbers = {"wide.png": 7, "tall.png": 9}
    categories = {"cat": 17, "hot dog": 58}
    coco = {
        "images": [{"id": number, "file_name": file} for file, number in numbers.items()],
        "categories": [{"id": number, "name": name} for name, number in categories.items()],
        "annotations": [
            {
                "image_id": numbers[file],
                "category_id": categories[name],
                "bbox": [box[0], box[1], box[2] - box[0], box[3] - box[1]],
            }
            for file, things in EXPECTED.items()
            for name, box in things
        ],
    }
    (folder / "instances.json").write_text(json.dumps(coco))
    assert objects(read_annotations(folder / "instances.json", "coco")) == EXPECTED

    (folder / "Annotations").mkdir()
    for file, things in EXPECTED.items():
        inside = "".join(
            f"<object><name>{name}</name><bndbox><xmax>{x2:g}</xmax><xmin>{x1 + 1:g}</xmin><ymin>{y1 + 1:g}</ymin>"
            f"<ymax>{y2:g}</ymax></bndbox></object>"
            for name, (x1, y1, x2, y2) in things
        )
        text = f"<annotation><filename>{file}</filename>{inside}</annotation>"
        (folder / "Annotations" / f"{file}.xml").write_text(text)
    assert objects(read_annotations(folder / "Annotations", "voc", images=folder)) == EXPECTED


def test_boxes_follow_resize_and_crop(folder):
    # 60×40 -> 30×20 (shorter side 20) -> the centre 16×16, which begins at x = 7, y = 2.
    lines = ["wide.png,cat,20,10,40,30", "wide.png,dog,0,0,14,40", "wide.png,cat,50,0,60,40"]
    data = BoxedImages(read_annotations(csv_file(folder, lines)), {"cat": (3, 5), "dog": (8,)}, resize=20, crop=16)
    sample = data[0]
    assert sample.image.shape == (3, 16, 16)
    # The dog's box ends at x = 7 and is cropped away, of the second cat nothing is left either.
    assert sample.labels == ("cat",)
    assert sample.candidates == ((3, 5),)
    assert torch.equal(sample.boxes[0], torch.tensor([[3.0, 3.0, 13.0, 13.0]]))
    assert data.pairs == [1]


def test_a_cut_box_ends_at_the_border(folder):
    data = BoxedImages(
        read_annotations(csv_file(folder, ["wide.png,cat,0,10,40,30"])), {"cat": (3,)}, resize=20, crop=16
    )
    assert data[0].boxes[0].tolist() == [[0.0, 3.0, 13.0, 13.0]]


def test_pixels_are_normalised(folder):
    data = BoxedImages(
        read_annotations(csv_file(folder, ["wide.png,cat,20,10,40,30"])), {"cat": (0,)}, 20, 16, (0.5,) * 3, (0.25,) * 3
    )
    assert torch.allclose(data[0].image[:, 4, 4], torch.tensor([2.0, -2.0, -2.0]))


def test_names_are_compared_without_spaces_and_unknown_classes_are_left_out(folder):
    lines = ["wide.png,hot dog,20,10,40,30", "wide.png,person,20,10,40,30", "tall.png,person,10,30,30,50"]
    data = BoxedImages(read_annotations(csv_file(folder, lines)), {"hotdog": (934,)}, resize=20, crop=16)
    assert len(data) == 1
    assert data[0].labels == ("hot dog",)
    assert "1 images show no class" in data.description()


def test_names_that_are_one_without_spaces_and_capitals_have_the_classes_of_all(folder):
    images = read_annotations(csv_file(folder, ["wide.png,Hot-Dog,20,10,40,30"]))
    assert BoxedImages(images, {"hot dog": [3], "hotdog": (5, 8)})[0].candidates == ((3, 5, 8),)


def test_labels_without_boxes(folder):
    path = csv_file(folder, ["wide.png,90,lorikeet", "tall.png,981,ballplayer"], "file,class_index,name")
    data = BoxedImages(read_annotations(path), resize=20, crop=16)
    assert data.objects is None
    assert [data[index].candidates for index in range(2)] == [((90,),), ((981,),)]
    assert data[0].boxes == (None,)


def test_a_larger_limit_contains_the_smaller_one(folder):
    for number in range(12):
        Image.new("RGB", (24, 24)).save(folder / f"{number:02d}.png")
    images = read_annotations(
        csv_file(folder, [f"{number:02d}.png,{number}" for number in range(12)], "file,class_index")
    )
    chosen = {
        limit: [sample.name for sample in (data[i] for i in range(len(data)))]
        for limit in (3, 7, None)
        for data in [BoxedImages(images, resize=20, crop=16, limit=limit, seed=4)]
    }
    assert set(chosen[3]) < set(chosen[7]) < set(chosen[None])
    assert chosen[7] == sorted(chosen[7])
    other = BoxedImages(images, resize=20, crop=16, limit=3, seed=5)
    assert [other[i].name for i in range(3)] != chosen[3]


def test_the_fingerprint_changes_with_pixels_boxes_and_transforms(folder):
    def fingerprint(line="wide.png,cat,20,10,40,30", **options):
        options = {"resize": 20, "crop": 16, **options}
        return BoxedImages(read_annotations(csv_file(folder, [line])), {"cat": (0,)}, **options).fingerprint()

    first = fingerprint()
    assert fingerprint() == first
    assert fingerprint(crop=18) != first
    assert fingerprint("wide.png,cat,20,10,40,31") != first
    Image.new("RGB", (60, 40), (0, 255, 0)).save(folder / "wide.png")
    assert fingerprint() != first


@pytest.mark.parametrize(
    ("name", "content", "expected"),
    [
        ("a.json", '{"dog": [1, 2], "cat": 0}', {"dog": (1, 2), "cat": (0,)}),
        ("a.json", '["cat", "dog"]', {"cat": (0,), "dog": (1,)}),
        ("a.json", '["crane", "dog", "crane"]', {"crane": (0, 2), "dog": (1,)}),
        ("a.csv", "class_index,name\n4,crane\n5,cat\n9,crane\n", {"crane": (4, 9), "cat": (5,)}),
    ],
)
def test_class_indices(tmp_path, name, content, expected):
    (tmp_path / name).write_text(content)
    assert read_class_indices(tmp_path / name) == expected


@pytest.mark.parametrize(
    ("columns", "numbers"),
    [
        ("width,height,xmin,ymin,xmax,ymax", "60,40,20,10,40,30"),  # the image's width and height
        ("x,y,width,height", "20,10,20,20"),
        ("cx,cy,width,height", "30,20,20,20"),
        ("height,cy,width,cx", "20,20,20,30"),
    ],
)
def test_the_columns_of_a_csv_file_tell_the_format_of_boxes(folder, columns, numbers):
    file = csv_file(folder, [f"wide.png,cat,{numbers}"], f"file,class_name,{columns}")
    assert objects(read_annotations(file)) == {"wide.png": [("cat", (20.0, 10.0, 40.0, 30.0))]}


@pytest.mark.parametrize(
    ("columns", "numbers", "match"),
    [
        ("xmin,ymin,xmax,ymax", "0.2,0.1,0.5,1.0", "multiply the columns by the width"),
        ("cx,cy,width,height", "0.5,0.5,0.25,0.5", "multiply the columns by the width"),
        ("xmin,ymin,xmax,ymax", "20,10,12,30", "line 2 .*a corner, width and height"),
        ("x,y,width,height", "20,10,-2,30", "line 2 .*ends before it begins"),
        ("cx,cy,xmax,ymax", "20,10,2,30", "or of cx, cy, width, height"),
    ],
)
def test_boxes_that_cannot_be_pixels_are_refused(folder, columns, numbers, match):
    with pytest.raises(ValueError, match=match):
        read_annotations(csv_file(folder, [f"wide.png,cat,{numbers}"], f"file,class_name,{columns}"))


def test_errors_say_what_to_do(folder):
    with pytest.raises(FileNotFoundError, match=r"nowhere\.csv as annotations, where there is no file"):
        read_annotations(folder / "nowhere.csv")
    with pytest.raises(ValueError, match="csv', 'coco', 'voc'"):
        read_annotations(folder, "no_such_format")
    with pytest.raises(ValueError, match="Allowed are file, class_name"):
        read_annotations(csv_file(folder, ["a,b"], "picture,class_name"))
    with pytest.raises(ValueError, match=r"line 2 .* cannot be read"):
        read_annotations(csv_file(folder, ["wide.png,cat,1,2,x,4"]))
    with pytest.raises(FileNotFoundError, match=r"annotations of .*gone\.png, where there is no image"):
        BoxedImages(read_annotations(csv_file(folder, ["gone.png,cat,1,2,3,4"])), {"cat": (0,)})
    images = read_annotations(csv_file(folder, ["wide.png,cat,20,10,40,30"]))
    with pytest.raises(ValueError, match="without an index"):
        BoxedImages(images, None, 20, 16)
    with pytest.raises(ValueError, match="no class of the network"):
        BoxedImages(images, {"dog": (0,)}, 20, 16)
    with pytest.raises(ValueError, match="1 <= crop <= resize"):
        BoxedImages(images, {"cat": (0,)}, 20, 30)
    (folder / "bad.json").write_text('{"dog": "first"}')
    with pytest.raises(ValueError, match="Got something else"):
        read_class_indices(folder / "bad.json")


@pytest.mark.shared
def test_the_real_boxes(shared_data):
    folder = shared_data / "coco128_boxes"
    data = BoxedImages(read_annotations(folder / "boxes.csv"), read_class_indices(folder / "coco_to_imagenet.json"))
    assert 95 <= data.usable <= 105
    sample = data[0]
    assert sample.image.shape == (3, 224, 224)
    boxes = torch.cat(sample.boxes)
    assert ((boxes >= 0) & (boxes <= 224)).all()


@pytest.mark.parametrize(
    ("name", "text", "kind", "match"),
    [
        ("a.json", "{", "coco", r"a\.json, which cannot be read: .* Allowed is a file of COCO's instances"),
        ("a.json", '{"images": [], "categories": [], "annotations": [{"category_id": 1}]}', "coco", "has no 'bbox'"),
        (
            "a.json",
            '{"images": [], "categories": [{"id": 1, "name": "x"}], '
            '"annotations": [{"category_id": 1, "image_id": 7, "bbox": [0, 0, 1, 1]}]}',
            "coco",
            "has no 7",
        ),
        ("a.xml", "<annotation>", "voc", r"a\.xml, which cannot be read: .* Allowed is an annotation of VOC's"),
        (
            "a.xml",
            "<annotation><filename>x.jpg</filename><object><name>cat</name></object></annotation>",
            "voc",
            "has no 'bndbox'",
        ),
    ],
)
def test_what_is_wrong_with_a_file_is_said_with_its_name(tmp_path, name, text, kind, match):
    (tmp_path / name).write_text(text)
    with pytest.raises(ValueError, match=match):
        read_annotations(tmp_path / name, kind)
