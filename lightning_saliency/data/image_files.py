"""Images from files and folders, without labels or boxes."""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image, ImageOps
from torch import Tensor, nn
from torch.utils.data import Dataset
from torchvision.transforms import v2

from lightning_saliency.files import file_of_this_machine, read_text, reading
from lightning_saliency.pictures.tensors import IMAGENET_NORMALIZATION

#: Endings of files that are taken for images when a folder is given.
IMAGE_ENDINGS = (".jpg", ".jpeg", ".png", ".bmp", ".webp", ".tif", ".tiff")


_REMEDY = "Leave it out, or save it anew."
_ORIENTATION = 0x0112
_CROP = 224

#: To how many pixels images are resized: the shorter side, or both, (H, W).
Resize = int | Sequence[int]


class ImageFiles(Dataset[dict[str, Tensor]]):
    """Image files at a network's input size; items are ``{"image": [3, crop, crop]}``.

    Args:
        paths: A file or a folder of image files, or several.
        resize: Shorter side in pixels; or both sides, [H, W], which may change the image's shape.
        crop: Side of the centre crop in pixels, at most ``resize``; 0: the whole image; ``None``: 224, or ``resize``
            where that is less; beside both sides the whole image.
        mean: Mean of each channel of RGB in [0, 1].
        std: Standard deviation of each channel.

    Attributes:
        files: The files, in order.

    Raises:
        ValueError: If a path does not exist, a folder holds no image, or a size is out of range; on access, if a file
            is not an image.
    """

    def __init__(
        self,
        paths: str | Path | Sequence[str | Path],
        resize: Resize = 256,
        crop: int | None = None,
        mean: Sequence[float] = IMAGENET_NORMALIZATION[0],
        std: Sequence[float] = IMAGENET_NORMALIZATION[1],
    ) -> None:
        self.files = image_files([paths] if isinstance(paths, (str, Path)) else paths)
        self.resize, self.crop = resize, checked_crop(resize, crop)
        #: Found by what shows images.
        self.transform = v2.Normalize(list(mean), list(std))

    def __len__(self) -> int:
        return len(self.files)

    def __getitem__(self, index: int) -> dict[str, Tensor]:
        return {"image": torch.as_tensor(self.transform(read_image(self.files[index], self.resize, self.crop)))}


def image_files(paths: Sequence[str | Path]) -> list[Path]:
    """The image files named, and those in the folders named, in order.

    Raises:
        ValueError: If a path does not exist, or a folder holds no image.
    """
    files: list[Path] = []
    for path in (file_of_this_machine(path, "image") for path in paths):
        if path.is_dir():
            found = sorted(
                file
                for file in path.iterdir()
                if file.suffix.lower() in IMAGE_ENDINGS and not file.name.startswith(".") and file.is_file()
            )
            if not found:
                raise ValueError(
                    f"Got the folder {path}, which holds no image. Allowed are files ending in "
                    f"{', '.join(IMAGE_ENDINGS)}; name another folder, or the files."
                )
            files.extend(found)
        elif path.is_file():
            files.append(path)
        else:
            raise ValueError(f"Got {path}, but there is no such file or folder. Check the path.")
    return files


def checked_crop(resize: Resize, crop: int | None, least: int = 0) -> int:
    """The side of the centre crop of images that are resized first.

    Args:
        resize: Their shorter side, from 1; or both sides, (H, W), which may change their shape.
        crop: From ``least`` to ``resize``, its shorter side; ``None``: 224, or ``resize`` where that is less; beside
            both sides the whole image.
        least: 0 where 0 stands for the whole image, else 1.

    Returns:
        The side; 0: nothing is cropped.

    Raises:
        ValueError: If one of them is out of range: a larger crop would frame the image in black.

    Example:
        >>> checked_crop(256, None), checked_crop(128, None), checked_crop(128, 0), checked_crop((224, 224), None)
        (224, 128, 0, 0)
    """
    sides = [resize] if isinstance(resize, int) else list(resize)
    both = not isinstance(resize, int)
    shorter = min(sides, default=0)
    side = crop if crop is not None else 0 if both else min(_CROP, shorter)
    if len(sides) != 1 + both or shorter < 1 or not (0 if both else least) <= side <= shorter:
        whole = "" if least else ", and crop=0 for the whole image"
        raise ValueError(
            f"Got resize={resize} and crop={side}. Allowed are whole numbers with 1 <= crop <= resize{whole}; "
            "ImageNet's evaluation uses 256 and 224. Both sides, [224, 224], change the image's shape and need no crop."
        )
    return side


def geometry(resize: Resize, crop: int) -> list[nn.Module]:
    """Resize and centre crop, see `checked_crop`."""
    steps: list[nn.Module] = [v2.Resize(resize if isinstance(resize, int) else list(resize), antialias=True)]
    return [*steps, v2.CenterCrop(crop)] if crop else steps


def read_image(path: Path, resize: Resize, crop: int) -> Tensor:
    """One image file as ``[3, crop, crop]`` in [0, 1]; with ``crop`` 0 whole, its shorter side ``resize`` pixels.

    With both sides as ``resize`` and ``crop`` 0 it is ``[3, *resize]``.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If the file is no image that can be read.
    """
    image = read_picture(path)
    steps = [v2.ToImage(), *geometry(resize, crop), v2.ToDtype(torch.float32, scale=True)]
    shown: Tensor = v2.Compose(steps)(image)
    return torch.as_tensor(shown)


def read_picture(path: str | Path) -> Image.Image:
    """An image file as RGB with 8 bits a channel, upright: all images of this package are read here.

    - A photograph that its camera marked as turned (EXIF) is turned back.
    - Grey images of 16 or 32 bits or of floats have no common white: each is stretched from its least to its greatest
      value. Values that are not finite become black.
    - What is transparent lies on white.
    - Of several frames the first is taken.

    Args:
        path: A file in any format that Pillow reads.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If the file is no image, is damaged or cut short, is a folder, may not be read, or has so many
            pixels that Pillow takes it for an attack (`PIL.Image.MAX_IMAGE_PIXELS`).
    """
    with reading(path, "image", _REMEDY), Image.open(path) as opened:
        opened.load()
        upright = ImageOps.exif_transpose(opened) if _is_turned(opened) else opened
        return _rgb(upright)


def picture_size(path: str | Path) -> tuple[int, int]:
    """(H, W) of what `read_picture` returns, from the file's first bytes.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If the file is no image.
    """
    with reading(path, "image", _REMEDY), Image.open(path) as opened:
        if opened.format == "TIFF":
            opened.load()  # of these alone Pillow turns the pixels itself, at a time that differs between its versions
        lies = _orientation(opened) >= 5
        return (opened.width, opened.height) if lies else (opened.height, opened.width)


def _is_turned(image: Image.Image) -> bool:
    return 2 <= _orientation(image) <= 8


def _orientation(image: Image.Image) -> int:
    """What EXIF says: 1 is upright, from 5 on height and width are exchanged."""
    try:
        found = image.getexif().get(_ORIENTATION, 1)
    except Exception:  # what a camera wrote beside the image may be damaged where the image is not
        return 1
    return found if isinstance(found, int) and found <= 8 else 1


def _rgb(image: Image.Image) -> Image.Image:
    if image.mode == "F" or image.mode.startswith("I"):
        return Image.fromarray(_stretched(np.asarray(image).astype(np.float64))).convert("RGB")
    if image.mode in ("RGBA", "LA", "PA", "RGBa", "La") or "transparency" in image.info:
        over = image.convert("RGBA")
        return Image.alpha_composite(Image.new("RGBA", over.size, "white"), over).convert("RGB")
    return image.convert("RGB")


def _stretched(values: npt.NDArray[np.float64]) -> npt.NDArray[np.uint8]:
    finite = np.isfinite(values)
    if not finite.any():
        raise ValueError("no value in it is finite")
    least, greatest = values[finite].min(), values[finite].max()
    # Halved first: the range of 64-bit floats may be no float.
    span = greatest / 2 - least / 2
    shares = (np.where(finite, values, least) / 2 - least / 2) / (span if span > 0 else 1.0)
    stretched: npt.NDArray[np.uint8] = (255 * shares).round().astype(np.uint8)
    return stretched


def read_class_names(path: str | Path) -> list[str]:
    r"""The names of classes in a file: the column ``name`` of a CSV file (or its last column), else one name per line.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If the file cannot be read.

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     _ = Path(folder, "classes.csv").write_text("index,name,colour\n0,cat,grey\n1,dog,brown\n")
        ...     read_class_names(Path(folder, "classes.csv"))
        ['cat', 'dog']
    """
    text = read_text(path, "file of class names")
    with reading(path, "file of class names"):
        rows = list(csv.reader(io.StringIO(text, newline="")))
    if rows and "name" in rows[0]:
        column = rows[0].index("name")
        with reading(path, "file of class names", "Give each line a name."):
            return [row[column] for row in rows[1:] if row]
    return [row[-1] for row in rows if row]
