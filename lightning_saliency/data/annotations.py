"""Reading the classes and boxes of images from CSV, COCO's JSON and VOC's XML files."""

from __future__ import annotations

import csv
import io
import json
import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal
from xml.etree import ElementTree

from torchvision.datasets import VOCDetection

from lightning_saliency.files import file_of_this_machine, read_json, read_text, reading

AnnotationFormat = Literal["csv", "coco", "voc"]
Box = tuple[float, float, float, float]

_CORNERS = ("xmin", "ymin", "xmax", "ymax")
#: Columns of boxes in a CSV file -> what makes x1, y1, x2, y2 of their numbers.
_BOX_COLUMNS: dict[tuple[str, str, str, str], Callable[[float, float, float, float], Box]] = {
    _CORNERS: lambda x1, y1, x2, y2: (x1, y1, x2, y2),
    ("x", "y", "width", "height"): lambda x, y, width, height: (x, y, x + width, y + height),
    ("cx", "cy", "width", "height"): lambda x, y, width, height: (
        x - width / 2,
        y - height / 2,
        x + width / 2,
        y + height / 2,
    ),
}
_NAMES, _INDICES = ("class_name", "name"), ("class_index", "class_id")


@dataclass(frozen=True)
class LabelledObject:
    """An object on an image.

    Args:
        name: Name of the object's class.
        index: Index of the class in the annotations; ``None`` if they have no indices.
        box: x1, y1, x2, y2 in the file's pixels, the upper left corner of the image being (0, 0); ``None``: not known.
        segmentation: COCO's: polygons or runs of pixels; ``None``: not known.
    """

    name: str
    index: int | None
    box: Box | None
    segmentation: Any = field(default=None, compare=False)


@dataclass(frozen=True)
class LabelledImage:
    """An image file and the objects on it."""

    path: Path
    objects: tuple[LabelledObject, ...]


def read_annotations(
    path: str | Path, annotation_format: AnnotationFormat = "csv", images: str | Path | None = None
) -> list[LabelledImage]:
    """Read annotated images, in the order of the file.

    Args:
        path: ``"csv"``: a file with a header and the columns ``file``, ``class_name`` (or ``name``) and/or
            ``class_index`` (or ``class_id``), and, where there are boxes, ``xmin, ymin, xmax, ymax``, or ``x, y, width,
            height`` with the upper left corner, or ``cx, cy, width, height`` with the centre, in pixels; one line per
            object. ``"coco"``: a JSON file with ``images``, ``categories`` and ``annotations``. ``"voc"``: a folder of
            XML files, or one of them; their coordinates, which begin at 1, are moved to begin at 0.
        annotation_format: ``"csv"``, ``"coco"`` or ``"voc"``.
        images: Folder that the files' names are relative to. ``None``: the annotations' own; for VOC the folder
            ``JPEGImages`` next to them.

    Returns:
        One entry for each image that has an object.

    Raises:
        FileNotFoundError: If ``path`` does not exist.
        ValueError: If the format is unknown, the file is not in that format, or its boxes are relative to the images'
            sides.
    """
    path = file_of_this_machine(path, "annotations")
    if annotation_format not in _READERS:
        raise ValueError(
            f"Got format={annotation_format!r}. Allowed are {', '.join(map(repr, _READERS))}; use one of them."
        )
    if not path.exists():
        raise FileNotFoundError(
            f"Got {path} as annotations, where there is no file. Give its path from the current folder."
        )
    found = _READERS[annotation_format](path, None if images is None else Path(images))
    if not found:
        raise ValueError(f"Got no object from {path}. Allowed is at least one image with a class; check the file.")
    return [LabelledImage(file, tuple(objects)) for file, objects in found.items()]


def read_class_indices(path: str | Path) -> dict[str, tuple[int, ...]]:
    """Class name -> the network's classes of that meaning.

    Args:
        path: JSON: ``{"dog": [151, 152], "zebra": 340}``, or the names in the order of their indices,
            ``["aeroplane", "bicycle"]``. CSV: columns ``class_index`` and ``name``.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If the file has another content.
    """
    path = file_of_this_machine(path, "file of classes")
    if path.suffix.lower() == ".csv":
        rows = [row for _, row in _csv_rows(path, "file of classes")[1]]
        if not rows or not {"class_index", "name"} <= rows[0].keys():
            raise ValueError(
                f"Got the columns {list(rows[0]) if rows else []} in {path}. Allowed are class_index and name; correct "
                "the file's first line."
            )
        with _naming_file(path, "a file of classes"):
            return by_name((row["name"], [int(row["class_index"])]) for row in rows)
    content = read_json(path, "file of classes")
    if isinstance(content, list):
        with _naming_file(path, "a list of classes' names"):
            content = by_name((name, [index]) for index, name in enumerate(content))
    indices = {
        str(name): tuple(of) if isinstance(of, (list, tuple)) else (of,)
        for name, of in (content.items() if isinstance(content, dict) else ())
    }
    if not indices or not all(type(index) is int for of in indices.values() for index in of):
        raise ValueError(
            f'Got something else from {path}. Allowed are {{"name": index}}, {{"name": [index, index]}} and a list of '
            "names; write one of them."
        )
    return indices


def by_name(pairs: Iterable[tuple[str, Sequence[int]]]) -> dict[str, tuple[int, ...]]:
    """The classes of each name; where a name comes again, as "crane" does in ImageNet's list, it has those of both.

    Example:
        >>> by_name([("crane", [134]), ("dog", [151]), ("crane", [517])])
        {'crane': (134, 517), 'dog': (151,)}
    """
    found: dict[str, tuple[int, ...]] = {}
    for name, indices in pairs:
        found[name] = (*found.get(name, ()), *indices)
    return found


def plain_name(name: str) -> str:
    """A class's name without case, spaces and punctuation: "hot dog" and "hotdog" are the same class."""
    return "".join(letter for letter in name.lower() if letter.isalnum())


_Found = dict[Path, list[LabelledObject]]


def _read_csv(path: Path, images: Path | None) -> _Found:
    folder = path.parent if images is None else images
    found: _Found = {}
    columns, rows = _csv_rows(path, "file of annotations")
    name_column = next((column for column in _NAMES if column in columns), None)
    index_column = next((column for column in _INDICES if column in columns), None)
    of_boxes = [names for names in _BOX_COLUMNS if set(names) <= set(columns)]
    # Width and height alone are the image's.
    begun = {*_CORNERS, "cx", "cy"} & set(columns)
    if "file" not in columns or not (name_column or index_column) or (begun and not of_boxes):
        raise ValueError(
            f"Got the columns {columns} in {path}. Allowed are file, class_name and/or class_index, and "
            f"either all or none of {', or of '.join(map(', '.join, _BOX_COLUMNS))}; rename them."
        )
    corners = of_boxes[0] if of_boxes else ()
    for number, row in rows:
        empty = [column for column in ("file", name_column) if column and not row[column]]
        if empty:
            raise ValueError(
                f"Got line {number} of {path} without {empty[0]}. Allowed is one in each line; correct the line."
            )
        try:
            index = int(row[index_column]) if index_column else None
            box = _box(_BOX_COLUMNS[corners](*(float(row[corner]) for corner in corners))) if corners else None
        except (ValueError, TypeError) as error:
            raise ValueError(
                f"Got line {number} of {path}, which cannot be read: {error}. Allowed are numbers in the "
                f"columns {[*([index_column] if index_column else []), *corners]}; correct the line."
            ) from error
        name = row[name_column] if name_column else str(index)
        found.setdefault(folder / row["file"], []).append(LabelledObject(name, index, box))
    sides = [side for objects in found.values() for each in objects for side in each.box or ()]
    if all(0 <= side <= 1 for side in sides) and any(side % 1 for side in sides):
        raise ValueError(
            f"Got boxes within [0, 1] in {path}, which are relative to the images' sides. Allowed are pixels; multiply "
            "the columns by the width and the height of each image."
        )
    return found


def _csv_rows(path: Path, what: str) -> tuple[list[str], list[tuple[int, dict[str, Any]]]]:
    """A CSV file's columns, and each row with the number of its line."""
    text = read_text(path, what)
    with reading(path, what):
        reader = csv.DictReader(io.StringIO(text, newline=""))
        return list(reader.fieldnames or []), [(reader.line_num, row) for row in reader]


def _read_coco(path: Path, images: Path | None) -> _Found:
    """Read COCO's JSON without pycocotools, which only its masks need."""
    folder = path.parent if images is None else images
    text = read_text(path, "file of COCO's instances")
    with _naming_file(path, "a file of COCO's instances"):
        content: Any = json.loads(text)
    if not isinstance(content, Mapping) or not {"images", "categories", "annotations"} <= content.keys():
        raise ValueError(
            f"Got {path} without images, categories or annotations. Allowed are files of COCO's instances; give one."
        )
    with _naming_file(path, "a file of COCO's instances"):
        files = {image["id"]: folder / image["file_name"] for image in content["images"]}
        names = {category["id"]: str(category["name"]) for category in content["categories"]}
        found: _Found = {file: [] for file in files.values()}
        for annotation in content["annotations"]:
            left, top, width, height = annotation["bbox"]
            box = _box([left, top, left + width, top + height])
            category = annotation["category_id"]
            thing = LabelledObject(names[category], category, box, annotation.get("segmentation"))
            found[files[annotation["image_id"]]].append(thing)
    return {file: objects for file, objects in found.items() if objects}


def _read_voc(path: Path, images: Path | None) -> _Found:
    folder = (path if path.is_dir() else path.parent).parent / "JPEGImages" if images is None else images
    found: _Found = {}
    for file in sorted(path.glob("*.xml")) if path.is_dir() else [path]:
        with reading(file, "annotation of VOC's"):
            data = file.read_bytes()
        with _naming_file(file, "an annotation of VOC's"):
            parsed = VOCDetection.parse_voc_xml(ElementTree.fromstring(data))
        annotation = parsed.get("annotation")
        if not isinstance(annotation, Mapping) or not isinstance(annotation.get("filename"), str):
            raise ValueError(
                f"Got {file} without <annotation> or <filename>. Allowed are annotations of VOC's; move the file away."
            )
        for thing in annotation.get("object", []):
            with _naming_file(file, "an annotation of VOC's"):
                x1, y1, x2, y2 = (float(thing["bndbox"][corner]) for corner in _CORNERS)
                # Pixels are numbered from 1 and both ends belong to the box.
                box = _box([x1 - 1, y1 - 1, x2, y2])
                found.setdefault(folder / annotation["filename"], []).append(LabelledObject(thing["name"], None, box))
    return found


#: Format -> its reader, called with the annotations' path and the images' folder, if one is given.
_READERS: dict[str, Callable[[Path, Path | None], _Found]] = {"csv": _read_csv, "coco": _read_coco, "voc": _read_voc}


@contextmanager
def _naming_file(path: Path, kind: str) -> Iterator[None]:
    """Turn errors in a file's content into an error that names the file."""
    try:
        yield
    # A file that was cut short or made by another program has anything in the place of anything.
    except Exception as error:
        missing = f"has no {error}" if isinstance(error, KeyError) else str(error)
        raise ValueError(f"Got {path}, which cannot be read: {missing}. Allowed is {kind}; correct it.") from error


def _box(corners: Sequence[float]) -> Box:
    x1, y1, x2, y2 = (float(corner) for corner in corners)
    if not all(map(math.isfinite, (x1, y1, x2, y2))):
        raise ValueError(f"a box has the corners {[x1, y1, x2, y2]}")
    if x2 < x1 or y2 < y1:
        raise ValueError(f"the box {[x1, y1, x2, y2]} ends before it begins (are these a corner, width and height?)")
    return x1, y1, x2, y2
