"""Your own images for a comparison: tensors, or any data set of images and classes."""

from __future__ import annotations

import hashlib
import random
from collections.abc import Mapping
from typing import Any, Protocol

import torch
from torch import Tensor

from lightning_saliency.checks import plural
from lightning_saliency.data.boxes import BoxedImages, Sample
from lightning_saliency.lightning_bases import is_data_module
from lightning_saliency.pictures.tensors import find_normalization
from lightning_saliency.studies.engine.fingerprints import images_fingerprint
from lightning_saliency.studies.specs import build

Normalization = tuple[tuple[float, ...], tuple[float, ...]]


class Samples(Protocol):
    """The interface of a comparison's images; `BoxedImages` implements it."""

    @property
    def normalization(self) -> Normalization | None:
        """Mean and standard deviation by which the images were normalised, where they are known."""

    @property
    def pairs(self) -> list[int]:
        """How many classes each image has."""

    @property
    def has_boxes(self) -> bool:
        """Whether every class of every image has boxes."""

    @property
    def classes(self) -> set[int]:
        """The network's classes that the images show, without predicted ones."""

    def __len__(self) -> int: ...

    def __getitem__(self, index: int) -> Sample: ...

    def fingerprint(self) -> str:
        """A hash of the images, classes and boxes."""

    def description(self) -> str:
        """The number of images and how they were chosen, for a caption."""


class OwnImages:
    """Tensors or a map-style data set as `Samples`; they are read once, to check them.

    Args:
        data: Images ``[N, C, H, W]``, or a data set with a length whose items are

            - ``(image, class)``,
            - ``(image, {"labels": [n], "boxes": [n, 4]})`` as torchvision's detection data sets have it, or
            - dictionaries with ``image``, ``label`` (one class) or ``labels``, and, where there are any, ``boxes``,

            images ``[C, H, W]`` as the network takes them, boxes x1, y1, x2, y2 in their pixels.
        targets: For images ``[N, C, H, W]``: ``[N]`` int64; ``None``: the class that the network predicts.
        limit: Number of images taken; ``None``: all.
        seed: Seed of the choice of images.
        normalization: Mean and standard deviation by which the images were normalised; ``None``: searched in the data
            set's transforms.

    Raises:
        TypeError: If ``data`` or one of its items has another type.
        ValueError: If shapes do not fit.
    """

    def __init__(
        self,
        data: Any,
        targets: Tensor | None = None,
        limit: int | None = None,
        seed: int = 0,
        normalization: Normalization | None = None,
    ) -> None:
        if isinstance(data, Tensor):
            if data.ndim != 4 or (targets is not None and targets.shape != data.shape[:1]):
                raise ValueError(
                    f"Got images {list(data.shape)} and targets {None if targets is None else list(targets.shape)}. "
                    "Allowed are [N, C, H, W] and [N]."
                )
        elif targets is not None:
            raise ValueError("Got targets beside a data set. Allowed beside images only; let the items carry them.")
        elif not (hasattr(data, "__len__") and hasattr(data, "__getitem__")):
            raise TypeError(
                f"Got data of {type(data).__name__}. Allowed are images [N, C, H, W] and data sets with a length; "
                "collect what an iterator yields in a list first."
            )
        if limit is not None and limit < 1:
            raise ValueError(f"Got limit={limit}. Allowed are None (all images) and whole numbers from 1.")
        self._data, self._targets, self._seed = data, targets, seed
        order = list(range(len(data)))
        random.Random(seed).shuffle(order)
        self._chosen = sorted(order[:limit])
        if not self._chosen:
            raise ValueError("Got no image. Allowed is at least one; give more data, or another limit.")
        self.normalization = normalization
        if normalization is None and not isinstance(data, Tensor):
            self.normalization = find_normalization(data)
        self.pairs: list[int] = []
        self.has_boxes = True
        self.classes: set[int] = set()
        digest, sizes = hashlib.sha256(), set()
        for index in range(len(self)):
            sample = self[index]
            sizes.add(tuple(sample.image.shape))
            self.pairs.append(len(sample.labels))
            self.classes.update(index for candidates in sample.candidates for index in candidates)
            self.has_boxes &= all(boxes is not None for boxes in sample.boxes)
            known = [None if boxes is None else boxes.tolist() for boxes in sample.boxes]
            described = (sample.labels, sample.candidates, known)
            digest.update(images_fingerprint(sample.image[None], described).encode())
        if len(sizes) > 1:
            raise ValueError(
                f"Got images of the sizes {sorted(sizes)}. Allowed is one size. Resize and crop them alike."
            )
        self._digest = digest.hexdigest()

    def __len__(self) -> int:
        return len(self._chosen)

    def __getitem__(self, index: int) -> Sample:
        place = self._chosen[index]
        if isinstance(self._data, Tensor):
            label = None if self._targets is None else int(self._targets[place])
            return _sample(place, self._data[place], [label], None)
        item = self._data[place]
        if isinstance(item, Mapping) and "image" in item:
            return _annotated(place, item["image"], item)
        if isinstance(item, (tuple, list)) and len(item) == 2:
            image, target = item
            return _annotated(place, image, target if isinstance(target, Mapping) else {"label": target})
        raise TypeError(
            f"Got an item of {type(item).__name__} from the data set. Allowed are (image, class), (image, "
            '{"labels": ..., "boxes": ...}) and {"image": ..., "label": ...}; wrap the data set to return one of them.'
        )

    def fingerprint(self) -> str:
        """A hash of the chosen images, classes and boxes."""
        return self._digest

    def description(self) -> str:
        """How many images and pairs there are and how they were chosen, for a caption."""
        chosen = f", chosen from {len(self._data)} with seed {self._seed}" if len(self) < len(self._data) else ""
        return f"{plural(len(self), 'image')}{chosen}, {plural(sum(self.pairs), 'pair')} of image and class"


def build_samples(spec: Mapping[str, Any], limit: int | None, seed: int) -> Samples:
    """The images of a configuration.

    Args:
        spec: ``{"class_path": ..., "init_args": {...}}`` of `BoxedImages`, of a data module, whose test images are
            taken, or of a data set as `OwnImages` takes it.
        limit: Number of images; ``None``: all.
        seed: Seed of the choice of images.
    """
    arguments = dict(spec["init_args"])
    if "limit" in arguments and "seed" in arguments and limit is not None:
        arguments |= {"limit": limit, "seed": seed}
    data = build({"class_path": spec["class_path"], "init_args": arguments})
    if isinstance(data, BoxedImages):
        return data
    if is_data_module(data):
        data.prepare_data()
        data.setup("test")
        loader = data.test_dataloader()
        return OwnImages(loader.dataset, None, limit, seed, find_normalization(data))
    return OwnImages(data, None, limit, seed)


def as_samples(data: Any, targets: Tensor | None, limit: int | None, seed: int) -> Samples:
    """Any form of data as `Samples`; see `OwnImages`."""
    if not isinstance(data, BoxedImages):
        return OwnImages(data, targets, limit, seed)
    if targets is not None or limit is not None:
        raise ValueError("Got targets or limit beside BoxedImages. It has its own; build it with limit= instead.")
    return data


def _annotated(place: int, image: Any, target: Mapping[str, Any]) -> Sample:
    if not isinstance(image, Tensor) or image.ndim != 3 or not image.is_floating_point():
        given = f"{image.dtype} {list(image.shape)}" if isinstance(image, Tensor) else type(image).__name__
        raise TypeError(
            f"Got {given} as image {place}. Allowed are floating-point tensors [C, H, W] as the network takes them; "
            "give the data set a transform that makes one."
        )
    if "labels" not in target:
        label = target.get("label")
        target = {**target, "labels": [label] * len(target.get("boxes", [()]))}
    labels = [None if label is None else int(label) for label in target["labels"]]
    boxes = torch.as_tensor(target["boxes"], dtype=torch.float32) if "boxes" in target else None
    if boxes is not None and boxes.shape != (len(labels), 4):
        raise ValueError(
            f"Got boxes {list(boxes.shape)} for {len(labels)} labels of image {place}. Allowed are [{len(labels)}, 4]; "
            "give one box for each label."
        )
    return _sample(place, image, list(labels), boxes)


def _sample(place: int, image: Tensor, labels: list[int | None], boxes: Tensor | None) -> Sample:
    distinct = list(dict.fromkeys(labels))
    return Sample(
        name=str(place),
        image=image.detach().cpu(),
        labels=tuple("predicted" if label is None else str(label) for label in distinct),
        candidates=tuple(() if label is None else (label,) for label in distinct),
        boxes=tuple(
            None if boxes is None else boxes[[index for index, other in enumerate(labels) if other == label]]
            for label in distinct
        ),
    )
