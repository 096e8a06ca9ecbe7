"""Reading image files of every kind: contrast, transparency, orientation; and the same reader wherever one is read."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from lightning_saliency.data import ImageFolderDataModule
from lightning_saliency.data.annotations import LabelledImage, LabelledObject
from lightning_saliency.data.boxes import BoxedImages
from lightning_saliency.data.image_files import ImageFiles, image_files, picture_size, read_image, read_picture

RAMP = np.linspace(0, 1, 48 * 64).reshape(48, 64)
EIGHT = (255 * RAMP).round().astype(np.uint8)


def levels(path: Path) -> Any:
    picture = read_picture(path)
    assert (picture.mode, picture.size) == ("RGB", (64, 48))
    return np.asarray(picture)


@pytest.mark.parametrize(
    ("name", "values"),
    [
        ("u16.png", (65535 * RAMP).astype(np.uint16)),
        ("u12.png", (4095 * RAMP).astype(np.uint16)),
        ("u16.tif", (1000 + 30000 * RAMP).astype(np.uint16)),
        ("big.tif", (65535 * RAMP).astype(">u2")),
        ("i32.tif", (65535 * RAMP).astype(np.int32)),
        ("large.tif", ((2**31 - 1) * RAMP).astype(np.int32)),
        ("signed.tif", (4000 * RAMP - 1000).astype(np.int32)),
        ("f32.tif", RAMP.astype(np.float32)),
        ("f255.tif", (255 * RAMP).astype(np.float32)),
        ("wide.tif", ((RAMP - 0.5) * 6e38).astype(np.float32)),
        ("u16.pgm", (65535 * RAMP).astype(np.uint16)),
    ],
)
def test_grey_images_of_many_bits_keep_their_contrast(tmp_path: Path, name: str, values: Any) -> None:
    Image.fromarray(values).save(tmp_path / name)
    read = levels(tmp_path / name)
    assert np.abs(read.astype(int) - EIGHT[..., None]).max() <= 1
    shown = read_image(tmp_path / name, 32, 24)
    assert abs(float(shown.mean()) - 0.5) < 0.02


def test_values_that_are_not_finite_are_black_and_a_flat_image_is_one(tmp_path: Path) -> None:
    values = RAMP.astype(np.float32)
    values[0, 0], values[0, 1], values[5, 5] = np.nan, np.inf, -np.inf
    Image.fromarray(values).save(tmp_path / "odd.tif")
    read = levels(tmp_path / "odd.tif")
    assert read[0, 0].tolist() == read[0, 1].tolist() == read[5, 5].tolist() == [0, 0, 0]
    assert np.abs(read[6:].astype(int) - EIGHT[6:, :, None]).max() <= 1
    Image.fromarray(np.full((48, 64), 7, np.int32)).save(tmp_path / "flat.tif")
    assert levels(tmp_path / "flat.tif").max() == 0
    Image.fromarray(np.full((48, 64), np.nan, np.float32)).save(tmp_path / "nan.tif")
    with pytest.raises(ValueError, match=r"nan\.tif.*no value in it is finite"):
        read_picture(tmp_path / "nan.tif")


def grey_with_alpha() -> Image.Image:
    alpha = np.full((48, 64), 255, np.uint8)
    alpha[:, :32] = 0
    return Image.merge("LA", (Image.new("L", (64, 48), 0), Image.fromarray(alpha)))


@pytest.mark.parametrize("mode", ["LA", "RGBA", "PA", "P"])
def test_what_is_transparent_lies_on_white(tmp_path: Path, mode: str) -> None:
    image = grey_with_alpha().convert("RGBA")
    path = tmp_path / "a.png"
    if mode == "P":
        palette = Image.fromarray(np.repeat(np.repeat([[0, 1]], 48, 0), 32, 1).astype(np.uint8), "P")
        palette.putpalette([9, 9, 9, 0, 0, 0])
        palette.save(path, transparency=0)
    elif mode == "PA":
        image.quantize(4).save(path)
    else:
        image.convert(mode).save(path)
    read = levels(path)
    assert read[:, :31].min() == 255
    assert read[:, 33:].max() < 5


@pytest.mark.parametrize(
    ("mode", "name"),
    [("1", "a.png"), ("L", "a.png"), ("CMYK", "a.jpg"), ("CMYK", "a.tif"), ("YCbCr", "a.jpg"), ("P", "a.gif")],
)
def test_other_modes_show_what_they_show(tmp_path: Path, mode: str, name: str) -> None:
    image = Image.fromarray(np.repeat(EIGHT[..., None], 3, -1))
    image.convert(mode).save(tmp_path / name)
    read = levels(tmp_path / name).astype(int)
    assert abs(read.mean() - 127) < 12
    assert read[:8].mean() < 60 < 190 < read[-8:].mean()


@pytest.mark.parametrize("orientation", range(1, 9))
def test_a_photograph_is_upright_whichever_way_the_camera_was_held(tmp_path: Path, orientation: int) -> None:
    upright = Image.fromarray(np.repeat(EIGHT[..., None], 3, -1))
    undo = {
        2: [Image.Transpose.FLIP_LEFT_RIGHT],
        3: [Image.Transpose.ROTATE_180],
        4: [Image.Transpose.FLIP_TOP_BOTTOM],
        5: [Image.Transpose.TRANSPOSE],
        6: [Image.Transpose.ROTATE_90],
        7: [Image.Transpose.TRANSVERSE],
        8: [Image.Transpose.ROTATE_270],
    }
    stored = upright
    for step in undo.get(orientation, []):
        stored = stored.transpose(step)
    exif = Image.Exif()
    exif[0x0112] = orientation
    for name in ("a.png", "a.tif"):
        stored.save(tmp_path / name, exif=exif)
        assert np.array_equal(levels(tmp_path / name), np.asarray(upright))
        assert picture_size(tmp_path / name) == (48, 64)


@pytest.mark.parametrize("name", ["a.gif", "a.png", "a.webp", "a.tif"])
def test_of_several_frames_the_first_is_taken(tmp_path: Path, name: str) -> None:
    first, second = (Image.new("RGB", (64, 48), color) for color in ("black", "white"))
    first.save(tmp_path / name, save_all=True, append_images=[second], **({"lossless": True} if "webp" in name else {}))
    assert levels(tmp_path / name).max() < 3


def test_training_and_annotated_images_are_read_alike(tmp_path: Path) -> None:
    for split in ("train", "val"):
        for name in ("cat", "dog"):
            folder = tmp_path / split / name
            folder.mkdir(parents=True)
            Image.fromarray((65535 * RAMP).astype(np.uint16)).save(folder / "a.png")
    data = ImageFolderDataModule(tmp_path, image_size=16, batch_size=2, mean=(0.0,) * 3, std=(1.0,) * 3)
    data.setup("validate")
    images, _ = next(iter(data.val_dataloader()))
    assert abs(float(images.mean()) - 0.5) < 0.05
    thing = LabelledObject("cat", 0, (0.0, 0.0, 64.0, 48.0))
    boxed = BoxedImages(
        [LabelledImage(tmp_path / "val" / "cat" / "a.png", (thing,))], resize=16, crop=16, mean=(0.0,), std=(1.0,)
    )
    assert abs(float(boxed[0].image.mean()) - 0.5) < 0.05
    broken = tmp_path / "val" / "dog" / "a.png"
    broken.write_bytes(broken.read_bytes()[:100])
    with pytest.raises(ValueError, match=f"{broken}, which cannot be read"):
        list(data.val_dataloader())


def test_hidden_files_and_folders_are_no_images(tmp_path: Path) -> None:
    Image.new("RGB", (4, 4)).save(tmp_path / "a.png")
    (tmp_path / "._a.png").write_bytes(b"what another system leaves")
    (tmp_path / "folder.png").mkdir()
    assert image_files([tmp_path]) == [tmp_path / "a.png"]
    with pytest.raises(ValueError, match="on no disk of this machine"):
        image_files(["s3://bucket/images"])
    assert torch.equal(read_image(tmp_path / "a.png", 4, 0), torch.zeros(3, 4, 4))


@pytest.mark.parametrize(
    ("resize", "crop", "side"), [(256, None, 224), (128, None, 128), (40, 40, 40), (40, 0, 40), (40, 24, 24)]
)
def test_the_crop_is_never_larger_than_the_image(tmp_path: Path, resize: int, crop: int | None, side: int) -> None:
    Image.new("RGB", (300, 300), "white").save(tmp_path / "white.png")
    image = ImageFiles(tmp_path, resize, crop, mean=(0.0,) * 3, std=(1.0,) * 3)[0]["image"]
    assert image.shape == (3, side, side)
    assert bool((image == 1).all())


@pytest.mark.parametrize(("resize", "crop"), [(128, 224), (0, None), (-1, 0), (64, -1)])
def test_a_crop_that_would_frame_the_image_in_black_is_refused(tmp_path: Path, resize: int, crop: int | None) -> None:
    Image.new("RGB", (300, 300), "white").save(tmp_path / "white.png")
    with pytest.raises(ValueError, match=f"Got resize={resize} and crop=.* Allowed are whole numbers with 1 <= crop"):
        ImageFiles(tmp_path, resize, crop)
