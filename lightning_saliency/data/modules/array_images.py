"""A data module over an ``.npz`` file of images: CIFAR-10 and its like."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from lightning_saliency.checks import is_within
from lightning_saliency.data.modules._image_tensors import ImageTensors
from lightning_saliency.data.modules._split_data import Channels, PathLike, SplitDataModule, check_min, normalization
from lightning_saliency.data.modules.image_folder import hold_out
from lightning_saliency.files import reading

_NEEDED = ("x_train", "y_train", "x_test", "y_test")


class ArrayImagesDataModule(SplitDataModule):
    """Images of one size in a NumPy archive, with the arrays ``x_train, y_train, x_test, y_test``.

    Training images are shifted at random by up to ``padding`` pixels (zeros come in from the border) and mirrored, the
    usual augmentation of small images. Batches are tuples (images float32 ``[B, 3, H, W]``, labels int64 ``[B]``).

    Args:
        path: The ``.npz`` file. ``x_*``: uint8 ``[N, H, W, 3]``, ``[N, 3, H, W]`` or, grey, ``[N, H, W]``, which is
            repeated to three channels. ``y_*``: integers ``[N]`` from 0. Validation images may lie in ``x_val, y_val``,
            the classes' names in ``classes``. Nothing is unpickled.
        batch_size: Images in a batch.
        num_workers: Loading processes; the images lie in memory, so 0 is usually fastest.
        mean: Mean of each channel of RGB in [0, 1]; "imagenet" for the values of the published weights.
        std: Standard deviation of each channel of RGB in [0, 1]; "imagenet" for the values of the published weights.
        augment: Shift and mirror training images.
        padding: Maximum shift in pixels.
        mirror: Whether half of the training images are mirrored; not for digits and letters.
        val_fraction: Where there are no validation images, the share of each class's training images, in (0, 1), that
            is set aside.
        train_size: Number of training images to keep, chosen by ``seed``; ``None``: all.
        seed: Seed of these random choices.

    Attributes:
        classes: The names of the classes.
        num_classes: Number of classes.
        normalize: The `torchvision.transforms.v2.Normalize` applied to images in [0, 1].
        datasets: The `ImageTensors` of each split, by "train", "val" and "test"; their images are those of the file.

    Raises:
        FileNotFoundError: In `setup`, if there is no such file.
        ValueError: If an argument is out of range; in `setup`, if the file holds something else.
    """

    def __init__(
        self,
        path: PathLike,
        batch_size: int = 128,
        num_workers: int = 0,
        mean: Channels = "imagenet",
        std: Channels = "imagenet",
        augment: bool = True,
        padding: int = 4,
        mirror: bool = True,
        val_fraction: float = 0.1,
        train_size: int | None = None,
        seed: int = 0,
    ) -> None:
        super().__init__(batch_size, num_workers)
        check_min({"padding": (padding, 0)})
        if train_size is not None:
            check_min({"train_size": (train_size, 1)})
        if not is_within(val_fraction, 0, 1) or val_fraction in (0, 1):
            raise ValueError(f"Got val_fraction={val_fraction!r}. Allowed are numbers in (0, 1); give one of them.")
        self.save_hyperparameters()
        self.path = Path(path)
        self.augment = augment
        self.padding = padding
        self.mirror = mirror
        self.val_fraction = val_fraction
        self.train_size = train_size
        self.seed = seed
        self.normalize = normalization(mean, std)
        self.classes: list[str] = []

    @property
    def num_classes(self) -> int:
        """The number of classes; known after `setup`."""
        return len(self.classes)

    def setup(self, stage: str | None = None) -> None:
        """Read the file and split the training images; once."""
        if self.datasets:
            return
        arrays = self._read()
        parts = {split: self._split(arrays, split) for split in ("train", "val", "test") if f"x_{split}" in arrays}
        if "val" not in parts:
            images, labels = parts["train"]
            held, kept = hold_out(labels, self.val_fraction, self.seed)
            parts["val"], parts["train"] = (images[held], labels[held]), (images[kept], labels[kept])
        if self.train_size is not None:
            images, labels = parts["train"]
            order = torch.randperm(len(images), generator=torch.Generator().manual_seed(self.seed))
            chosen = order[: self.train_size].sort().values
            parts["train"] = (images[chosen], labels[chosen])
        highest = 1 + max(int(labels.max()) for _, labels in parts.values())
        names = [str(name) for name in arrays["classes"]] if "classes" in arrays else [str(k) for k in range(highest)]
        if len(names) < highest:
            raise ValueError(
                f"Got {len(names)} names of classes in {self.path} and labels up to {highest - 1}. Allowed is a name "
                "for each label from 0; correct `classes` or leave it out."
            )
        self.classes = names
        for split, (images, labels) in parts.items():
            self.datasets[split] = ImageTensors(
                images,
                labels,
                images.shape[-1],
                self.normalize,
                augment=self.augment and split == "train",
                mirror=self.mirror,
                padding=self.padding,
            )

    def _read(self) -> dict[str, Any]:
        if not self.path.is_file():
            raise FileNotFoundError(f"Got {self.path}, where there is no file. Give its path from the current folder.")
        with reading(self.path, "archive of images"), np.load(self.path, allow_pickle=False) as archive:
            missing = [name for name in _NEEDED if name not in archive]
            if missing:
                raise ValueError(
                    f"Got the arrays {sorted(archive)} in {self.path}, without {', '.join(missing)}. Allowed are "
                    f"{', '.join(_NEEDED)}; rename them."
                )
            return {name: archive[name] for name in archive}

    def _split(self, arrays: dict[str, Any], split: str) -> tuple[Tensor, Tensor]:
        images, labels = arrays[f"x_{split}"], arrays.get(f"y_{split}")
        labels = labels.reshape(-1) if labels is not None and labels.size == len(images) else labels
        if labels is None or not np.issubdtype(labels.dtype, np.integer) or labels.shape != (len(images),):
            given = "nothing" if labels is None else f"{labels.dtype} {list(labels.shape)}"
            raise ValueError(
                f"Got {given} as y_{split} for {len(images)} images in {self.path}. Allowed is an integer from 0 for "
                "each image; correct the array."
            )
        if images.ndim == 3:
            images = np.repeat(images[:, None], 3, axis=1)
        elif images.ndim == 4 and images.shape[-1] == 3:
            images = images.transpose(0, 3, 1, 2)
        if images.ndim != 4 or images.shape[1] != 3 or images.shape[2] != images.shape[3] or images.dtype != np.uint8:
            raise ValueError(
                f"Got x_{split} of {images.dtype} {list(arrays[f'x_{split}'].shape)} in {self.path}. Allowed are "
                "square uint8 images [N, H, H, 3], [N, 3, H, H] and [N, H, H]; convert them."
            )
        return torch.from_numpy(np.ascontiguousarray(images)), torch.from_numpy(labels.astype(np.int64))
