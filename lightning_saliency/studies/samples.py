"""Your own images for a comparison: tensors, or any data set of images and classes."""

from __future__ import annotations

import hashlib
import math
import operator
import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor

from lightning_saliency.checks import plural
from lightning_saliency.data.boxes import BoxedImages
from lightning_saliency.data.sample import Objects, Sample, common_objects
from lightning_saliency.lightning_bases import is_data_module
from lightning_saliency.pictures.tensors import find_normalization
from lightning_saliency.studies.engine.fingerprints import exact_fingerprint, images_fingerprint
from lightning_saliency.studies.specs import build

Normalization = tuple[tuple[float, ...], tuple[float, ...]]
#: The class of each image ``[N]``; ``None``: it is predicted, or the data carry it.
Targets = Tensor | Sequence[int] | None
_WHOLE = (torch.uint8, torch.int8, torch.int16, torch.int32, torch.int64)


class Samples(Protocol):
    """The interface of a comparison's images; `BoxedImages` implements it."""

    @property
    def normalization(self) -> Normalization | None:
        """Mean and standard deviation by which the images were normalised, where they are known."""

    @property
    def pairs(self) -> list[int]:
        """How many classes each image has."""

    @property
    def objects(self) -> Objects | None:
        """Whether boxes or masks tell where every class of every image is; ``None``: neither do."""

    @property
    def classes(self) -> set[int]:
        """The network's classes that the images show, without predicted ones."""

    def __len__(self) -> int: ...

    def __getitem__(self, index: int) -> Sample: ...

    def fingerprint(self) -> str:
        """A hash of the images, classes, boxes and masks."""

    def description(self) -> str:
        """The number of images and how they were chosen, for a caption."""


class OwnImages:
    """Tensors or a map-style data set as `Samples`; they are read once, to check them.

    Images that show none of the classes, with an empty list of labels, are left out.

    Args:
        data: Images ``[N, C, H, W]``, or a data set with a length whose items are

            - ``(image, class)``,
            - ``(image, {"labels": [n], "boxes": [n, 4], "masks": [n, H, W]})`` as torchvision's detection data sets
              have it, or
            - dictionaries with ``image``, ``label`` (one class) or ``labels``, and, where there are any, ``boxes`` or
              ``masks``,

            images ``[C, H, W]`` as the network takes them, classes whole numbers, boxes x1, y1, x2, y2 in their pixels,
            masks nonzero on the objects. Masks count in place of boxes.
        targets: ``[N]``, the class of each of the images ``[N, C, H, W]``, or of each item that carries none; ``None``:
            the class that the network predicts.
        limit: Number of images taken; ``None``: all.
        seed: Seed of the choice of images.
        normalization: Mean and standard deviation by which the images were normalised; ``None``: searched in the data
            set's transforms.
        exact: Whether every bit of the images tells them from others. ``False``: their means alone, for images that are
            made from files, in which two processors need not agree to the last bit.

    Raises:
        TypeError: If ``data`` or one of its items has another type.
        ValueError: If shapes do not fit, or a class, a box or a mask is none.
    """

    def __init__(
        self,
        data: Any,
        targets: Targets = None,
        limit: int | None = None,
        seed: int = 0,
        normalization: Normalization | None = None,
        exact: bool = True,
    ) -> None:
        if isinstance(data, Tensor):
            if data.ndim != 4:
                raise ValueError(f"Got images {list(data.shape)}. Allowed are [N, C, H, W]; add or drop dimensions.")
        elif not (hasattr(data, "__len__") and hasattr(data, "__getitem__")):
            raise TypeError(
                f"Got data of {type(data).__name__}. Allowed are images [N, C, H, W] and data sets with a length; "
                "collect what an iterator yields in a list first."
            )
        if limit is not None and limit < 1:
            raise ValueError(f"Got limit={limit}. Allowed are None (all images) and whole numbers from 1.")
        self._data, self._seed = data, seed
        self._targets = None if targets is None else _checked_targets(targets, len(data))
        self.normalization = normalization
        if normalization is None and not isinstance(data, Tensor):
            self.normalization = find_normalization(data)
        fingerprint = exact_fingerprint if exact else images_fingerprint
        order = list(range(len(data)))
        random.Random(seed).shuffle(order)
        first = sorted(order[:limit])
        looked: dict[int, _Looked] = {}
        self._left_out = 0
        # Others take the places of those that are left out.
        for place in (*first, *order[len(first) :]):
            if len(looked) == limit:
                break
            sample = self._sample(place)
            if sample.labels:
                looked[place] = _Looked.at(sample, fingerprint)
            else:
                self._left_out += 1
        if not looked:
            raise ValueError(
                f"Got no image{' that shows a class' if order else ''}. Allowed is at least one; give more data."
            )
        self._chosen = sorted(looked)
        found = [looked[place] for place in self._chosen]
        sizes = {one.size for one in found}
        if len(sizes) > 1:
            raise ValueError(
                f"Got images of the sizes {sorted(sizes)}. Allowed is one size. Resize and crop them alike."
            )
        self.pairs = [one.pairs for one in found]
        self.objects = common_objects([one.objects for one in found])
        self.classes: set[int] = set().union(*(one.classes for one in found))
        self._digest = hashlib.sha256("".join(one.digest for one in found).encode()).hexdigest()

    def __len__(self) -> int:
        return len(self._chosen)

    def __getitem__(self, index: int) -> Sample:
        return self._sample(self._chosen[index])

    def fingerprint(self) -> str:
        """A hash of the chosen images, classes, boxes and masks."""
        return self._digest

    def description(self) -> str:
        """How many images and pairs there are and how they were chosen, for a caption."""
        total = len(self._data)
        chosen = f", chosen from {total} with seed {self._seed}" if len(self) + self._left_out < total else ""
        left_out = f" ({plural(self._left_out, 'image')} without a class left out)" if self._left_out else ""
        return f"{plural(len(self), 'image')}{chosen}, {plural(sum(self.pairs), 'pair')} of image and class{left_out}"

    def _sample(self, place: int) -> Sample:
        item = self._data[place]
        image: Any = item
        own: Mapping[str, Any] = {}
        if isinstance(self._data, Tensor):
            pass
        elif isinstance(item, Mapping) and "image" in item:
            image, own = item["image"], item
        elif isinstance(item, (tuple, list)) and len(item) == 2:
            image, own = item[0], item[1] if isinstance(item[1], Mapping) else {"label": item[1]}
        else:
            raise TypeError(
                f"Got an item of {type(item).__name__} from the data set. Allowed are (image, class), (image, "
                '{"labels": ..., "boxes": ...}) and {"image": ..., "label": ...}; wrap the data set to return one of '
                "them."
            )
        if self._targets is not None:
            if own.get("labels", own.get("label")) is not None:
                raise ValueError(
                    f"Got targets beside data whose item {place} carries a class of its own. Allowed are targets of "
                    "items without one; leave out the targets, or give the images alone."
                )
            own = {**own, "label": self._targets[place]}
        return _annotated(place, image, own)


@dataclass(frozen=True)
class _Looked:
    """What is kept of an image that was looked at."""

    size: tuple[int, ...]
    pairs: int
    classes: set[int]
    objects: Objects | None
    digest: str

    @classmethod
    def at(cls, sample: Sample, fingerprint: Callable[[Tensor, Any], str]) -> _Looked:
        known = [None if boxes is None else boxes.tolist() for boxes in sample.boxes]
        told: list[Any] = [sample.labels, sample.candidates, known]
        if sample.masks:
            told += [
                [None if one is None else hashlib.sha256(one.numpy().tobytes()).hexdigest() for one in sample.masks]
            ]
        return cls(
            tuple(sample.image.shape),
            len(sample.labels),
            {index for candidates in sample.candidates for index in candidates},
            sample.objects,
            fingerprint(sample.image[None], tuple(told)),
        )


def build_samples(spec: Mapping[str, Any], limit: int | None, seed: int, targets: Targets = None) -> Samples:
    """The images of a configuration.

    Args:
        spec: ``{"class_path": ..., "init_args": {...}}`` of `BoxedImages`, of a data module, whose test images are
            taken, or of a data set as `OwnImages` takes it.
        limit: Number of images; ``None``: all.
        seed: Seed of the choice of images.
        targets: The class of each image, where the data carry none.
    """
    arguments = dict(spec["init_args"])
    if "limit" in arguments and "seed" in arguments and limit is not None:
        arguments |= {"limit": limit, "seed": seed}
    data = build({"class_path": spec["class_path"], "init_args": arguments})
    if isinstance(data, BoxedImages):
        return as_samples(data, targets, None, seed)
    normalization = None
    if is_data_module(data):
        data.prepare_data()
        data.setup("test")
        normalization = find_normalization(data)
        data = data.test_dataloader().dataset
    return OwnImages(data, targets, limit, seed, normalization, exact=False)


def as_samples(data: Any, targets: Targets, limit: int | None, seed: int) -> Samples:
    """Any form of data as `Samples`; see `OwnImages`."""
    if not isinstance(data, BoxedImages):
        return OwnImages(data, targets, limit, seed)
    if targets is not None or limit is not None:
        raise ValueError(
            "Got targets or limit beside BoxedImages. It has classes of its own, and a limit; leave out the targets, "
            "and build it with limit= instead."
        )
    return data


def _checked_targets(targets: Any, count: int) -> list[int]:
    try:
        found = torch.as_tensor(targets)
    except (TypeError, ValueError, RuntimeError):
        found = torch.empty(0)
    if found.shape != (count,) or found.dtype not in _WHOLE:
        given = f"{list(found.shape)} of {found.dtype}" if isinstance(targets, Tensor) else repr(targets)
        raise ValueError(
            f"Got targets={given} for {plural(count, 'image')}. Allowed is a class for each of them, whole numbers "
            f"[{count}]; give as many, also where limit= chooses among the images."
        )
    listed: list[int] = found.tolist()
    return listed


def _annotated(place: int, image: Any, target: Mapping[str, Any]) -> Sample:
    """An image of a data set with what its item says of it."""
    if not isinstance(image, Tensor) or image.ndim != 3 or not image.is_floating_point():
        given = f"{image.dtype} {list(image.shape)}" if isinstance(image, Tensor) else type(image).__name__
        raise TypeError(
            f"Got {given} as image {place}. Allowed are floating-point tensors [C, H, W] as the network takes them; "
            "give the data set a transform that makes one."
        )
    if "labels" not in target:
        label = target.get("label")
        target = {**target, "labels": [label] * len(target.get("masks", target.get("boxes", [()])))}
    labels = [None if label is None else _class_index(label, place) for label in target["labels"]]
    boxes = _checked_boxes(target["boxes"], len(labels), place) if "boxes" in target else None
    masks = _checked_masks(target["masks"], len(labels), image, place) if "masks" in target else None
    distinct = list(dict.fromkeys(labels))
    rows = [[index for index, other in enumerate(labels) if other == label] for label in distinct]
    return Sample(
        name=str(place),
        image=image.detach().cpu(),
        labels=tuple("predicted" if label is None else str(label) for label in distinct),
        candidates=tuple(() if label is None else (label,) for label in distinct),
        boxes=tuple(None if boxes is None else boxes[of] for of in rows),
        masks=() if masks is None else tuple(masks[of].any(0) for of in rows),
    )


def _class_index(label: Any, place: int) -> int:
    try:
        return operator.index(label)
    except TypeError as error:
        raise TypeError(
            f"Got {label!r} as a class of image {place}. Allowed are whole numbers, the indices of the network's "
            'outputs, one as the class or as "label", several as "labels"; wrap the data set to return them.'
        ) from error


def _checked_masks(given: Any, count: int, image: Tensor, place: int) -> Tensor:
    masks = torch.as_tensor(given)
    if masks.numel() == 0 and count == 0:
        masks = masks.reshape(0, *image.shape[1:])
    if masks.shape != (count, *image.shape[1:]):
        raise ValueError(
            f"Got masks {list(masks.shape)} for {count} labels of image {place}. Allowed are "
            f"{[count, *image.shape[1:]]}; give one mask of the image's size for each label."
        )
    return masks.detach().cpu() > 0.5 if masks.is_floating_point() else masks.detach().cpu() != 0


def _checked_boxes(given: Any, count: int, place: int) -> Tensor:
    boxes = torch.as_tensor(given, dtype=torch.float32)
    if boxes.numel() == 0 and count == 0:
        boxes = boxes.reshape(0, 4)
    if boxes.shape != (count, 4):
        raise ValueError(
            f"Got boxes {list(boxes.shape)} for {count} labels of image {place}. Allowed are [{count}, 4]; "
            "give one box for each label."
        )
    for box in boxes.tolist():
        x1, y1, x2, y2 = box
        # Compared so, NaN is refused as well.
        if not (x1 <= x2 < math.inf and y1 <= y2 < math.inf and min(x1, y1) > -math.inf):
            raise ValueError(
                f"Got the box {box} of image {place}, which ends before it begins or is not finite (is it a corner, "
                "width and height?). Allowed are x1, y1, x2, y2 in pixels; add the corner to width and height."
            )
    return boxes
