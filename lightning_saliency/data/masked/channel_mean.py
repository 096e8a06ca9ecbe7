"""The channel mean of the training images, with which ROAR and KAR replace pixels."""

from __future__ import annotations

import operator
from collections.abc import Callable, Sequence
from typing import Any

import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, IterableDataset, Subset
from torchvision import transforms as v1
from torchvision.transforms import v2

from lightning_saliency.batches import BatchReader, NoImagesError
from lightning_saliency.data.masked.loaders import leaves
from lightning_saliency.data.masked.transforms import (
    SaliencyGeometryError,
    Transform,
    image_size,
    replace_transforms,
    split_image,
    takes_batches,
)
from lightning_saliency.randomness import isolated_rng

#: Maximum number of images to average; the mean of a channel is then known to about 0.004 of its range.
MAX_IMAGES = 5_000

# Name prefixes of the transforms, in torchvision and here, that are random or add pixels.
_OURS = ("torchvision.transforms.", "lightning_saliency.")
_CHANCE = ("Rand", "Aug", "Auto", "Trivial", "ColorJitter", "Elastic", "Gaussian", "JPEG", "Pad", "ScaleJitter")
_ALLOWED = (
    "Allowed is a DataLoader to take the mean of, over a data set with indices and a length; give fill= as numbers, "
    "one per channel."
)


def is_data_mean(fill: Any) -> bool:
    """Whether the fill is ``"data_mean"``, the mean of the training images."""
    return isinstance(fill, str) and fill == "data_mean"


def channel_mean(loaders: Any, prepare: Callable[[Any], Any], image_key: str | int | None) -> tuple[float, ...]:
    """The mean of each channel over the images of a loader, the same at every call.

    The data set is read in order, at most `MAX_IMAGES` evenly spread, and collated as the loader does it; the loader
    is not touched. Torchvision's steps that draw at random or pad are left out of its transforms, so that the mean is
    that of the images themselves. Whatever else is random draws from generators that are isolated and seeded.

    Args:
        loaders: A loader or a collection, the first of which with images counts.
        prepare: What happens to a batch before it is masked.
        image_key: Key or index of the images in a batch, see ``BatchReader``.

    Returns:
        C numbers.

    Raises:
        TypeError: If the loader is not a ``DataLoader`` over a data set with indices.
        NoImagesError: If there are no images.
    """
    first, *others = leaves(loaders)
    try:
        return _mean_of(first, prepare, image_key)
    except NoImagesError:
        if not others:
            raise
        return channel_mean(others, prepare, image_key)


def _mean_of(loader: Any, prepare: Callable[[Any], Any], image_key: str | int | None) -> tuple[float, ...]:
    if not isinstance(loader, DataLoader):
        raise TypeError(f"Got training data of type {type(loader).__name__}. {_ALLOWED}")
    if isinstance(loader.dataset, IterableDataset) or not hasattr(loader.dataset, "__len__"):
        raise TypeError(f"Got training data of type {type(loader.dataset).__name__}. {_ALLOWED}")
    data: Dataset[Any] = _Seeded(without_chance(loader.dataset))
    count = len(loader.dataset)
    if count > MAX_IMAGES:
        data = Subset(data, [place * count // MAX_IMAGES for place in range(MAX_IMAGES)])
    total, pixels = torch.zeros((), dtype=torch.float64), 0
    with isolated_rng(0), torch.no_grad():
        for batch in DataLoader(
            data,
            batch_size=None if loader.batch_sampler is None else loader.batch_size or 64,
            num_workers=loader.num_workers,
            collate_fn=loader.collate_fn,
            worker_init_fn=loader.worker_init_fn,
            multiprocessing_context=loader.multiprocessing_context,
        ):
            images = BatchReader(image_key).read(prepare(batch)).pictures
            total = total + images.double().sum((0, 2, 3))
            pixels += images.shape[0] * images.shape[2] * images.shape[3]
    return tuple((total / pixels).tolist())


def without_chance(dataset: Any) -> Any:
    """A copy of a data set whose transforms neither draw at random nor add pixels; the images keep their size.

    Returns:
        A copy with other transforms; the data set itself if its transforms cannot be found or fail without the removed
        steps.
    """
    with isolated_rng(0):
        try:
            image, _ = split_image(dataset[0])
            deterministic, geometry = replace_transforms(
                dataset, lambda transform: _Deterministic(transform, image_size(image))
            )
            alike = _form(split_image(deterministic[0])[0]) == _form(image)
        except Exception:  # a transform of the user may need a step that was removed
            return dataset
    return deterministic if alike and geometry == "transforms" else dataset


class _Deterministic:
    """The deterministic part of a transform, applied to images resized to `size`.

    Args:
        transform: A transform of torchvision, v1 or v2.
        size: (H, W) of the images that come out.
    """

    def __init__(self, transform: Transform, size: tuple[int, int]) -> None:
        self.transform = _deterministic(transform)
        self.size = size
        self.resize = v2.Resize(list(size), antialias=True)

    def __call__(self, *inputs: Any) -> Any:
        try:
            squeezed = image_size(split_image(inputs)[0]) != self.size
        except SaliencyGeometryError:
            squeezed = False
        if squeezed:
            outputs = self.resize(*inputs)
            inputs = (outputs,) if len(inputs) == 1 else outputs
        return self.transform(*inputs)


class _Seeded(Dataset[Any]):
    """A data set whose samples do not depend on what was drawn before them, nor on the process that draws them."""

    def __init__(self, dataset: Any) -> None:
        self.dataset = dataset

    def __len__(self) -> int:
        return len(self.dataset)

    def __getitem__(self, index: Any) -> Any:
        with isolated_rng(operator.index(index)):
            return self.dataset[index]

    def __getitems__(self, indices: Sequence[int]) -> list[Any]:
        if not takes_batches(self.dataset):
            return [self[index] for index in indices]
        with isolated_rng(operator.index(indices[0])):
            samples: list[Any] = self.dataset.__getitems__(list(indices))
            return samples


def _deterministic(transform: Any) -> Any:
    """A transform, or the steps it is composed of, without the random steps."""
    if type(transform) in (v1.Compose, v2.Compose):
        steps = [_deterministic(step) for step in transform.transforms]
        kept = [step for step in steps if step is not _same]
        return type(transform)(kept) if kept else _same
    kind = type(transform)
    chance = kind.__module__.startswith(_OURS) and kind.__name__.startswith(_CHANCE)
    return _same if chance else transform


def _same(*inputs: Any) -> Any:
    return inputs[0] if len(inputs) == 1 else inputs


def _form(image: Any) -> tuple[Any, ...]:
    if isinstance(image, Image.Image):
        return image.mode, image.size
    return type(image), image.dtype, tuple(image.shape) if isinstance(image, Tensor) else image.shape
