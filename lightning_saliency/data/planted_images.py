"""A data set with marks planted into its images, and batches of its items."""

from __future__ import annotations

from collections.abc import Callable, Mapping, MutableMapping, Sequence
from copy import copy
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence
from torch.utils.data import Dataset, default_collate
from torchvision import tv_tensors

from lightning_saliency.batches import BatchReader, describe, follow
from lightning_saliency.batches.tree import Path, dotted, plain
from lightning_saliency.data.masked.online import replace_tensor
from lightning_saliency.data.shortcuts import Shortcut

#: What an item holds beside its own parts.
ADDED = ("index", "marked", "mark")
# How far a normalised image may leave [0, 1] by rounding.
_ROUNDING = 1e-3


class PlantedImages(Dataset[Any]):
    """The items of a data set with marks planted into some of their images.

    An image is marked or not, and its mark is where it is, by the seed and the image's index alone: the same in every
    epoch. Marks are planted behind the data set's own transforms, so that these do not move them.

    An item stays what it is, its marked image where its own was. A dictionary holds ``index``, ``marked`` and ``mark``
    ``[H, W]``, too; any other item comes in a pair with a dictionary of these three. `PlantedBatches` makes batches of
    them.

    Args:
        dataset: Map-style data set; an item holds one image ``[3, H, W]`` and its integer label, as a tuple or a
            dictionary. A dictionary's ``boxes`` ``[K, 4]`` are passed to the shortcut; K may differ.
        shortcut: What is planted.
        num_classes: Number of classes.
        normalization: Mean and standard deviation by which the images were normalised; ``None``: they were not.
        share: Share of the images that are marked, in [0, 1]. Those without a class, a negative label, are not.
        seed: Seed of the choices.
        misleading: Whether an image carries the mark of another class, drawn at random, in place of its own.

    Attributes:
        marked: ``[N]`` bool, whether an image carries a mark if it has a class.

    Raises:
        ValueError: From an item, if it holds no such image or label, or its label is not below ``num_classes``.
    """

    def __init__(
        self,
        dataset: Any,
        shortcut: Shortcut,
        num_classes: int,
        normalization: tuple[Sequence[float], Sequence[float]] | None,
        share: float,
        seed: int,
        misleading: bool = False,
    ) -> None:
        self.dataset = dataset
        self.shortcut = shortcut
        self.num_classes = num_classes
        self.normalization = normalization
        generator, count = torch.Generator().manual_seed(seed), len(dataset)
        self.marked = torch.zeros(count, dtype=torch.bool)
        self.marked[torch.randperm(count, generator=generator)[: round(share * count)]] = True
        self._draws = torch.rand(count, 2, generator=generator)
        further = torch.randint(1, max(2, num_classes), (count,), generator=generator)
        self._further = further if misleading else torch.zeros_like(further)
        self._reader = BatchReader()

    def __len__(self) -> int:
        return len(self.dataset)

    def __getitem__(self, index: int) -> Any:
        if not -len(self) <= index < len(self):
            raise IndexError(f"Got index {index}. Allowed are those of {len(self)} images.")
        return self.__getitems__([index % len(self)])[0]

    def __getitems__(self, indices: Sequence[int]) -> list[Any]:
        """The samples at several indices; PyTorch's loaders call it."""
        own = getattr(self.dataset, "__getitems__", None)
        items = own(list(indices)) if callable(own) else [self.dataset[index] for index in indices]
        columns = _columns(items)
        content = self._reader.read(columns)
        images, labels = content.images, content.labels()
        if labels is None or images.shape[1] != 3:
            raise ValueError(
                f"Got items that make the batch {describe(columns)}. Allowed are images [3, H, W] with integer labels; "
                "let the data set return both."
            )
        if int(labels.max()) >= self.num_classes:
            raise ValueError(
                f"Got the label {int(labels.max())} where the data module has {self.num_classes} classes. Allowed are "
                f"whole numbers from 0 to {self.num_classes - 1}, and negative ones for images without a class; "
                "correct the labels, or num_classes of the data module."
            )
        where = torch.as_tensor(indices, dtype=torch.int64)
        chosen = self.marked[where] & (labels >= 0)
        marked, mask = self._planted(images, labels, where, chosen, _boxes(items))
        return [
            _with_added(
                _with_image(item, content.path, image) if is_marked else item,
                {"index": index, "marked": is_marked, "mark": region},
            )
            for item, image, index, is_marked, region in zip(items, marked, where, chosen, mask, strict=True)
        ]

    def _planted(
        self, images: Tensor, labels: Tensor, where: Tensor, chosen: Tensor, boxes: Tensor | None
    ) -> tuple[Tensor, Tensor]:
        """The images, the chosen ones marked; and the marks' pixels ``[B, H, W]``."""
        mask = torch.zeros(len(images), *images.shape[2:], dtype=torch.bool)
        if not bool(chosen.any()):
            return images, mask
        mean, std = (torch.tensor(values)[:, None, None] for values in self.normalization or ([0.0] * 3, [1.0] * 3))
        shown = images[chosen] * std + mean
        rounding = max(_ROUNDING, torch.finfo(images.dtype).eps if images.is_floating_point() else 0)
        if not (float(shown.min()) >= -rounding and float(shown.max()) <= 1 + rounding):
            raise ValueError(
                f"Got images from {float(shown.min()):.3g} to {float(shown.max()):.3g} where their normalisation is "
                f"{'undone' if self.normalization else 'not known'}. Allowed are images in [0, 1], also normalised by "
                "a Normalize among the data module's or data set's attributes; keep it there."
            )
        cues = (labels[chosen] + self._further[where][chosen]) % self.num_classes
        own = None if boxes is None else boxes[chosen]
        planted, region = self.shortcut.plant(shown, cues, self.num_classes, self._draws[where][chosen], own)
        marked = images.clone()
        # Pixels beside the mark stay as they are, to the bit.
        marked[chosen] = torch.where(region[:, None], ((planted - mean) / std).to(images.dtype), images[chosen])
        mask[chosen] = region
        return marked, mask


class PairBatch(dict[str, Any]):
    """What `PlantedBatches` makes of a pair (images, labels): ``image`` and ``label``, beside what is added."""


class PlantedBatches:
    """Makes batches of the items of `PlantedImages`, of each its own part by the ``collate_fn`` of their loader.

    A batch that is a dictionary stays one, with ``index`` ``[B]``, ``marked`` ``[B]`` and ``mark`` ``[B, H, W]`` beside
    what it holds. Of any other batch the images and labels become ``image`` and ``label`` of a dictionary with these.

    Args:
        collate: What makes the loader's batches.
        pairs_alone: Refuse batches that are neither dictionaries nor pairs (images, labels): the data module's hooks
            could not be given them in their own form.

    Raises:
        ValueError: From a call, if there are no images or labels in a batch, or not one image an item.
    """

    def __init__(self, collate: Callable[[list[Any]], Any], pairs_alone: bool = False) -> None:
        self.collate = collate
        self.pairs_alone = pairs_alone

    def __call__(self, items: list[Any]) -> Any:
        """The batch of some items."""
        if all(isinstance(item, Mapping) for item in items):
            batch = self.collate(items)
            added = [{name: item[name] for name in ADDED} for item in items]
        else:
            batch = self.collate([item for item, _ in items])
            added = [beside for _, beside in items]
        if isinstance(batch, Mapping):
            return _with_added(batch, default_collate(added))
        content = BatchReader().read(batch)
        if content.count != len(items):
            raise ValueError(
                f"Got a batch of {content.count} images from {len(items)} items, so that it is not known which of them "
                "are marked. Allowed is one image an item; let collate_fn keep all."
            )
        if type(batch) in (tuple, list) and len(batch) == 2 and content.path == (0,):
            return PairBatch(image=batch[0], label=batch[1], **default_collate(added))
        if self.pairs_alone:
            raise ValueError(
                f"Got batches {describe(batch)} of a data module with hooks for their transfer. Allowed are "
                "dictionaries and pairs (images, labels), which the hooks can be given back in their own form; let the "
                "data set or collate_fn return one."
            )
        labels = content.labels()
        if labels is None:
            labels = follow(batch, dotted(content.truth_and_place()[1]))[0]
        return {"image": content.images, "label": labels, **default_collate(added)}


def _columns(values: list[Any]) -> Any:
    """Items as one batch, of which those parts that cannot be stacked are lists."""
    first = values[0]
    if all(isinstance(value, Mapping) for value in values):
        return {name: _columns([value[name] for value in values]) for name in first if all(name in v for v in values)}
    if all(type(value) is type(first) and isinstance(value, (tuple, list)) for value in values):
        parts = [_columns(list(part)) for part in zip(*values, strict=False)]
        return type(first)(*parts) if hasattr(first, "_fields") else parts
    try:
        return default_collate(values)
    except (RuntimeError, TypeError):  # what differs in size, and what is no tensor, is the collate function's matter
        return values


def _boxes(items: list[Any]) -> Tensor | None:
    """The boxes of dictionaries, ``[B, K, 4]``; of an image with fewer than K the last are zeros and cover nothing."""
    found = [item.get("boxes") if isinstance(item, Mapping) else None for item in items]
    if all(boxes is None for boxes in found):
        return None
    tensors = [torch.zeros(0, 4) if boxes is None else plain(torch.as_tensor(boxes)) for boxes in found]
    return pad_sequence([each if each.numel() else torch.zeros(0, 4) for each in tensors], batch_first=True)


def _with_image(item: Any, path: Path, image: Tensor) -> Any:
    """A copy of an item with another image at a place, of the type of the one that is there."""
    own = item
    for part in path:
        if isinstance(own, Mapping):
            own = next(value for name, value in own.items() if str(name) == str(part))
        else:
            own = getattr(own, part) if isinstance(part, str) else own[part]
    other: Any = image
    if isinstance(own, np.ndarray):
        other = image.numpy()
    elif isinstance(own, tv_tensors.TVTensor):
        other = tv_tensors.wrap(image, like=own)
    return replace_tensor(item, own, other)


def _with_added(own: Any, added: Mapping[str, Any]) -> Any:
    """A dictionary with more in it, of its own kind; anything else in a pair with what is added."""
    if not isinstance(own, Mapping):
        return own, dict(added)
    more = copy(own) if isinstance(own, MutableMapping) else dict(own)
    more.update(added)
    return more
