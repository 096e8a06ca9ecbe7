"""A network named on the command line, and images from files."""

from __future__ import annotations

import argparse
import csv
from collections.abc import Sequence
from pathlib import Path

import torch
from PIL import Image, UnidentifiedImageError
from torch import Tensor, nn
from torchvision.transforms import v2

from lightning_saliency.cli._errors import UsageError
from lightning_saliency.networks import build_network, load_weights
from lightning_saliency.pictures.tensors import IMAGENET_NORMALIZATION

#: Endings of files that are taken for images when a folder is given.
IMAGE_ENDINGS = (".jpg", ".jpeg", ".png", ".bmp", ".webp", ".tif", ".tiff")


def add_network_arguments(parser: argparse.ArgumentParser) -> None:
    """The arguments that say which network."""
    parser.add_argument("--num-classes", type=int, default=1000, help="outputs of the network (default: 1000)")
    parser.add_argument("--checkpoint", type=Path, help="file of its weights: a state dict or a Lightning checkpoint")
    parser.add_argument(
        "--library", choices=("torchvision", "timm"), default="torchvision", help="where MODEL is looked up"
    )


def load_network(name: str, arguments: argparse.Namespace) -> nn.Module:
    """The named network in evaluation mode, with its checkpoint's weights if one is given.

    Raises:
        UsageError: If there is no such network, or the checkpoint does not fit.
    """
    try:
        network = build_network(name, arguments.num_classes, library=arguments.library)
        if arguments.checkpoint is not None:
            load_weights(network, arguments.checkpoint)
    except (ValueError, ImportError, FileNotFoundError) as error:
        raise UsageError(str(error)) from error
    return network.eval()


def image_files(paths: Sequence[Path]) -> list[Path]:
    """The image files named, and those in the folders named, in order.

    Raises:
        UsageError: If a path does not exist, or a folder holds no image.
    """
    files: list[Path] = []
    for path in paths:
        if path.is_dir():
            found = sorted(file for file in path.iterdir() if file.suffix.lower() in IMAGE_ENDINGS)
            if not found:
                raise UsageError(f"the folder {path} holds no image (endings {', '.join(IMAGE_ENDINGS)})")
            files.extend(found)
        elif path.is_file():
            files.append(path)
        else:
            raise UsageError(f"there is no file or folder {path}")
    return files


def read_image(path: Path, resize: int, crop: int) -> Tensor:
    """One image file as ``[3, crop, crop]`` in [0, 1]; with ``crop`` 0 whole, its shorter side ``resize`` pixels.

    Raises:
        UsageError: If the file is no image that can be read.
    """
    try:
        with Image.open(path) as opened:
            image = opened.convert("RGB")
    except (UnidentifiedImageError, OSError) as error:
        raise UsageError(f"{path} cannot be read as an image: {error}") from error
    steps: list[nn.Module] = [v2.ToImage(), v2.Resize(resize, antialias=True)]
    if crop:
        steps.append(v2.CenterCrop(crop))
    steps.append(v2.ToDtype(torch.float32, scale=True))
    shown: Tensor = v2.Compose(steps)(image)
    return torch.as_tensor(shown)


def normalized(images: Tensor, normalization: str) -> Tensor:
    """Images in [0, 1] as the network wants them: ``"imagenet"``, ``"half"`` (to [-1, 1]) or ``"none"``."""
    mean, std = {
        "imagenet": IMAGENET_NORMALIZATION,
        "half": ((0.5,), (0.5,)),
        "none": ((0.0,), (1.0,)),
    }[normalization]
    return (images - torch.tensor(mean).reshape(-1, 1, 1)) / torch.tensor(std).reshape(-1, 1, 1)


def class_names(path: Path | None) -> list[str] | None:
    """The classes' names: the ``name`` column of a CSV file (or its last), else one a line.

    Raises:
        UsageError: If the file cannot be read.
    """
    if path is None:
        return None
    try:
        with path.open(newline="", encoding="utf-8") as file:
            rows = list(csv.reader(file))
    except OSError as error:
        raise UsageError(f"the file of class names {path} cannot be read: {error}") from error
    if rows and "name" in rows[0]:
        column = rows[0].index("name")
        return [row[column] for row in rows[1:]]
    return [row[-1] for row in rows if row]
