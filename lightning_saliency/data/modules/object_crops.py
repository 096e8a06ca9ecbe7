"""A data module over annotated photographs: the crop of each object, classified by its category."""

from __future__ import annotations

import math
import random
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Literal

import torch
from PIL import Image
from torch import Tensor
from torchvision.transforms import v2

from lightning_saliency.checks import is_within
from lightning_saliency.data.annotations import AnnotationFormat, Box, LabelledImage, plain_name, read_annotations
from lightning_saliency.data.image_files import read_picture
from lightning_saliency.data.modules._image_tensors import ImageTensors
from lightning_saliency.data.modules._split_data import (
    RESIZE_RATIO,
    Channels,
    PathLike,
    SplitDataModule,
    check_min,
    normalization,
)

Split = Literal["train", "val", "test"]
SPLITS: tuple[Split, ...] = ("train", "val", "test")


class ObjectCropsDataModule(SplitDataModule):
    """Objects cut out of annotated images, a small classification task from any detection data.

    Each box with some of what surrounds it, made square where the image allows it, is one image; its category is its
    class. All crops of a photograph fall into the same split, and the splits get each class in the same proportions as
    far as that allows. Batches are tuples (images float32 ``[B, 3, image_size, image_size]``, labels int64 ``[B]``).

    The crops lie in memory as bytes, 8/7 of ``image_size`` on a side; training takes random crops of them, half of
    them mirrored, evaluation the central one.

    Args:
        annotations: File or folder, see `lightning_saliency.data.boxes.read_annotations`.
        format: "csv", "coco" or "voc".
        images: Folder that the images' names are relative to; ``None``: the annotations' own.
        groups: Class -> the categories that it is made of, such as ``{"animal": ["cat", "dog"]}``; other categories are
            left out. Names are compared without case, spaces and punctuation. ``None``: each category is a class.
        context: Margin added on each side of a box, as a share of its longer side, at least 0.
        min_side: Minimum width and height of a box in pixels; smaller boxes are left out.
        min_count: Minimum number of boxes in a class; smaller classes are left out.
        max_count: Maximum number of boxes in a class. A larger class keeps a random choice, the same for every seed.
            ``None``: no maximum.
        image_size: Side of the images in pixels.
        batch_size: Images in a batch.
        num_workers: Loading processes; the crops lie in memory, so 0 is usually fastest.
        mean: Mean of each channel of RGB in [0, 1]; "imagenet" for the values of the published weights.
        std: Standard deviation of each channel of RGB in [0, 1]; "imagenet" for the values of the published weights.
        augment: Crop and mirror training images at random.
        val_fraction: Share of the crops for validation, in (0, 1).
        test_fraction: Share of the crops for testing, in (0, 1); both shares together are less than 1.
        seed: Seed of the split. It decides which crops go where, not how evenly the classes are divided.

    Attributes:
        classes: The names of the classes, in the order of ``groups``, otherwise alphabetical.
        num_classes: Number of classes.
        normalize: The `torchvision.transforms.v2.Normalize` applied to images in [0, 1].
        files: Split -> the photographs in it.
        datasets: The `ImageTensors` of each split.

    Raises:
        FileNotFoundError: In `setup`, if a file does not exist.
        ValueError: If an argument is out of range; in `setup`, if fewer than two classes are left, or a class has too
            few photographs to be in every split.
    """

    def __init__(
        self,
        annotations: PathLike,
        format: AnnotationFormat = "csv",
        images: PathLike | None = None,
        groups: dict[str, list[str]] | None = None,
        context: float = 0.1,
        min_side: int = 48,
        min_count: int = 20,
        max_count: int | None = None,
        image_size: int = 112,
        batch_size: int = 32,
        num_workers: int = 0,
        mean: Channels = "imagenet",
        std: Channels = "imagenet",
        augment: bool = True,
        val_fraction: float = 0.15,
        test_fraction: float = 0.35,
        seed: int = 0,
    ) -> None:
        super().__init__(batch_size, num_workers)
        check_min(
            {
                "min_side": (min_side, 1),
                "min_count": (min_count, 1),
                "max_count": (1 if max_count is None else max_count, 1),
                "image_size": (image_size, 1),
            }
        )
        if not is_within(context, 0, math.inf):
            raise ValueError(f"Got context={context!r}. Allowed is a share of the box's side from 0; give one.")
        shares = (val_fraction, test_fraction)
        if not all(is_within(share, 0, 1) and share > 0 for share in shares) or not sum(shares) < 1:
            raise ValueError(
                f"Got val_fraction={val_fraction!r} and test_fraction={test_fraction!r}. Allowed are positive shares "
                "that add up to less than 1; leave some for training."
            )
        self.save_hyperparameters()
        self.annotations = Path(annotations)
        self.format = format
        self.folder = images
        self.groups = groups
        self.context = context
        self.min_side = min_side
        self.min_count = min_count
        self.max_count = max_count
        self.image_size = image_size
        self.augment = augment
        self.fractions = {"train": 1 - val_fraction - test_fraction, "val": val_fraction, "test": test_fraction}
        self.seed = seed
        self.normalize = normalization(mean, std)
        self.classes: list[str] = []
        self.files: dict[str, list[Path]] = {}

    @property
    def num_classes(self) -> int:
        """The number of classes; known after `setup`."""
        return len(self.classes)

    def setup(self, stage: str | None = None) -> None:
        """Read the annotations, split the photographs and cut the crops out; once."""
        if self.datasets:
            return
        boxes = self._boxes(read_annotations(self.annotations, self.format, self.folder))
        counts = [Counter(label for label, _ in found) for found in boxes.values()]
        chosen = split_evenly(counts, [self.fractions[split] for split in SPLITS], self.seed)
        by_split: dict[str, list[Path]] = {split: [] for split in SPLITS}
        for path, number in zip(boxes, chosen, strict=True):
            by_split[SPLITS[number]].append(path)
        for split, files in by_split.items():
            there = {label for path in files for label, _ in boxes[path]}
            lacking = [name for label, name in enumerate(self.classes) if label not in there]
            if lacking:
                raise ValueError(
                    f"Got no crop of {', '.join(lacking)} for the {split} split, since too few photographs show them. "
                    "Raise min_count, join categories with groups, or change the fractions."
                )
        self.files = by_split
        for split, files in by_split.items():
            crops = [(crop, label) for path in files for crop, label in self._crops(path, boxes[path])]
            self.datasets[split] = ImageTensors(
                torch.stack([crop for crop, _ in crops]),
                torch.tensor([label for _, label in crops]),
                self.image_size,
                self.normalize,
                augment=self.augment and split == "train",
            )

    def _boxes(self, images: Sequence[LabelledImage]) -> dict[Path, list[tuple[int, Box]]]:
        """Photograph -> the label and box of each object that is used; sets `classes`."""
        members = {plain_name(category): name for name, listed in (self.groups or {}).items() for category in listed}
        found: dict[str, list[tuple[Path, Box]]] = {}
        for image in images:
            for thing in image.objects:
                name = members.get(plain_name(thing.name)) if self.groups is not None else thing.name
                if name is not None and thing.box is not None and _shorter_side(thing.box) >= self.min_side:
                    found.setdefault(name, []).append((image.path, thing.box))
        order = list(self.groups) if self.groups is not None else sorted(found)
        self.classes = [name for name in order if len(found.get(name, ())) >= self.min_count]
        if len(self.classes) < 2:
            counts = ", ".join(f"{name} {len(boxes)}" for name, boxes in found.items()) or "none"
            raise ValueError(
                f"Got {len(self.classes)} classes of {self.min_count} boxes from {self.min_side} pixels (boxes: "
                f"{counts}). At least two are needed: lower `min_count` or `min_side`, or join categories with "
                "`groups`."
            )
        used: dict[Path, list[tuple[int, Box]]] = {}
        for label, name in enumerate(self.classes):
            boxes = found[name]
            if self.max_count is not None and len(boxes) > self.max_count:
                kept = sorted(random.Random(0).sample(range(len(boxes)), self.max_count))
                boxes = [boxes[index] for index in kept]
            for path, box in boxes:
                used.setdefault(path, []).append((label, box))
        return {image.path: used[image.path] for image in images if image.path in used}

    def _crops(self, path: Path, boxes: Sequence[tuple[int, Box]]) -> list[tuple[Tensor, int]]:
        if not path.is_file():
            raise FileNotFoundError(
                f"Got annotations of {path}, where there is no image. Set images= to the folder of the images."
            )
        side = round(self.image_size * RESIZE_RATIO)
        photograph = read_picture(path)
        crops = []
        for label, box in boxes:
            window = square_around(box, self.context, photograph.size)
            crop = photograph.crop(window).resize((side, side), Image.Resampling.BILINEAR)
            crops.append((v2.functional.pil_to_tensor(crop), label))
        return crops


def square_around(box: Box, context: float, size: tuple[int, int]) -> tuple[int, int, int, int]:
    """The square window around a box and some of what surrounds it, as far as it lies in the image.

    Args:
        box: x1, y1, x2, y2 in pixels.
        context: Added on each side, as a share of the box's longer side.
        size: Width and height of the image.

    Returns:
        Left, upper, right and lower edge in whole pixels. A window over the border is moved into the image, and cut
        where the image is too small for it.

    Example:
        >>> square_around((10.0, 20.0, 30.0, 30.0), 0.5, (100, 100))
        (0, 5, 40, 45)
        >>> square_around((80.0, 20.0, 100.0, 30.0), 0.5, (100, 30))
        (60, 0, 100, 30)
    """
    side = max(box[2] - box[0], box[3] - box[1]) * (1 + 2 * context)
    edges = []
    for low, high, length in ((box[0], box[2], size[0]), (box[1], box[3], size[1])):
        breadth = min(max(1, round(side)), length)
        start = min(max(0, round((low + high) / 2 - breadth / 2)), length - breadth)
        edges.append((start, start + breadth))
    (left, right), (upper, lower) = edges
    return left, upper, right, lower


def split_evenly(counts: Sequence[Mapping[int, int]], fractions: Sequence[float], seed: int) -> list[int]:
    """Divide images with several labels each into splits, keeping the proportions of every label.

    After the iterative stratification of Sechidis, Tsoumakas and Vlahavas (2011): the images of the rarest remaining
    label are assigned next, each to the split that lacks most of that label, or else most labels overall. Images with
    more labels come first, equal ones in random order. Where a split is left without a label, it gets the image with
    the fewest labels from the split with most images of it, if that takes the last image of no label away.

    Args:
        counts: For each image how often each label is on it.
        fractions: Fraction of the images for each split; their sum is 1.
        seed: Seed of the random order.

    Returns:
        For each image its split.

    Example:
        >>> sorted(split_evenly([{0: 1}, {0: 1}, {1: 1}, {1: 1}], [0.5, 0.5], seed=0)[:2])
        [0, 1]
    """
    generator = random.Random(seed)
    order = list(range(len(counts)))
    generator.shuffle(order)
    totals = Counter[int]()
    for count in counts:
        totals.update(count)
    need = [{label: fraction * total for label, total in totals.items()} for fraction in fractions]
    chosen: dict[int, int] = {}
    while len(chosen) < len(counts):
        left = Counter[int]()
        for image in order:
            if image not in chosen:
                left.update(counts[image])
        if not left:
            break
        rarest = min(left, key=lambda label: (left[label], label))
        dealt = [image for image in order if image not in chosen and counts[image].get(rarest, 0)]
        for image in sorted(dealt, key=lambda image: -counts[image][rarest]):
            split = max(range(len(need)), key=lambda split: (need[split][rarest], sum(need[split].values())))
            chosen[image] = split
            for label, number in counts[image].items():
                need[split][label] -= number
    splits = [chosen.get(image, 0) for image in range(len(counts))]
    for label in sorted(totals):
        for split in range(len(fractions)):
            _give_one(splits, counts, label, split)
    return splits


def _give_one(splits: list[int], counts: Sequence[Mapping[int, int]], label: int, split: int) -> None:
    """Move an image with that label into a split that has none, where its own split can spare it."""
    images = Counter(
        (splits[image], each) for image, count in enumerate(counts) for each, number in count.items() if number
    )
    if images[split, label]:
        return
    spared = [
        image
        for image, count in enumerate(counts)
        if count.get(label, 0) and all(images[splits[image], each] > 1 for each, number in count.items() if number)
    ]
    if spared:
        moved = min(spared, key=lambda image: (-images[splits[image], label], sum(counts[image].values()), image))
        splits[moved] = split


def _shorter_side(box: Box) -> float:
    return min(box[2] - box[0], box[3] - box[1])
