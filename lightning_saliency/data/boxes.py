"""Images with the classes they show and, if known, boxes around the objects, or masks of them.

Read from a CSV file, COCO's JSON or VOC's XML by `read_annotations`, brought to a network's input by `BoxedImages`.
"""

from __future__ import annotations

import hashlib
import json
import random
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

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
from lightning_saliency.data.image_files import Resize, checked_crop, geometry, picture_size, read_picture
from lightning_saliency.data.object_masks import VOC_CLASSES, AnnotatedMasks, MaskFolder, ObjectMasks, read_mask_values
from lightning_saliency.data.sample import Objects, Sample
from lightning_saliency.files import reading
from lightning_saliency.pictures.tensors import IMAGENET_NORMALIZATION

__all__ = [
    "AnnotatedImages",
    "BoxedImages",
    "LabelledImage",
    "LabelledObject",
    "read_annotations",
    "read_class_indices",
]

# A box of which less than a pixel's breadth is left after cropping shows nothing of its object.
_MIN_SIDE = 1.0
#: In place of a folder: the masks that COCO's annotations carry.
ANNOTATIONS = "annotations"


class _Label(NamedTuple):
    """What is known of a class on an image, after the transforms."""

    candidates: tuple[int, ...]
    boxes: Tensor | None
    where: str | None  # a hash of its mask


class BoxedImages(Dataset[Sample]):
    """Annotated images at a network's input size, with their boxes moved along.

    The shorter side is resized to ``resize`` and the centre of ``crop`` × ``crop`` pixels is cut out. The boxes go
    through the same transforms; they are cut at the border, and a box is dropped if less than a pixel of it remains. A
    class without boxes, or unknown to the network, is left out, and so is an image without classes. Where ``masks`` are
    given they count in place of the boxes, and a class of which no mask is known, or no pixel of it left, is left out.

    Args:
        images: Folder of the images, see `read_annotations`.
        classes: Class name -> indices of the network's classes that mean it, see `read_class_indices`. Names are
            compared without case, spaces and punctuation. ``None``: the annotations' own indices are the network's.
        resize: Shorter side in pixels; or both sides, [H, W], which may change the image's shape.
        crop: Side of the centre crop in pixels, at most ``resize``; ``None``: 224, or ``resize`` where that is less;
            beside both sides nothing is cropped.
        mean: Mean of each channel of RGB in [0, 1]; ImageNet's by default.
        std: Standard deviation of each channel of RGB in [0, 1]; ImageNet's by default.
        limit: Maximum number of usable images, chosen at random. ``None``: all.
        seed: Seed of that random choice. A larger limit with the same seed contains the smaller one.
        masks: Where the pixels of the objects are known from; ``None``: from nowhere.

    Raises:
        FileNotFoundError: If an image does not exist.
        ValueError: If a number is out of range, an annotation has no index and ``classes`` is not given, a mask cannot
            be read, or no image is usable.
    """

    def __init__(
        self,
        images: Sequence[LabelledImage],
        classes: Mapping[str, Sequence[int]] | None = None,
        resize: Resize = 256,
        crop: int | None = None,
        mean: Sequence[float] = IMAGENET_NORMALIZATION[0],
        std: Sequence[float] = IMAGENET_NORMALIZATION[1],
        limit: int | None = None,
        seed: int = 0,
        masks: ObjectMasks | None = None,
    ) -> None:
        side = checked_crop(resize, crop, least=1)
        if limit is not None and limit < 1:
            raise ValueError(f"Got limit={limit}. Allowed are None (all images) and whole numbers from 1.")
        self.resize, self.crop, self.seed = resize if isinstance(resize, int) else tuple(resize), side, seed
        self.normalization = (tuple(mean), tuple(std))
        self._masks = masks
        self._geometry = v2.Compose(geometry(resize, side))
        self._pixels = v2.Compose(
            [self._geometry, v2.ToDtype(torch.float32, scale=True), v2.Normalize(list(mean), list(std))]
        )
        self._indices = None if classes is None else by_name((plain_name(name), of) for name, of in classes.items())
        self.total = len(images)
        usable = [(image, found) for image in images if (found := self._labels(image))]
        if not usable:
            with_mask = "" if masks is None else ", and masks that are named like the images and know these names, too"
            raise ValueError(
                f"Got {len(images)} annotated images, but no class of the network is to be seen on any of them. "
                "Allowed are annotations whose class names `classes` maps to the network's, or with its "
                f"indices{with_mask}."
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
            candidates=tuple(label.candidates for label in labels.values()),
            boxes=tuple(label.boxes for label in labels.values()),
            masks=() if self._masks is None else tuple(self._mask(image, name) for name in labels),
        )

    @property
    def pairs(self) -> list[int]:
        """Number of classes of each image."""
        return [len(labels) for _, labels in self._chosen]

    @property
    def classes(self) -> set[int]:
        """The network's classes that the images show."""
        return {index for _, labels in self._chosen for label in labels.values() for index in label.candidates}

    @property
    def objects(self) -> Objects | None:
        """Whether boxes or masks tell where every class of every image is; ``None``: neither do."""
        if self._masks is not None:
            return "masks"
        known = all(label.boxes is not None for _, labels in self._chosen for label in labels.values())
        return "boxes" if known else None

    def fingerprint(self) -> str:
        """A hash of the chosen images' files, classes and boxes and of the transforms."""
        digest = hashlib.sha256(json.dumps([self.resize, self.crop, self.normalization]).encode())
        for image, labels in self._chosen:
            digest.update(image.path.name.encode())
            with reading(image.path, "image"):
                digest.update(hashlib.sha256(image.path.read_bytes()).digest())
            for name, (candidates, boxes, where) in labels.items():
                known = [name, candidates, None if boxes is None else boxes.tolist()]
                digest.update(json.dumps(known if where is None else [*known, where]).encode())
        return digest.hexdigest()

    def description(self) -> str:
        """Number of images and pairs and how they were chosen, for a caption."""
        chosen = plural(len(self), "image") + (
            f", chosen from {self.usable} with seed {self.seed}" if len(self) < self.usable else ""
        )
        left_out = self.total - self.usable
        unmasked = "" if self._masks is None else ", or have no mask of it"
        return f"{chosen}, {plural(sum(self.pairs), 'pair')} of image and class" + (
            f" ({left_out} images show no class of the network's{unmasked})" if left_out else ""
        )

    def _labels(self, image: LabelledImage) -> dict[str, _Label]:
        """Class name -> what is known of it; without those of which nothing is to be seen."""
        if not image.path.is_file():
            raise FileNotFoundError(
                f"Got annotations of {image.path}, where there is no image. Set images= to the folder of the images."
            )
        found: dict[str, _Label] = {}
        for name in dict.fromkeys(thing.name for thing in image.objects):
            things = [thing for thing in image.objects if thing.name == name]
            candidates = self._candidates(things[0], image.path)
            if not candidates:
                continue
            boxes = [thing.box for thing in things if thing.box is not None]
            moved = self._moved(torch.tensor(boxes, dtype=torch.float32), image) if boxes else None
            if self._masks is not None:
                mask = self._mask(image, name)
                if mask is not None and bool(mask.any()):
                    where = hashlib.sha256(mask.numpy().tobytes()).hexdigest()
                    found[name] = _Label(candidates, moved, where)
            elif moved is None or len(moved):
                found[name] = _Label(candidates, moved, None)
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

    def _mask(self, image: LabelledImage, name: str) -> Tensor | None:
        """The pixels of a class's objects in the transformed image, ``[H, W]`` bool."""
        mask = None if self._masks is None else self._masks.of(image, name, picture_size(image.path))
        return None if mask is None else self._geometry(tv_tensors.Mask(mask[None].byte())).as_subclass(Tensor)[0] > 0


class AnnotatedImages(BoxedImages):
    """`BoxedImages` of annotation files, as a configuration names them.

    Args:
        annotations: File or folder, or several, see `read_annotations`.
        format: ``csv``, ``coco`` or ``voc``.
        images: Folder that the images' names are relative to; ``None``: the annotations' own.
        classes: File that maps class names to the network's class indices, see `read_class_indices`; ``None``: the
            annotations have the network's.
        resize: Shorter side in pixels; or both sides, [H, W], which may change the image's shape.
        crop: Side of the centre crop in pixels; ``None``: 224, or ``resize`` where that is less; beside both sides
            nothing is cropped.
        mean: Mean of each channel of RGB in [0, 1].
        std: Standard deviation of each channel.
        limit: Maximum number of images; ``None``: all.
        seed: Seed of the random choice of images.
        masks: What says in place of boxes where the objects lie. A folder of PNG files, named like the images, whose
            values are classes, such as VOC's ``SegmentationClass``; or ``"annotations"``, with ``format="coco"``: the
            polygons and runs of pixels in the annotations. ``None``: boxes.
        mask_classes: File that maps class names to the values in the folder's masks, see `read_mask_values`; ``None``:
            the annotations' indices, or with ``format="voc"`` VOC's twenty classes.

    Raises:
        FileNotFoundError: If a file does not exist.
        ImportError: If masks of annotations are asked for and pycocotools is not installed.
        ValueError: Where `BoxedImages` raises it, and if an annotation file cannot be read, or masks are asked for that
            the format does not have.
    """

    def __init__(
        self,
        annotations: str | list[str],
        format: AnnotationFormat = "csv",
        images: str | None = None,
        classes: str | None = None,
        resize: Resize = 256,
        crop: int | None = None,
        mean: Sequence[float] = IMAGENET_NORMALIZATION[0],
        std: Sequence[float] = IMAGENET_NORMALIZATION[1],
        limit: int | None = None,
        seed: int = 0,
        masks: str | None = None,
        mask_classes: str | None = None,
    ) -> None:
        files = [annotations] if isinstance(annotations, str) else annotations
        found = [image for file in files for image in read_annotations(file, format, images)]
        indices = None if classes is None else read_class_indices(classes)
        source = _object_masks(masks, mask_classes, format)
        super().__init__(found, indices, resize, crop, mean, std, limit, seed, source)


def _object_masks(masks: str | None, classes: str | None, annotation_format: AnnotationFormat) -> ObjectMasks | None:
    """What the options of `AnnotatedImages` say of masks."""
    if classes is not None and masks in (None, ANNOTATIONS):
        raise ValueError(
            f"Got mask_classes={classes!r} with masks={masks!r}. Allowed is it beside a folder of masks; name the "
            "folder, or leave it out."
        )
    if masks is None:
        return None
    if masks != ANNOTATIONS:
        named = {name: (value,) for value, name in enumerate(VOC_CLASSES, 1)} if annotation_format == "voc" else None
        return MaskFolder(masks, named if classes is None else read_mask_values(classes))
    if annotation_format != "coco":
        raise ValueError(
            f"Got masks='annotations' with format={annotation_format!r}. Allowed is it with format='coco', whose "
            "annotations carry masks; else give the folder of the masks."
        )
    return AnnotatedMasks()
