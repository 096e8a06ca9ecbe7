"""The whole, unaugmented images of a data set, for computing maps, and the fingerprint of a data set."""

from __future__ import annotations

import hashlib
import operator
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, default_collate
from torchvision.transforms import v2

from lightning_saliency.data.masked.transforms import (
    SaliencyGeometryError,
    dataset_normalization,
    hidden_geometry,
    image_size,
    replace_transforms,
    split_image,
    takes_batches,
)
from lightning_saliency.randomness import isolated_rng

#: The loaders of a data module by stage.
LOADERS = {"train": "train_dataloader", "val": "val_dataloader", "test": "test_dataloader"}
_HASHED = 16


def whole_images(
    dataset: Any,
    size: int | tuple[int, int],
    transform: Callable[[Any], Tensor] | None = None,
    *,
    geometry: Literal["auto", "fixed"] = "auto",
) -> WholeImages:
    """A data set of the same images, whole and of one size, from which the maps of a `SaliencyStore` are made.

    A stored map covers the whole image as it is before any transform. The maps are therefore made of whole images,
    resized to the network's input; when the maps are used, they go through the transforms that move the image.

    Args:
        dataset: Any map-style data set with ``transform`` or ``transforms``, also below ``Subset`` and
            ``ConcatDataset``; it is not touched. Without transforms, its tensors are only resized.
        size: ``(H, W)``, or the side of a square.
        transform: Turns an image, in the form that the data set's own transform takes, into the network's input. It
            must be deterministic and keep the whole image visible. ``None``: resize, scale to [0, 1] and, where the
            data set's own transforms have a ``Normalize``, the same.
        geometry: ``"fixed"``: the data set's transforms do not move images; they are kept, and their output is resized.

    Returns:
        Samples of the data set's own form, with other images; ``fingerprint`` identifies the images.

    Raises:
        SaliencyGeometryError: If the data set's transforms cannot be found and ``geometry`` is not ``"fixed"``.

    Example:
        >>> from torch.utils.data import TensorDataset
        >>> data = TensorDataset(torch.rand(4, 3, 8, 8), torch.arange(4))
        >>> image, label = whole_images(data, 16)[2]
        >>> image.shape, label.item()
        (torch.Size([3, 16, 16]), 2)
    """
    return WholeImages(dataset, size, transform, geometry)


class WholeImages(Dataset[Any]):
    """What `whole_images` returns."""

    def __init__(
        self,
        dataset: Any,
        size: int | tuple[int, int],
        transform: Callable[[Any], Tensor] | None,
        geometry: Literal["auto", "fixed"],
    ) -> None:
        side = (size, size) if isinstance(size, int) else (size[0], size[1])
        self.original = dataset
        self._fixed = geometry == "fixed"
        self._resize = v2.Resize(list(side), antialias=True)
        self._after: Callable[[Any], Tensor] | None = None
        own = transform
        if own is None and not self._fixed:
            own = _evaluation_transform(self._resize, dataset_normalization(dataset))
        self._inner = dataset
        if not self._fixed:
            placed = _OnImage(own)
            self._inner, kind = replace_transforms(dataset, lambda _: placed)
            if kind == "hidden":
                raise hidden_geometry(dataset)
            self._fixed = kind == "none"
        if self._fixed:
            self._after = self._resize if transform is None else transform

    def __len__(self) -> int:
        return len(self.original)

    def __getitem__(self, index: Any) -> Any:
        return self._finished(self._inner[operator.index(index)])

    def __getitems__(self, indices: Sequence[int]) -> list[Any]:
        """The samples at several indices, at once where the data set can do that."""
        if not takes_batches(self._inner):
            return [self[index] for index in indices]
        return [self._finished(sample) for sample in self._inner.__getitems__(list(indices))]

    def fingerprint(self) -> str:
        """A hash of the images, see `data_fingerprint`."""
        return data_fingerprint(self.original, geometry="fixed" if self._fixed else "auto")

    def _finished(self, sample: Any) -> Any:
        if self._after is None:
            return sample
        image, put = split_image(sample)
        return put(self._after(image))


def whole_image_loaders(
    data: Any,
    size: int | tuple[int, int],
    transform: Callable[[Any], Tensor] | None = None,
    *,
    stages: Sequence[str] = ("train", "val", "test"),
    geometry: Literal["auto", "fixed"] = "auto",
    batch_size: int | None = None,
    num_workers: int | None = None,
) -> dict[str, DataLoader[Any]]:
    """Loaders over the whole images of a data module's stages, for ``Trainer.predict`` with a `SaliencyWriter`.

    Args:
        data: A ``LightningDataModule`` with one loader per stage; it is prepared and set up.
        size: Size of the images, see `whole_images`.
        transform: Deterministic transform of an image, see `whole_images`.
        stages: Names of the stages, any of ``"train"``, ``"val"`` and ``"test"``.
        geometry: ``"auto"`` or ``"fixed"``, see `whole_images`.
        batch_size: Images in a batch. ``None``: as in the stage's own loader.
        num_workers: Loading processes. ``None``: as in the stage's own loader.

    Returns:
        By stage, each in the data set's order.

    Raises:
        TypeError: If a stage does not have exactly one ``DataLoader``.
        ValueError: If a stage is unknown.
    """
    unknown = [stage for stage in stages if stage not in LOADERS]
    if unknown:
        raise ValueError(f"Got the stages {unknown}. Allowed are {', '.join(LOADERS)}; use some of them.")
    data.prepare_data()
    if {"train", "val"} & set(stages):
        data.setup("fit")
    if "test" in stages:
        data.setup("test")
    loaders = {}
    for stage in stages:
        own = getattr(data, LOADERS[stage])()
        if not isinstance(own, DataLoader):
            raise TypeError(
                f"Got {type(own).__name__} from {LOADERS[stage]}. Allowed is one DataLoader; build the loaders "
                "yourself with whole_images(dataset, size)."
            )
        loaders[stage] = DataLoader(
            whole_images(own.dataset, size, transform, geometry=geometry),
            batch_size=batch_size or own.batch_size or 1,
            num_workers=own.num_workers if num_workers is None else num_workers,
            collate_fn=_collated,
        )
    return loaders


def _collated(samples: Sequence[Any]) -> Any:
    """A batch of samples, which may hold anything beside their images: what cannot be stacked is a list.

    The stage's own ``collate_fn`` is not called, since it may mix images.

    Example:
        >>> _collated([(torch.zeros(3), {"boxes": torch.zeros(n, 4)}) for n in (1, 2)])[1]["boxes"][1].shape
        torch.Size([2, 4])
    """
    first = samples[0]
    if isinstance(first, Mapping):
        shared = [key for key in first if all(key in sample for sample in samples)]
        return {key: _collated([sample[key] for sample in samples]) for key in shared}
    if isinstance(first, (tuple, list)) and len({len(sample) for sample in samples}) == 1:
        parts = [_collated(part) for part in zip(*samples, strict=True)]
        return type(first)(*parts) if hasattr(first, "_fields") else parts
    try:
        return default_collate(list(samples))
    except (RuntimeError, TypeError):
        return list(samples)


def data_fingerprint(dataset: Any, *, geometry: Literal["auto", "fixed"] = "auto") -> str:
    """A hash of a data set's length and of the pixels of 16 images evenly spread over it, before any transform.

    Args:
        dataset: A map-style data set; it is not changed.
        geometry: With ``"fixed"``, and for a data set without transforms, the images are hashed as the data set returns
            them. If an image differs between two readings, only its size is hashed.

    Raises:
        SaliencyGeometryError: If the images change before the data set's transforms are applied, as by random crops in
            ``__getitem__`` itself.

    Example:
        >>> from torch.utils.data import TensorDataset
        >>> first, second = TensorDataset(torch.zeros(3, 1, 2, 2)), TensorDataset(torch.zeros(4, 1, 2, 2))
        >>> data_fingerprint(first) == data_fingerprint(second)
        False
    """
    count = len(dataset)
    raw, kind = (dataset, "none") if geometry == "fixed" else replace_transforms(dataset, lambda _: _same)
    digest = hashlib.sha256(str(count).encode())
    with isolated_rng(0):
        for place in sorted({round(step * (count - 1) / (_HASHED - 1)) for step in range(_HASHED if count else 0)}):
            first, second = (_content(split_image(raw[place])[0]) for _ in range(2))
            if first == second:
                digest.update(repr(first[0]).encode() + first[1])
                continue
            if kind == "transforms":
                raise SaliencyGeometryError(
                    f"{type(dataset).__name__} changes its images before its transform gets them, so that a map cannot "
                    "be moved with them. Let the transform do all of it, or take an explainer in the place of "
                    "stored maps."
                )
            digest.update(repr(first[0]).encode())
    return digest.hexdigest()


def check_whole(dataset: Any) -> None:
    """Raise an error if a data set visibly crops, resizes or randomly changes its images.

    Raises:
        SaliencyGeometryError: If it does.
    """
    if isinstance(dataset, WholeImages) or not len(dataset):
        return
    raw, kind = replace_transforms(dataset, lambda _: _same)
    if kind != "transforms":
        return  # without transforms there is nothing to check
    for place in {0, len(dataset) - 1}:
        with isolated_rng(0):
            first, second = (split_image(dataset[place])[0] for _ in range(2))
            whole = split_image(raw[place])[0]
        if image_size(whole) != image_size(first) or _content(first) != _content(second):
            raise SaliencyGeometryError(
                f"Got a {type(dataset).__name__} whose transform crops, resizes or changes its images at random. "
                "Stored maps are of whole images: wrap it in whole_images(dataset, size)."
            )


class _OnImage:
    """Applies a transform to the image in what a data set's transform is given."""

    def __init__(self, transform: Any) -> None:
        self.transform = transform

    def __call__(self, *inputs: Any) -> Any:
        image, put = split_image(inputs)
        outputs = put(self.transform(image))
        return outputs[0] if len(inputs) == 1 else outputs


def _evaluation_transform(resize: v2.Resize, normalization: Any) -> v2.Compose:
    steps = [v2.ToImage(), resize, v2.ToDtype(torch.float32, scale=True)]
    if normalization is not None:
        steps.append(v2.Normalize(mean=list(normalization[0]), std=list(normalization[1])))
    return v2.Compose([*steps, v2.ToPureTensor()])


def _same(*inputs: Any) -> Any:
    return inputs[0] if len(inputs) == 1 else inputs


def _content(image: Any) -> tuple[tuple[Any, ...], bytes]:
    """What an image is and its pixels."""
    if isinstance(image, Image.Image):
        return (image.mode, image.size), image.tobytes()
    values = image.detach().cpu().contiguous().numpy() if isinstance(image, Tensor) else np.ascontiguousarray(image)
    shape = values.shape[1:] if values.ndim == 4 else values.shape
    return (str(values.dtype), shape), values.tobytes()
