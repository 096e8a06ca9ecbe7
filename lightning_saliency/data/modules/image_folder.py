"""A data module over folders of images, one folder per class."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor
from torch.utils.data import Subset
from torchvision.datasets import ImageFolder
from torchvision.transforms import v2

from lightning_saliency.checks import is_within
from lightning_saliency.data.image_files import read_picture
from lightning_saliency.data.modules._split_data import (
    RESIZE_RATIO,
    Channels,
    PathLike,
    SplitDataModule,
    check_min,
    normalization,
)

# What each split's folder is called under the root.
FOLDER_NAMES: dict[str, tuple[str, ...]] = {"train": ("train",), "val": ("val", "validation"), "test": ("test",)}


class ImageFolderDataModule(SplitDataModule):
    """Images in one folder per class, split into `train`, `val` (or `validation`) and, where there is one, `test`.

    Training images are cropped at random, resized and mirrored; evaluation images are resized, the shorter side to
    8/7 of `image_size`, and cropped at the centre. Batches are tuples (images float32 `[B, 3, H, W]`, labels int64
    `[B]`).

    Args:
        root: Folder that holds the splits; `train`, `val` or `validation`, and `test`.
        train_dir: Training folder; replaces the one under `root`.
        val_dir: Validation folder; replaces the one under `root`.
        test_dir: Test folder; replaces the one under `root`.
        image_size: Side of the images in pixels.
        batch_size: Images in a batch.
        num_workers: Loading processes.
        mean: Mean of each channel of RGB in [0, 1]; "imagenet" for the values of the published weights.
        std: Standard deviation of each channel of RGB in [0, 1]; "imagenet" for the values of the published weights.
        augment: Crop and mirror training images at random. `False`: treat them as in evaluation.
        val_fraction: Where there is no validation folder, the share of each class's training images, in (0, 1), that is
            set aside for validation; at least one image of each class that has two.
        seed: Seed of that random choice.

    Attributes:
        classes: The names of the classes, in the order of their labels.
        num_classes: Number of classes.
        normalize: The `torchvision.transforms.v2.Normalize` applied to images in [0, 1].
        train_transform: What is done to training images; ends in `normalize`.
        transform: What is done to evaluation images; ends in `normalize`.

    Raises:
        FileNotFoundError: In `setup`, if a folder does not exist or a class holds no image.
        ValueError: If an argument is out of range; in `setup`, if the classes of two splits differ.
    """

    def __init__(
        self,
        root: PathLike | None = None,
        train_dir: PathLike | None = None,
        val_dir: PathLike | None = None,
        test_dir: PathLike | None = None,
        image_size: int = 224,
        batch_size: int = 32,
        num_workers: int = 0,
        mean: Channels = "imagenet",
        std: Channels = "imagenet",
        augment: bool = True,
        val_fraction: float = 0.1,
        seed: int = 0,
    ) -> None:
        super().__init__(batch_size, num_workers)
        check_min({"image_size": (image_size, 1)})
        if root is None and train_dir is None and val_dir is None and test_dir is None:
            raise ValueError("Got no folder: give `root`, or at least one of `train_dir`, `val_dir` and `test_dir`")
        if not is_within(val_fraction, 0, 1) or val_fraction in (0, 1):
            raise ValueError(f"Got val_fraction={val_fraction!r}. Allowed are numbers in (0, 1); give one of them.")
        self.save_hyperparameters()
        self.root = root
        self.given = {"train": train_dir, "val": val_dir, "test": test_dir}
        self.val_fraction = val_fraction
        self.seed = seed
        self.normalize = normalization(mean, std)
        finish = [v2.ToImage(), v2.ToDtype(torch.float32, scale=True), self.normalize]
        resize = v2.Resize(round(image_size * RESIZE_RATIO), antialias=True)
        self.transform = v2.Compose([resize, v2.CenterCrop(image_size), *finish])
        self.train_transform = self.transform
        if augment:
            crop = v2.RandomResizedCrop(image_size, antialias=True)
            self.train_transform = v2.Compose([crop, v2.RandomHorizontalFlip(), *finish])
        self._classes: list[str] | None = None

    @property
    def classes(self) -> list[str]:
        """The names of the classes, in the order of their labels; read from the folders' names when first asked for."""
        if self._classes is None:
            self._classes = _shared_classes(self._folders())
        return self._classes

    @property
    def num_classes(self) -> int:
        """The number of classes."""
        return len(self.classes)

    def setup(self, stage: str | None = None) -> None:
        """List the images of the splits that a stage needs (without a stage: of every split there is)."""
        folders = self._folders()
        self._classes = _shared_classes(folders)
        there = [split for split in FOLDER_NAMES if split in folders or (split == "val" and "train" in folders)]
        needed = {"fit": ["train", "val"], "validate": ["val"], "test": ["test"], "predict": ["test"]}
        for split in there if stage is None else needed[stage]:
            if split not in there:
                raise FileNotFoundError(
                    f"Got no {split} folder with root={self.root}. Give {split}_dir, or a root with the folder "
                    f"{_alternatives(split)}."
                )
            if split in self.datasets:
                continue
            if split != "test" and "val" not in folders:
                self._set_aside(folders["train"])
            else:
                transform = self.train_transform if split == "train" else self.transform
                self.datasets[split] = _read(split, folders[split], transform)

    def _folders(self) -> dict[str, Path]:
        """The folder of each split that has one: the one given, else the one of that name under the root."""
        if self.root is not None and not Path(self.root).is_dir():
            raise FileNotFoundError(f"Got root={self.root}, where there is no folder. Give the folder of the splits.")
        folders = {}
        for split, names in FOLDER_NAMES.items():
            candidates = [] if self.root is None else [Path(self.root) / name for name in names]
            found = self.given[split] or next((path for path in candidates if path.is_dir()), None)
            if found is not None:
                folders[split] = Path(found)
        if not folders:
            raise FileNotFoundError(
                f"Got root={self.root}, a folder without splits. Allowed is at least one of the folders "
                f"{', '.join(map(_alternatives, FOLDER_NAMES))}; make one."
            )
        return folders

    def _set_aside(self, folder: Path) -> None:
        """Take the validation images from the training folder, the same share of each class."""
        training = _read("train", folder, self.train_transform)
        held, kept = hold_out(torch.tensor(training.targets), self.val_fraction, self.seed)
        if not len(held):
            raise ValueError(
                f"Got no class with two images in {folder}, one of which would be set aside for validation. Add "
                "images, or give val_dir."
            )
        self.datasets["train"] = Subset(training, kept.tolist())
        self.datasets["val"] = Subset(_read("train", folder, self.transform), held.tolist())


def hold_out(labels: Tensor, fraction: float, seed: int) -> tuple[Tensor, Tensor]:
    """Choose the same share of each class at random.

    Args:
        labels: `[N]` int64.
        fraction: Share in (0, 1); rounded, but at least one of each class that has two, and never the whole of a class.
        seed: Seed of the random choice.

    Returns:
        The indices chosen and those left, each in ascending order.

    Example:
        >>> hold_out(torch.tensor([0, 0, 0, 0, 1, 1]), 0.25, seed=0)[0].shape
        torch.Size([2])
    """
    generator = torch.Generator().manual_seed(seed)
    chosen = torch.zeros(len(labels), dtype=torch.bool)
    for label in torch.unique(labels):
        members = torch.nonzero(labels == label)[:, 0]
        count = min(max(1, round(fraction * len(members))), len(members) - 1)
        chosen[members[torch.randperm(len(members), generator=generator)[:count]]] = True
    return torch.nonzero(chosen)[:, 0], torch.nonzero(~chosen)[:, 0]


def _shared_classes(folders: dict[str, Path]) -> list[str]:
    """The names of the class folders, checked to be the same in every split: labels follow their order."""
    found: dict[str, list[str]] = {}
    for split, folder in folders.items():
        if not folder.is_dir():
            raise FileNotFoundError(
                f"Got {split}_dir={folder}, where there is no folder. Give the folder of the {split} images."
            )
        found[split] = sorted(entry.name for entry in folder.iterdir() if entry.is_dir())
        if not found[split]:
            raise FileNotFoundError(
                f"Got {split}_dir={folder}, an empty folder. Allowed is one folder of images for each class; make them."
            )
    first, *others = found
    for split in others:
        lacking, extra = sorted(set(found[first]) - set(found[split])), sorted(set(found[split]) - set(found[first]))
        if lacking or extra:
            raise ValueError(
                f"Got different classes in {folders[first]} and {folders[split]}: the {split} folder lacks {lacking} "
                f"and alone has {extra}. Labels follow the order of the folders; give every split the same ones."
            )
    return found[first]


def _read(split: str, folder: Path, transform: v2.Transform) -> ImageFolder:
    try:
        return ImageFolder(str(folder), transform=transform, loader=read_picture)
    except FileNotFoundError as error:
        raise FileNotFoundError(
            f"Got a class without images in {split}_dir={folder} ({error}). Add images, or remove the class."
        ) from error


def _alternatives(split: str) -> str:
    return " or ".join(f"`{name}`" for name in FOLDER_NAMES[split])
