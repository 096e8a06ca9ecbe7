"""Finding the image transforms of a data set, and copying the data set with other transforms."""

from __future__ import annotations

from collections.abc import Callable
from copy import copy
from typing import Any, Literal

import numpy as np
from PIL import Image
from torch import Tensor
from torch.utils._pytree import tree_flatten, tree_unflatten
from torch.utils.data import ConcatDataset, Dataset, IterableDataset, Subset, TensorDataset
from torchvision import tv_tensors
from torchvision.datasets.vision import StandardTransform

from lightning_saliency.pictures.tensors import find_normalization

#: What is known of a data set's geometry: it has transforms, it has none, or it may do anything inside.
Geometry = Literal["transforms", "none", "hidden"]
Transform = Callable[..., Any]
Normalization = tuple[tuple[float, ...], tuple[float, ...]]


class SaliencyGeometryError(ValueError):
    """The transforms that move a data set's images are unknown, so its maps cannot be moved with them."""


def hidden_geometry(dataset: object) -> SaliencyGeometryError:
    """The error for a data set whose transforms cannot be found."""
    return SaliencyGeometryError(
        f"Got {type(dataset).__name__} without `transform` and `transforms`, so that it is unknown how it moves its "
        "images. Allowed are data sets with one of torchvision.transforms.v2; give it one, set geometry='fixed' if it "
        "neither crops, flips nor resizes at random, or use an explainer instead of stored maps."
    )


def replace_transforms(dataset: Any, replace: Callable[[Transform], Transform]) -> tuple[Any, Geometry]:
    """A copy of a data set with other image transforms.

    ``transform`` and ``transforms`` are looked for in the data set itself and below ``Subset``, ``ConcatDataset`` and
    other wrappers that keep theirs as ``dataset``.

    Args:
        dataset: A map-style data set.
        replace: Called once with each transform that is given images (alone, or with their targets).

    Returns:
        A shallow copy, sharing images and all else with the data set, and what is known of its geometry. Only with
        ``"transforms"`` was anything replaced.

    Raises:
        SaliencyGeometryError: If there are two transforms one after the other, or the parts of a concatenation differ.
        TypeError: If the data set has no indices.
    """
    if isinstance(dataset, IterableDataset) or not hasattr(dataset, "__getitem__"):
        raise TypeError(
            f"Got a {type(dataset).__name__}. Allowed are data sets with indices, since a map belongs to an index; use "
            "an explainer instead of stored maps."
        )
    if isinstance(dataset, TensorDataset):
        return dataset, "none"
    if isinstance(dataset, ConcatDataset):
        parts = [replace_transforms(part, replace) for part in dataset.datasets]
        kinds = {kind for _, kind in parts}
        if len(kinds) > 1:
            raise SaliencyGeometryError(
                f"Got a ConcatDataset of which some parts have image transforms and others have none "
                f"({sorted(kinds)}). Give all parts a transform, for example v2.Identity()."
            )
        joined = copy(dataset)
        joined.datasets = [part for part, _ in parts]
        return joined, kinds.pop()
    inner = getattr(dataset, "dataset", None)
    wraps = isinstance(inner, Dataset)
    copied: Any = copy(dataset)
    if own_transforms(dataset):
        if wraps and replace_transforms(inner, lambda transform: transform)[1] == "transforms":
            raise SaliencyGeometryError(
                f"Got a {type(dataset).__name__} with a transform round a {type(inner).__name__} with a transform. "
                "Only one can be followed; put both into one v2.Compose."
            )
        _replace_own(copied, replace)
        return copied, "transforms"
    if wraps:
        copied.dataset, kind = replace_transforms(inner, replace)
        return copied, kind if kind == "transforms" or isinstance(dataset, Subset) else "hidden"
    return dataset, "none" if hasattr(dataset, "transform") or hasattr(dataset, "transforms") else "hidden"


def own_transforms(dataset: Any) -> list[Transform]:
    """The transforms that a data set itself applies to its images, without those of a wrapped data set."""
    found: list[Transform] = []
    joint = getattr(dataset, "transforms", None)
    if isinstance(joint, StandardTransform):
        joint = joint.transform
    for transform in (joint, getattr(dataset, "transform", None)):
        if callable(transform) and not any(transform is other for other in found):
            found.append(transform)
    return found


def dataset_normalization(dataset: Any) -> Normalization | None:
    """Mean and standard deviation of the first ``Normalize`` among a data set's image transforms."""
    transforms: list[Transform] = []

    def note(transform: Transform) -> Transform:
        transforms.append(transform)
        return transform

    replace_transforms(dataset, note)
    return find_normalization(*transforms)


def takes_batches(dataset: Any) -> bool:
    """Whether ``__getitems__`` transforms many images at once."""
    while isinstance(dataset, Subset):
        dataset = dataset.dataset
    return callable(getattr(dataset, "__getitems__", None))


def split_image(values: Any) -> tuple[Any, Callable[[Any], Any]]:
    """The image inside a sample or a transform's input, and a function that replaces it.

    Args:
        values: A PIL image, an array ``[H, W, C]`` or ``[H, W]``, a tensor ``[..., C, H, W]``, or tuples, lists and
            dictionaries in which one is the first.

    Raises:
        SaliencyGeometryError: If no image is found.

    Example:
        >>> import torch
        >>> image, put = split_image((torch.zeros(1, 2, 2), 7))
        >>> put(image + 1)[0].sum().item(), put(image)[1]
        (4.0, 7)
    """
    if isinstance(values, (Image.Image, tv_tensors.Image)):
        return values, _itself
    leaves, structure = tree_flatten(values)
    explicit = [place for place, leaf in enumerate(leaves) if isinstance(leaf, (Image.Image, tv_tensors.Image))]
    places = explicit or [place for place, leaf in enumerate(leaves) if _looks_like_an_image(leaf)]
    if not places:
        kinds = ", ".join(type(leaf).__name__ for leaf in leaves) or "nothing"
        raise SaliencyGeometryError(
            f"Found no image in a sample of {kinds}. Allowed are PIL images, arrays [H, W, C] and tensors [C, H, W]; "
            "use an explainer instead of stored maps."
        )

    def put(image: Any) -> Any:
        return tree_unflatten([image if place == places[0] else leaf for place, leaf in enumerate(leaves)], structure)

    return leaves[places[0]], put


def image_size(image: Any) -> tuple[int, int]:
    """(H, W) of a PIL image, an array or a tensor."""
    if isinstance(image, Image.Image):
        return image.height, image.width
    height, width = image.shape[:2] if isinstance(image, np.ndarray) else image.shape[-2:]
    return int(height), int(width)


def _replace_own(dataset: Any, replace: Callable[[Transform], Transform]) -> None:
    """Replace the transforms of a copied data set; torchvision's keep one and the same in two places."""
    replaced: dict[int, Transform] = {}
    for transform in own_transforms(dataset):
        replaced[id(transform)] = replace(transform)
    joint = getattr(dataset, "transforms", None)
    if isinstance(joint, StandardTransform):
        joint = copy(joint)
        if joint.transform is not None:
            joint.transform = replaced[id(joint.transform)]
        dataset.transforms = joint
    elif callable(joint):
        dataset.transforms = replaced[id(joint)]
    own = getattr(dataset, "transform", None)
    if callable(own):
        dataset.transform = replaced[id(own)]


def _itself(image: Any) -> Any:
    return image


def _looks_like_an_image(leaf: Any) -> bool:
    if isinstance(leaf, np.ndarray):
        return leaf.ndim in (2, 3) and min(leaf.shape) > 0
    other = isinstance(leaf, tv_tensors.TVTensor) and not isinstance(leaf, tv_tensors.Image)
    return isinstance(leaf, Tensor) and leaf.ndim >= 3 and not other
