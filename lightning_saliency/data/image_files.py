"""Images from files and folders, without labels or boxes."""

from __future__ import annotations

import csv
from collections.abc import Sequence
from pathlib import Path

import torch
from PIL import Image, UnidentifiedImageError
from torch import Tensor, nn
from torch.utils.data import Dataset
from torchvision.transforms import v2

from lightning_saliency.pictures.tensors import IMAGENET_NORMALIZATION

#: Endings of files that are taken for images when a folder is given.
IMAGE_ENDINGS = (".jpg", ".jpeg", ".png", ".bmp", ".webp", ".tif", ".tiff")


class ImageFiles(Dataset[dict[str, Tensor]]):
    """Image files at a network's input size; items are ``{"image": [3, crop, crop]}``.

    Args:
        paths: A file or a folder of image files, or several.
        resize: Shorter side in pixels.
        crop: Side of the centre crop in pixels; 0: the whole image.
        mean: Mean of each channel of RGB in [0, 1].
        std: Standard deviation of each channel.

    Attributes:
        files: The files, in order.

    Raises:
        ValueError: If a path does not exist, or a folder holds no image; on access, if a file is not an image.
    """

    def __init__(
        self,
        paths: str | Path | Sequence[str | Path],
        resize: int = 256,
        crop: int = 224,
        mean: Sequence[float] = IMAGENET_NORMALIZATION[0],
        std: Sequence[float] = IMAGENET_NORMALIZATION[1],
    ) -> None:
        self.files = image_files([paths] if isinstance(paths, (str, Path)) else paths)
        self.resize, self.crop = resize, crop
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
    for path in map(Path, paths):
        if path.is_dir():
            found = sorted(file for file in path.iterdir() if file.suffix.lower() in IMAGE_ENDINGS)
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


def read_image(path: Path, resize: int, crop: int) -> Tensor:
    """One image file as ``[3, crop, crop]`` in [0, 1]; with ``crop`` 0 whole, its shorter side ``resize`` pixels.

    Raises:
        ValueError: If the file cannot be read as an image.
    """
    try:
        with Image.open(path) as opened:
            image = opened.convert("RGB")
    except (UnidentifiedImageError, OSError) as error:
        raise ValueError(f"Got {path}, which cannot be read as an image ({error}). Leave it out.") from error
    steps: list[nn.Module] = [v2.ToImage(), v2.Resize(resize, antialias=True)]
    if crop:
        steps.append(v2.CenterCrop(crop))
    steps.append(v2.ToDtype(torch.float32, scale=True))
    shown: Tensor = v2.Compose(steps)(image)
    return torch.as_tensor(shown)


def read_class_names(path: str | Path) -> list[str]:
    r"""The names of classes in a file: the column ``name`` of a CSV file (or its last column), else one name per line.

    Raises:
        ValueError: If the file cannot be read.

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     _ = Path(folder, "classes.csv").write_text("index,name,colour\n0,cat,grey\n1,dog,brown\n")
        ...     read_class_names(Path(folder, "classes.csv"))
        ['cat', 'dog']
    """
    try:
        with Path(path).open(newline="", encoding="utf-8") as file:
            rows = list(csv.reader(file))
    except (OSError, UnicodeDecodeError) as error:
        raise ValueError(f"Got the file of class names {path}, which cannot be read ({error}). Check it.") from error
    if rows and "name" in rows[0]:
        column = rows[0].index("name")
        return [row[column] for row in rows[1:]]
    return [row[-1] for row in rows if row]
