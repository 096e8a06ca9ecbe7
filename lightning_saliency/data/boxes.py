"""Images with the classes they show and, if known, boxes around the objects.

Read from a CSV file, COCO's JSON or VOC's XML by `read_annotations`, brought to a network's input by `BoxedImages`.
"""

from __future__ import annotations

import hashlib
import json
import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor
from torch.utils.data import Dataset
from torchvision import tv_tensors
from torchvision.transforms import v2

from lightning_saliency.checks import plural
from lightning_saliency.data.annotations import (
    AnnotationFormat,
    LabelledImage,
    LabelledObject,
    by_name,
    plain_name,
    read_annotations,
    read_class_indices,
)
from lightning_saliency.data.image_files import checked_crop, picture_size, read_picture
from lightning_saliency.files import reading
from lightning_saliency.pictures.tensors import IMAGENET_NORMALIZATION

__all__ = [
    "AnnotatedImages",
    "BoxedImages",
    "LabelledImage",
    "LabelledObject",
    "Sample",
    "read_annotations",
    "read_class_indices",
]

# A box of which less than a pixel's breadth is left after cropping shows nothing of its object.
_MIN_SIDE = 1.0


@dataclass(frozen=True)
class Sample:
    """An image as a network takes it, with the classes and boxes on it.

    Args:
        name: Name of the image, for reports.
        image: ``[C, H, W]``, normalised.
        labels: Names of the ground-truth classes, each once.
        candidates: For each label the network's classes that mean it, usually one. If there are several, the one with
            the highest logit is explained.
        boxes: For each label its boxes ``[n, 4]`` as x1, y1, x2, y2 in the image's pixels; ``None`` where they are not
            known.
    """

    name: str
    image: Tensor
    labels: tuple[str, ...]
    candidates: tuple[tuple[int, ...], ...]
    boxes: tuple[Tensor | None, ...]


class BoxedImages(Dataset[Sample]):
    """Annotated images at a network's input size, with their boxes moved along.

    The shorter side is resized to ``resize`` and the centre of ``crop`` × ``crop`` pixels is cut out. The boxes go
    through the same transforms; they are cut at the border, and a box is dropped if less than a pixel of it remains. A
    class without boxes, or unknown to the network, is left out, and so is an image without classes.

    Args:
        images: Folder of the images, see `read_annotations`.
        classes: Class name -> indices of the network's classes that mean it, see `read_class_indices`. Names are
            compared without case, spaces and punctuation. ``None``: the annotations' own indices are the network's.
        resize: Shorter side in pixels.
        crop: Side of the centre crop in pixels, at most ``resize``.
        mean: Mean of each channel of RGB in [0, 1]; ImageNet's by default.
        std: Standard deviation of each channel of RGB in [0, 1]; ImageNet's by default.
        limit: Maximum number of usable images, chosen at random. ``None``: all.
        seed: Seed of that random choice. A larger limit with the same seed contains the smaller one.

    Raises:
        FileNotFoundError: If an image does not exist.
        ValueError: If a number is out of range, an annotation has no index and ``classes`` is not given, or no image is
            usable.
    """

    def __init__(
        self,
        images: Sequence[LabelledImage],
        classes: Mapping[str, Sequence[int]] | None = None,
        resize: int = 256,
        crop: int = 224,
        mean: Sequence[float] = IMAGENET_NORMALIZATION[0],
        std: Sequence[float] = IMAGENET_NORMALIZATION[1],
        limit: int | None = None,
        seed: int = 0,
    ) -> None:
        checked_crop(resize, crop, least=1)
        if limit is not None and limit < 1:
            raise ValueError(f"Got limit={limit}. Allowed are None (all images) and whole numbers from 1.")
        self.resize, self.crop, self.seed = resize, crop, seed
        self.normalization = (tuple(mean), tuple(std))
        self._geometry = v2.Compose([v2.Resize(resize, antialias=True), v2.CenterCrop(crop)])
        self._pixels = v2.Compose(
            [self._geometry, v2.ToDtype(torch.float32, scale=True), v2.Normalize(list(mean), list(std))]
        )
        self._indices = None if classes is None else by_name((plain_name(name), of) for name, of in classes.items())
        self.total = len(images)
        usable = [(image, found) for image in images if (found := self._labels(image))]
        if not usable:
            raise ValueError(
                f"Got {len(images)} annotated images, but no class of the network is to be seen on any of them. "
                "Allowed are annotations whose class names `classes` maps to the network's, or with its indices."
            )
        self.usable = len(usable)
        # Which images, at random; in which order, as they are listed.
        order = list(range(len(usable)))
        random.Random(seed).shuffle(order)
        self._chosen = [usable[index] for index in sorted(order[:limit])]

    def __len__(self) -> int:
        return len(self._chosen)

    def __getitem__(self, index: int) -> Sample:
        image, labels = self._chosen[index]
        pixels = v2.functional.pil_to_tensor(read_picture(image.path))
        return Sample(
            name=image.path.name,
            image=torch.as_tensor(self._pixels(tv_tensors.Image(pixels))).as_subclass(Tensor),
            labels=tuple(labels),
            candidates=tuple(candidates for candidates, _ in labels.values()),
            boxes=tuple(boxes for _, boxes in labels.values()),
        )

    @property
    def pairs(self) -> list[int]:
        """Number of classes of each image."""
        return [len(labels) for _, labels in self._chosen]

    @property
    def classes(self) -> set[int]:
        """The network's classes that the images show."""
        return {index for _, labels in self._chosen for candidates, _ in labels.values() for index in candidates}

    @property
    def has_boxes(self) -> bool:
        """Whether every class of every image has boxes."""
        return all(boxes is not None for _, labels in self._chosen for _, boxes in labels.values())

    def fingerprint(self) -> str:
        """A hash of the chosen images' files, classes and boxes and of the transforms."""
        digest = hashlib.sha256(json.dumps([self.resize, self.crop, self.normalization]).encode())
        for image, labels in self._chosen:
            digest.update(image.path.name.encode())
            with reading(image.path, "image"):
                digest.update(hashlib.sha256(image.path.read_bytes()).digest())
            for label, (candidates, boxes) in labels.items():
                digest.update(json.dumps([label, candidates, None if boxes is None else boxes.tolist()]).encode())
        return digest.hexdigest()

    def description(self) -> str:
        """Number of images and pairs and how they were chosen, for a caption."""
        chosen = plural(len(self), "image") + (
            f", chosen from {self.usable} with seed {self.seed}" if len(self) < self.usable else ""
        )
        left_out = self.total - self.usable
        return f"{chosen}, {plural(sum(self.pairs), 'pair')} of image and class" + (
            f" ({left_out} images show no class of the network's)" if left_out else ""
        )

    def _labels(self, image: LabelledImage) -> dict[str, tuple[tuple[int, ...], Tensor | None]]:
        """Class name -> the network's classes that mean it, and its boxes after the transforms."""
        if not image.path.is_file():
            raise FileNotFoundError(
                f"Got annotations of {image.path}, where there is no image. Set images= to the folder of the images."
            )
        found: dict[str, tuple[tuple[int, ...], Tensor | None]] = {}
        for name in dict.fromkeys(thing.name for thing in image.objects):
            things = [thing for thing in image.objects if thing.name == name]
            candidates = self._candidates(things[0], image.path)
            boxes = [thing.box for thing in things if thing.box is not None]
            moved = self._moved(torch.tensor(boxes, dtype=torch.float32), image) if boxes else None
            if candidates and (moved is None or len(moved)):
                found[name] = (candidates, moved)
        return found

    def _candidates(self, thing: LabelledObject, path: Path) -> tuple[int, ...]:
        if self._indices is not None:
            return self._indices.get(plain_name(thing.name), ())
        if thing.index is None:
            raise ValueError(
                f"Got the class {thing.name!r} on {path.name} without an index. Allowed are annotations with the "
                "network's class indices (a column class_index), or `classes`, a file that maps names to them."
            )
        return (thing.index,)

    def _moved(self, boxes: Tensor, image: LabelledImage) -> Tensor:
        """The boxes in the transformed image, cut at its border."""
        size = picture_size(image.path)
        moved = self._geometry(tv_tensors.BoundingBoxes(boxes, format="XYXY", canvas_size=size))
        cut: Tensor = v2.functional.clamp_bounding_boxes(moved).as_subclass(Tensor)
        return cut[((cut[:, 2:] - cut[:, :2]) >= _MIN_SIDE).all(1)]


class AnnotatedImages(BoxedImages):
    """`BoxedImages` of annotation files, as a configuration names them.

    Args:
        annotations: File or folder, or several, see `read_annotations`.
        format: ``csv``, ``coco`` or ``voc``.
        images: Folder that the images' names are relative to; ``None``: the annotations' own.
        classes: File that maps class names to the network's class indices, see `read_class_indices`; ``None``: the
            annotations have the network's.
        resize: Shorter side in pixels.
        crop: Side of the centre crop in pixels.
        mean: Mean of each channel of RGB in [0, 1].
        std: Standard deviation of each channel.
        limit: Maximum number of images; ``None``: all.
        seed: Seed of the random choice of images.

    Raises:
        FileNotFoundError: If a file does not exist.
        ValueError: Where `BoxedImages` raises it, and if an annotation file cannot be read.
    """

    def __init__(
        self,
        annotations: str | list[str],
        format: AnnotationFormat = "csv",
        images: str | None = None,
        classes: str | None = None,
        resize: int = 256,
        crop: int = 224,
        mean: Sequence[float] = IMAGENET_NORMALIZATION[0],
        std: Sequence[float] = IMAGENET_NORMALIZATION[1],
        limit: int | None = None,
        seed: int = 0,
    ) -> None:
        files = [annotations] if isinstance(annotations, str) else annotations
        found = [image for file in files for image in read_annotations(file, format, images)]
        super().__init__(
            found, None if classes is None else read_class_indices(classes), resize, crop, mean, std, limit, seed
        )
