"""Any data module of labelled images with a shortcut planted into it, and its test images in groups."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal, get_args

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, default_collate

from lightning_saliency.batches import BatchReader, describe
from lightning_saliency.checks import check_minimum, is_within
from lightning_saliency.data.masked.loaders import with_dataset
from lightning_saliency.data.shortcuts import CornerMark, Shortcut
from lightning_saliency.lightning_bases import AnyDataModule, LightningDataModule, is_data_module
from lightning_saliency.pictures.tensors import find_normalization

Group = Literal["unmarked", "misled", "marked"]
GROUPS: tuple[Group, ...] = get_args(Group)
_SPLITS = ("train", "val", "test")
# How far a normalised image may leave [0, 1] by rounding.
_ROUNDING = 1e-3


class PlantedImages(Dataset[dict[str, Any]]):
    """The items of a data set with marks planted into some of their images.

    An image is marked or not, and its mark is where it is, by the seed and the image's index alone: the same in every
    epoch. Marks are planted behind the data set's own transforms, so that these do not move them.

    Args:
        dataset: Map-style data set; an item holds one image ``[3, H, W]`` and its integer label, as a tuple or a
            dictionary. The boxes of a dictionary's ``boxes`` ``[K, 4]`` are passed to the shortcut.
        shortcut: What is planted.
        num_classes: Number of classes.
        normalization: Mean and standard deviation by which the images were normalised; ``None``: they were not.
        share: Share of the images that are marked, in [0, 1].
        seed: Seed of the choices.
        misleading: Whether an image carries the mark of another class, drawn at random, in place of its own.

    Attributes:
        marked: ``[N]`` bool, whether an image carries a mark.
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

    def __getitem__(self, index: int) -> dict[str, Any]:
        if not -len(self) <= index < len(self):
            raise IndexError(f"Got index {index}. Allowed are those of {len(self)} images.")
        return self.__getitems__([index % len(self)])[0]

    def __getitems__(self, indices: Sequence[int]) -> list[dict[str, Any]]:
        """The samples at several indices; PyTorch's loaders call it."""
        own = getattr(self.dataset, "__getitems__", None)
        items = own(list(indices)) if callable(own) else [self.dataset[index] for index in indices]
        batch = default_collate(items)
        content = self._reader.read(batch)
        images, labels = content.images, content.labels()
        if labels is None or images.shape[1] != 3:
            raise ValueError(
                f"Got items that make the batch {describe(batch)}. Allowed are images [3, H, W] with integer labels; "
                "let the data set return both."
            )
        where = torch.as_tensor(indices, dtype=torch.int64)
        boxes = batch.get("boxes") if isinstance(batch, Mapping) else None
        marked, mask = self._planted(images, labels, where, boxes)
        kept = [dict(item) if isinstance(item, Mapping) else {} for item in items]
        parts = zip(kept, marked, labels, where, self.marked[where], mask, strict=True)
        return [
            {**item, "image": image, "label": label, "index": index, "marked": is_marked, "mark": region}
            for item, image, label, index, is_marked, region in parts
        ]

    def _planted(self, images: Tensor, labels: Tensor, where: Tensor, boxes: Tensor | None) -> tuple[Tensor, Tensor]:
        """The images, those that shall be marked; and the marks' pixels ``[B, H, W]``."""
        chosen = self.marked[where]
        mask = torch.zeros(len(images), *images.shape[2:], dtype=torch.bool)
        if not bool(chosen.any()):
            return images, mask
        mean, std = (torch.tensor(values)[:, None, None] for values in self.normalization or ([0.0] * 3, [1.0] * 3))
        shown = images[chosen] * std + mean
        if not (float(shown.min()) >= -_ROUNDING and float(shown.max()) <= 1 + _ROUNDING):
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
        marked[chosen] = torch.where(region[:, None], (planted - mean) / std, images[chosen])
        mask[chosen] = region
        return marked, mask


class PlantedShortcut(LightningDataModule):
    """A data module whose images give their class away by a mark, and test images that tell who has fallen for it.

    Training and validation images carry their class's mark with probability ``share``, as in practice, where
    validation data come from the same source and hide the problem. The test images are those of the base, unmarked;
    `group_dataloaders` has them in three versions: without marks, with the mark of another class (misled), and with
    their own.

    Batches are dictionaries: what the base's batches hold if they are dictionaries, and ``image`` ``[B, 3, H, W]``,
    ``label`` ``[B]``, ``index`` ``[B]``, ``marked`` ``[B]`` bool, and ``mark`` ``[B, H, W]`` bool, the mark's pixels.

    Args:
        data: Any ``LightningDataModule`` of images with integer labels and ``num_classes``; a stage has one
            ``DataLoader`` over a map-style data set.
        shortcut: What is planted; ``None``: `CornerMark`.
        share: Share of the training and validation images that are marked, in [0, 1]; 0: an honest data set with the
            same test images.
        seed: Seed of the choice of images, of their places and of the classes that mislead, at least 0.

    Attributes:
        data: The base.

    Raises:
        TypeError: If ``data`` is not a data module, or ``shortcut`` not a `Shortcut`; from a loader, if the base has
            other loaders.
        ValueError: If an argument is out of range.

    Example:
        >>> from lightning_saliency.data import DigitScenes
        >>> scenes = DigitScenes(train_size=20, val_size=10, test_size=10, batch_size=4)
        >>> planted = PlantedShortcut(scenes, CornerMark(0.125), share=1.0)
        >>> planted.setup("fit")
        >>> batch = next(iter(planted.train_dataloader()))
        >>> tuple(batch["image"].shape), int(batch["mark"][0].sum())
        ((4, 3, 64, 64), 64)
    """

    def __init__(
        self, data: AnyDataModule, shortcut: Shortcut | None = None, share: float = 0.95, seed: int = 0
    ) -> None:
        super().__init__()
        if not is_data_module(data):
            raise TypeError(f"Got data of type {type(data).__name__}. Allowed is a LightningDataModule; give one.")
        if shortcut is not None and not isinstance(shortcut, Shortcut):
            raise TypeError(
                f"Got shortcut of type {type(shortcut).__name__}. Allowed are the classes of "
                "lightning_saliency.data.shortcuts and your own of its Shortcut; give an object of one."
            )
        if not is_within(share, 0, 1):
            raise ValueError(f"Got share={share!r}. Allowed are shares of the images in [0, 1]; give one of them.")
        check_minimum("seed", seed, 0, "give one of them")
        self.data = data
        self.shortcut = CornerMark() if shortcut is None else shortcut
        self.share = float(share)
        self.seed = seed

    @property
    def num_classes(self) -> int:
        """The base's number of classes."""
        number: int = self.data.num_classes
        return number

    @property
    def classes(self) -> list[str]:
        """The names of the base's classes; their numbers where it has none."""
        return list(getattr(self.data, "classes", None) or map(str, range(self.num_classes)))

    def prepare_data(self) -> None:
        """Call the base's `prepare_data`."""
        self.data.prepare_data()

    def setup(self, stage: str | None = None) -> None:
        """Call the base's `setup`."""
        self.data.setup(stage)

    def teardown(self, stage: str | None = None) -> None:
        """Call the base's `teardown`."""
        self.data.teardown(stage)

    def train_dataloader(self) -> DataLoader[Any]:
        """The training images, a share of them marked, in the base's order."""
        return self._loader("train", self.data.train_dataloader(), self.share)

    def val_dataloader(self) -> DataLoader[Any]:
        """The validation images, the same share of them marked."""
        return self._loader("val", self.data.val_dataloader(), self.share)

    def test_dataloader(self) -> DataLoader[Any]:
        """The test images, none of them marked."""
        return self.group_dataloaders()["unmarked"]

    def predict_dataloader(self) -> DataLoader[Any]:
        """The test images, none of them marked."""
        return self.test_dataloader()

    def group_dataloaders(self) -> dict[Group, DataLoader[Any]]:
        """The same test images three times: unmarked, all with the mark of another class, all with their own."""
        loader = self.data.test_dataloader()
        return {
            "unmarked": self._loader("test", loader, 0.0),
            "misled": self._loader("test", loader, 1.0, misleading=True),
            "marked": self._loader("test", loader, 1.0),
        }

    def _loader(self, split: str, loader: Any, share: float, misleading: bool = False) -> DataLoader[Any]:
        if not isinstance(loader, DataLoader) or not hasattr(loader.dataset, "__len__"):
            raise TypeError(
                f"Got {type(loader).__name__} as the {split} loader of {type(self.data).__name__}. Allowed is one "
                "DataLoader over a data set with a length; let it return one."
            )
        dataset = PlantedImages(
            loader.dataset,
            self.shortcut,
            self.num_classes,
            find_normalization(loader.dataset, self.data),
            share,
            len(_SPLITS) * self.seed + _SPLITS.index(split),
            misleading,
        )
        return with_dataset(loader, dataset)
