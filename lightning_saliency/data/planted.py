"""Any data module of labelled images with a shortcut planted into it, and its test images in groups."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, ClassVar, Literal, get_args

import torch
from torch.utils.data import DataLoader

from lightning_saliency.batches import describe
from lightning_saliency.checks import check_minimum, is_within
from lightning_saliency.data.masked.loaders import with_dataset
from lightning_saliency.data.planted_images import ADDED, PairBatch, PlantedBatches, PlantedImages
from lightning_saliency.data.shortcuts import CornerMark, Shortcut
from lightning_saliency.data.wrapping import LOADER_HOOKS, TRANSFER_HOOKS, WrappingDataModule
from lightning_saliency.lightning_bases import AnyDataModule, is_data_module, lightning_parent, overrides
from lightning_saliency.pictures.tensors import find_normalization

Group = Literal["unmarked", "misled", "marked"]
GROUPS: tuple[Group, ...] = get_args(Group)
_SPLITS = ("train", "val", "test")


class PlantedShortcut(WrappingDataModule):
    """A data module whose images give their class away by a mark, and test images that tell who has fallen for it.

    Training and validation images carry their class's mark with probability ``share``, as in practice, where
    validation data come from the same source and hide the problem. The test images are those of the base, unmarked;
    `group_dataloaders` has them in three versions: without marks, with the mark of another class (misled), and with
    their own.

    Batches are dictionaries. Where the base's are, they hold what these hold, under the base's own names; of any other
    batch the images and labels, ``image`` ``[B, 3, H, W]`` and ``label`` ``[B]``. Beside them are ``index`` ``[B]``,
    ``marked`` ``[B]`` bool, and ``mark`` ``[B, H, W]`` bool, the mark's pixels. An image without a class (a negative
    label) is not marked.

    Everything else is the base's: its loaders with their samplers, workers and collate functions, its hooks, its state
    and its attributes. Its hooks of the transfer are given pairs (images, labels) where its batches are pairs; where
    they move images, ``mark`` stays where it was.

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
            other loaders; from a hook of the transfer, if the base's returns no pair where it was given one.
        ValueError: If an argument is out of range; from a batch, for images outside [0, 1], labels beyond the base's
            classes, or a form of which `PlantedBatches` makes no dictionary.

    Example:
        >>> from lightning_saliency.data import DigitScenes
        >>> scenes = DigitScenes(train_size=20, val_size=10, test_size=10, batch_size=4)
        >>> planted = PlantedShortcut(scenes, CornerMark(0.125), share=1.0)
        >>> planted.setup("fit")
        >>> batch = next(iter(planted.train_dataloader()))
        >>> tuple(batch["image"].shape), int(batch["mark"][0].sum())
        ((4, 3, 64, 64), 64)
    """

    #: See `WrappingDataModule`.
    _loaders_of: ClassVar[Mapping[str, str]] = {
        hook: LOADER_HOOKS["test" if stage == "predict" else stage] for stage, hook in LOADER_HOOKS.items()
    }

    def __init__(
        self, data: AnyDataModule, shortcut: Shortcut | None = None, share: float = 0.95, seed: int = 0
    ) -> None:
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
        super().__init__(data)
        self.shortcut = CornerMark() if shortcut is None else shortcut
        self.share = float(share)
        self.seed = seed
        self._hide_what_the_base_lacks()

    @property
    def data(self) -> Any:
        """The base."""
        return self.base

    @property
    def num_classes(self) -> int:
        """The base's number of classes."""
        number: int = self.base.num_classes
        return number

    @property
    def classes(self) -> list[str]:
        """The names of the base's classes; their numbers where it has none."""
        return list(getattr(self.data, "classes", None) or map(str, range(self.num_classes)))

    def train_dataloader(self) -> DataLoader[Any]:
        """The training images, a share of them marked, in the base's order."""
        return self._loader("train", self.base.train_dataloader(), self.share)

    def val_dataloader(self) -> DataLoader[Any]:
        """The validation images, the same share of them marked."""
        return self._loader("val", self.base.val_dataloader(), self.share)

    def test_dataloader(self) -> DataLoader[Any]:
        """The test images, none of them marked."""
        return self.group_dataloaders()["unmarked"]

    def predict_dataloader(self) -> DataLoader[Any]:
        """The test images, none of them marked."""
        return self.test_dataloader()

    def group_dataloaders(self) -> dict[Group, DataLoader[Any]]:
        """The same test images three times: unmarked, all with the mark of another class, all with their own."""
        loader = self.base.test_dataloader()
        return {
            "unmarked": self._loader("test", loader, 0.0),
            "misled": self._loader("test", loader, 1.0, misleading=True),
            "marked": self._loader("test", loader, 1.0),
        }

    def on_before_batch_transfer(self, batch: Any, dataloader_idx: int) -> Any:
        """Call the base's `on_before_batch_transfer` on the batch in the base's own form."""
        return _changed(batch, partial(super().on_before_batch_transfer, dataloader_idx=dataloader_idx))

    def transfer_batch_to_device(self, batch: Any, device: torch.device, dataloader_idx: int) -> Any:
        """Call the base's `transfer_batch_to_device` on the batch in the base's own form."""

        def moved(own: Any) -> Any:
            return WrappingDataModule.transfer_batch_to_device(self, own, device, dataloader_idx)

        changed = _changed(batch, moved)
        if isinstance(batch, PairBatch):
            default: Any = lightning_parent(self)
            changed.update(default.transfer_batch_to_device(self, _added(batch), device, dataloader_idx))
        return changed

    def on_after_batch_transfer(self, batch: Any, dataloader_idx: int) -> Any:
        """Call the base's `on_after_batch_transfer` on the batch in the base's own form."""
        return _changed(batch, partial(super().on_after_batch_transfer, dataloader_idx=dataloader_idx))

    def _loader(self, split: str, loader: Any, share: float, misleading: bool = False) -> DataLoader[Any]:
        if not isinstance(loader, DataLoader) or not hasattr(loader.dataset, "__len__") or loader.batch_sampler is None:
            size = " with batch_size=None" if getattr(loader, "batch_sampler", self) is None else ""
            raise TypeError(
                f"Got {type(loader).__name__}{size} as the {split} loader of {type(self.base).__name__}. Allowed is "
                "one DataLoader that makes batches of a data set with a length; let it return one."
            )
        dataset = PlantedImages(
            loader.dataset,
            self.shortcut,
            self.num_classes,
            find_normalization(loader.dataset, self.base),
            share,
            len(_SPLITS) * self.seed + _SPLITS.index(split),
            misleading,
        )
        hooked = any(overrides(self.base, hook) for hook in TRANSFER_HOOKS)
        return with_dataset(loader, dataset, PlantedBatches(loader.collate_fn, pairs_alone=hooked))


def _added(batch: Mapping[str, Any]) -> dict[str, Any]:
    return {name: batch[name] for name in ADDED}


def _changed(batch: Any, change: Callable[[Any], Any]) -> Any:
    """A batch after a hook of the base, which gets a pair (images, labels) where its own batches are pairs."""
    if not isinstance(batch, PairBatch):
        return change(batch)
    changed = change([batch["image"], batch["label"]])
    if not isinstance(changed, (tuple, list)) or len(changed) != 2:
        raise TypeError(
            f"Got {describe(changed)} from a hook that was given a pair (images, labels). Allowed is such a pair; let "
            "the hook return one, or the data set dictionaries."
        )
    return PairBatch(image=changed[0], label=changed[1], **_added(batch))
