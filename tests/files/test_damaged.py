"""Damaged files of every kind that is read: nothing but errors that name the file."""

from __future__ import annotations

import contextlib
import json
import random
import sys
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from lightning_saliency.cli.parsing.configs import check_configs
from lightning_saliency.cli.parsing.errors import UsageError
from lightning_saliency.data import ArrayImagesDataModule, SaliencyStore
from lightning_saliency.data.annotations import read_annotations, read_class_indices
from lightning_saliency.data.image_files import picture_size, read_class_names, read_image
from lightning_saliency.files import reading
from lightning_saliency.networks import build_network, load_weights, small_cnn
from lightning_saliency.studies.engine.cell import Cell, compute_cell, read_record

COCO = {
    "images": [{"id": 1, "file_name": "a.png"}],
    "categories": [{"id": 7, "name": "cat"}],
    "annotations": [{"image_id": 1, "category_id": 7, "bbox": [1, 2, 3, 4]}],
}
VOC = (
    "<annotation><filename>a.png</filename><object><name>cat</name><bndbox><xmin>1</xmin><ymin>2</ymin>"
    "<xmax>3</xmax><ymax>4</ymax></bndbox></object></annotation>"
)


def picture(path: Path, **options: Any) -> None:
    Image.fromarray(np.random.default_rng(0).integers(0, 255, (9, 11, 3), dtype=np.uint8)).save(path, **options)


def store(path: Path) -> None:
    SaliencyStore.create(path, 3, (2, 2), {"weights": "a"}).write([0, 1, 2], torch.rand(3, 2, 2))


def arrays(path: Path) -> None:
    images, labels = np.zeros((4, 8, 8, 3), np.uint8), np.array([0, 0, 1, 1])
    np.savez(path, x_train=images, y_train=labels, x_test=images, y_test=labels)


def read_arrays(path: Path) -> None:
    ArrayImagesDataModule(path).setup()


def text(content: str) -> Callable[[Path], Any]:
    return lambda path: path.write_text(content, encoding="utf-8")


CELL = Cell("cell", dict, {"a": 1}, {"data": {"b": 2}})
#: Name of the file -> what writes it, and what reads it.
KINDS: dict[str, tuple[Callable[[Path], Any], Callable[[Path], Any]]] = {
    "a.png": (picture, lambda path: read_image(path, 8, 8)),
    "a.jpg": (picture, lambda path: read_image(path, 8, 0)),
    "a.tif": (picture, lambda path: read_image(path, 8, 8)),
    "a.gif": (picture, lambda path: read_image(path, 8, 8)),
    "a.webp": (picture, picture_size),
    "weights.pth": (lambda path: torch.save(small_cnn(3).state_dict(), path), lambda p: load_weights(small_cnn(3), p)),
    "arrays.npz": (arrays, read_arrays),
    "boxes.csv": (text("file,class_name,xmin,ymin,xmax,ymax\na.png,cat,1,2,3,4\n"), read_annotations),
    "coco.json": (text(json.dumps(COCO)), lambda path: read_annotations(path, "coco")),
    "voc.xml": (text(VOC), lambda path: read_annotations(path, "voc")),
    "classes.json": (text('{"cat": [1, 2], "dog": 3}'), read_class_indices),
    "classes.csv": (text("class_index,name\n1,cat\n"), read_class_indices),
    "names.csv": (text("index,name\n0,cat\n"), read_class_names),
    "cell.json": (lambda path: compute_cell(CELL, path.parent), lambda path: read_record(CELL, path.parent)),
    "maps.json": (lambda path: store(path.with_suffix(".npy")), lambda path: SaliencyStore.open(path.with_suffix(""))),
    "maps.npy": (store, SaliencyStore.open),
    "maps.written": (
        lambda path: store(path.with_suffix(".npy")),
        lambda path: SaliencyStore.open(path.with_suffix("")),
    ),
    "config.yaml": (text("data: {a: [1, 2]}\nseed: 3\n"), lambda path: check_configs(["--config", str(path)])),
}


def read_or_name(path: Path, read: Callable[[Path], Any]) -> bool:
    """Whether the file was refused, by an error that names it."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            read(path)
        except (ValueError, FileNotFoundError, UsageError) as error:
            # A store is called by its maps, a data set by whatever is missing.
            if path.name not in str(error) and path.with_suffix(".npy").name not in str(error):
                raise AssertionError(f"{path.name} is not named") from error
            return True
    return False


@pytest.mark.parametrize("name", KINDS)
def test_whatever_is_cut_off_or_flipped_the_error_names_the_file(tmp_path: Path, name: str) -> None:
    write, read = KINDS[name]
    path = tmp_path / name
    write(path)
    assert not read_or_name(path, read)
    whole = path.read_bytes()
    draw = random.Random(name)
    for length in {0, 1, len(whole) // 2, len(whole) - 1, *(draw.randrange(len(whole)) for _ in range(15))}:
        path.write_bytes(whole[:length])
        # What lacks no more than its end may be whole all the same, and of no name there is none.
        assert read_or_name(path, read) or length > 0 or name == "names.csv"
    for _ in range(25):
        damaged = bytearray(whole)
        for _ in range(draw.choice((1, 1, 4, 40))):
            damaged[draw.randrange(len(damaged))] ^= 1 << draw.randrange(8)
        path.write_bytes(damaged)
        read_or_name(path, read)
    path.write_bytes(draw.randbytes(len(whole)))
    assert read_or_name(path, read)


@pytest.mark.parametrize("name", KINDS)
@pytest.mark.parametrize("what", ["a folder", "not there"])
def test_a_folder_or_nothing_in_the_place_of_a_file_is_named(tmp_path: Path, name: str, what: str) -> None:
    write, read = KINDS[name]
    path = tmp_path / name
    write(path)
    path.unlink()
    if what == "a folder":
        path.mkdir()
    if name in ("cell.json", "config.yaml") and what == "not there":
        pytest.skip("it is computed then, or the parser's to say")
    assert read_or_name(path, read) or name == "voc.xml"


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("classes.json", "[[1], [2]]"),
        ("classes.json", "[" * 100_000),
        ("classes.csv", "class_index,name\nx,cat\n"),
        ("coco.json", json.dumps({**COCO, "annotations": [{"image_id": 1, "category_id": 7, "bbox": None}]})),
        ("coco.json", json.dumps({**COCO, "images": 3})),
        ("coco.json", json.dumps({**COCO, "annotations": [{"image_id": 1, "category_id": 7, "bbox": [1, 2, "x", 4]}]})),
        (
            "coco.json",
            json.dumps({**COCO, "annotations": [{"image_id": 1, "category_id": 7, "bbox": [1, 2, 1e999, 4]}]}),
        ),
        ("voc.xml", VOC.replace("<xmin>1</xmin>", "")),
        ("voc.xml", "<annotation>text</annotation>"),
        ("boxes.csv", "file,class_name\na.png\n"),
        ("boxes.csv", "file,class_name,xmin,ymin,xmax,ymax\na.png,cat,1,2,3,nan\n"),
        ("cell.json", "[]"),
        ("cell.json", '{"fingerprint": {"data": {"b": 2}}, "result": [], "seconds": 1}'),
        ("cell.json", '{"fingerprint": 3, "result": {}, "seconds": 1}'),
        ("config.yaml", "- 1\n- 2\n"),
        ("config.yaml", ""),
        ("config.yaml", "a: [1,\n"),
        ("names.csv", "index,name\n0\n"),
    ],
)
def test_other_content_than_expected_is_named(tmp_path: Path, name: str, content: str) -> None:
    (tmp_path / name).write_text(content)
    assert read_or_name(tmp_path / name, KINDS[name][1])


def test_text_in_another_encoding_is_named_and_a_byte_order_mark_is_none(tmp_path: Path) -> None:
    for name in ("boxes.csv", "classes.json", "names.csv"):
        (tmp_path / name).write_bytes("file,name\na.png,café\n".encode("latin1"))
        assert read_or_name(tmp_path / name, KINDS[name][1])
    (tmp_path / "names.csv").write_text("name\ncat\n", encoding="utf-8-sig")
    assert read_class_names(tmp_path / "names.csv") == ["cat"]


def test_a_checkpoint_whose_keys_are_no_names_is_named(tmp_path: Path) -> None:
    for number, content in enumerate(({1: torch.zeros(2)}, [torch.zeros(2)], {"state_dict": {(1, 2): torch.zeros(1)}})):
        torch.save(content, tmp_path / f"{number}.pth")
        assert read_or_name(tmp_path / f"{number}.pth", lambda path: load_weights(small_cnn(3), path))


def test_a_network_file_that_fails_is_named(tmp_path: Path) -> None:
    for number, content in enumerate(("def f(:", "1 / 0", "import no_such_module")):
        path = tmp_path / f"net{number}.py"
        path.write_text(content)
        assert read_or_name(path, lambda path: build_network(f"{path}:make", 3))


def test_so_many_pixels_that_they_may_be_an_attack_are_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    picture(tmp_path / "a.png")
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 20)
    assert read_or_name(tmp_path / "a.png", lambda path: read_image(path, 8, 8))
    assert read_or_name(tmp_path / "a.png", picture_size)


@pytest.mark.skipif(sys.platform == "win32", reason="no such permissions")
def test_a_file_that_may_not_be_read_is_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def refused(*_: object, **__: object) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "read_bytes", refused)
    for name in ("boxes.csv", "classes.json", "coco.json"):
        (tmp_path / name).write_text("{}")
        with pytest.raises(ValueError, match=f"{name}.*Permission denied"):
            KINDS[name][1](tmp_path / name)


def test_an_error_that_names_the_file_stays_as_it_is(tmp_path: Path) -> None:
    for raised in (ValueError(f"{tmp_path} is odd"), KeyError("a"), EOFError()):
        with pytest.raises(ValueError, match=r"odd|it has no 'a'|EOFError") as caught, reading(tmp_path, "thing"):
            raise raised
        assert str(tmp_path) in str(caught.value)
    with contextlib.suppress(KeyboardInterrupt), reading(tmp_path, "thing"):
        raise KeyboardInterrupt
