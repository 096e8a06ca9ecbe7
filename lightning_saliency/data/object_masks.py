"""Where the objects of a class lie, pixel by pixel: from folders of masks, and from COCO's annotations."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt
import torch
import yaml  # type: ignore[import-untyped]
from PIL import Image
from torch import Tensor

from lightning_saliency.data.annotations import LabelledImage, by_name, plain_name
from lightning_saliency.files import file_of_this_machine, read_text, reading

#: VOC's classes in the order of the values of its masks, from 1; 0 is the background, 255 the objects' outlines.
VOC_CLASSES = (
    "aeroplane", "bicycle", "bird", "boat", "bottle", "bus", "car", "cat", "chair", "cow",
    "diningtable", "dog", "horse", "motorbike", "person", "pottedplant", "sheep", "sofa", "train", "tvmonitor",
)  # fmt: skip


class ObjectMasks(Protocol):
    """The interface of a source of masks."""

    def of(self, image: LabelledImage, name: str, size: tuple[int, int]) -> Tensor | None:
        """The pixels of a class's objects on an image of ``(H, W)``, ``[H, W]`` bool; ``None``: they are not known."""


class MaskFolder:
    """A folder of masks, one of each image: a PNG of the image's name and size whose values are classes.

    VOC's ``SegmentationClass`` and COCO's "stuff" masks are such folders. A palette is not looked at.

    Args:
        folder: The folder.
        values: Class name -> the values that mean it, see `read_mask_values`. Names are compared without case, spaces
            and punctuation. ``None``: the indices of the annotations.

    Raises:
        ValueError: If there is no such folder; on access, if a mask cannot be read or has another size than its image.
    """

    def __init__(self, folder: str | Path, values: Mapping[str, Sequence[int]] | None = None) -> None:
        self.folder = file_of_this_machine(folder, "masks")
        if not self.folder.is_dir():
            raise ValueError(f"Got masks={str(folder)!r}, where there is no folder. Give one of PNG files.")
        self._values = None if values is None else by_name((plain_name(name), of) for name, of in values.items())

    def of(self, image: LabelledImage, name: str, size: tuple[int, int]) -> Tensor | None:
        """See `ObjectMasks`."""
        path = self.folder / f"{image.path.stem}.png"
        if self._values is None:
            values = [thing.index for thing in image.objects if thing.name == name and thing.index is not None]
        else:
            values = list(self._values.get(plain_name(name), ()))
        if not values or not path.is_file():
            return None
        with reading(path, "mask"), Image.open(path) as opened:
            found: npt.NDArray[Any] = np.asarray(opened)
        if found.shape != size:
            raise ValueError(
                f"Got the mask {path} of {list(found.shape)} for an image of {list(size)}. Allowed is one value for "
                "each of the image's pixels; save the mask at the image's size, with one channel."
            )
        return torch.from_numpy(np.isin(found, values))


class AnnotatedMasks:
    """The masks that COCO's annotations carry: polygons, or runs of pixels (RLE).

    Raises:
        ImportError: If pycocotools is not installed.
        ValueError: On access, if a ``segmentation`` is none of the two.
    """

    def __init__(self) -> None:
        try:
            import pycocotools.mask  # type: ignore[import-untyped]
        except ImportError as error:
            raise ImportError(
                "Got masks='annotations', but pycocotools, which reads them, is not installed. Install it: "
                "pip install 'lightning-saliency[coco]'."
            ) from error
        self._tools: Any = pycocotools.mask

    def of(self, image: LabelledImage, name: str, size: tuple[int, int]) -> Tensor | None:
        """See `ObjectMasks`."""
        parts = [thing.segmentation for thing in image.objects if thing.name == name]
        if not any(parts):
            return None
        found = np.zeros(size, dtype=bool)
        for part in filter(None, parts):
            with reading(image.path, "segmentation of"), warnings.catch_warnings():
                warnings.simplefilter("ignore", DeprecationWarning)  # of NumPy 2 in pycocotools' own code
                runs = part
                if isinstance(part, list) or isinstance(part.get("counts"), list):
                    runs = self._tools.frPyObjects(part, *size)
                pixels = self._tools.decode(runs)
                found |= (pixels.any(2) if pixels.ndim == 3 else pixels).astype(bool)
        return torch.from_numpy(found)


def read_mask_values(path: str | Path) -> dict[str, tuple[int, ...]]:
    """Class name -> the values of its pixels in masks.

    Args:
        path: JSON or YAML: ``{"dog": 18}``, ``{"dog": [18, 19]}`` or ``{18: "dog"}``, alone or below ``classes`` or
            ``names``; a list of names has the values from 0.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If the file has another content.
    """
    text = read_text(path, "file of masks' values")
    with reading(path, "file of masks' values"):
        content = yaml.safe_load(text)  # JSON is read by it, too
    for key in ("classes", "names"):
        if isinstance(content, Mapping) and isinstance(content.get(key), (dict, list)):
            content = content[key]
    if isinstance(content, list):
        content = dict(enumerate(content))
    found: dict[str, tuple[int, ...]] = {}
    for key, value in content.items() if isinstance(content, Mapping) else ():
        name, values = (value, key) if isinstance(value, str) else (key, value)
        listed = values if isinstance(values, list) else [values]
        if not isinstance(name, str) or not all(_is_value(one) for one in listed):
            found = {}
            break
        found[name] = (*found.get(name, ()), *(int(one) for one in listed))
    if not found:
        raise ValueError(
            f'Got something else from {path}. Allowed are {{"name": value}}, {{"name": [value, value]}}, '
            '{value: "name"} and a list of names; write one of them.'
        )
    return found


def _is_value(given: object) -> bool:
    return type(given) is int or (isinstance(given, str) and given.isdigit())
