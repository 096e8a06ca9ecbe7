"""Shared parts of the data modules: loaders over their splits, the checks and the normalisation."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

from torch import Tensor
from torch.utils.data import DataLoader, Dataset
from torchvision.transforms import v2

from lightning_saliency.checks import check_minimum
from lightning_saliency.lightning_bases import LightningDataModule
from lightning_saliency.pictures.tensors import IMAGENET_NORMALIZATION

# ImageNet's evaluation protocol resizes to 256 and keeps the central 224.
RESIZE_RATIO = 256 / 224

PathLike = str | Path
Sample = tuple[Tensor, Tensor]
#: Three numbers, one per channel, or the published weights'.
Channels = Literal["imagenet"] | tuple[float, float, float]


class SplitDataModule(LightningDataModule):
    """Loaders over the data sets that a subclass's `setup` puts into `datasets`.

    Args:
        batch_size: Images in a batch.
        num_workers: Loading processes.

    Attributes:
        datasets: By ``"train"``, ``"val"`` and ``"test"``.

    Raises:
        ValueError: If a number is out of range.
    """

    def __init__(self, batch_size: int, num_workers: int) -> None:
        super().__init__()
        check_min({"batch_size": (batch_size, 1), "num_workers": (num_workers, 0)})
        self.batch_size = batch_size
        self.num_workers = num_workers
        self.datasets: dict[str, Dataset[Any]] = {}

    def train_dataloader(self) -> DataLoader[Any]:
        """The training images in random order."""
        return self._loader("train", shuffle=True)

    def val_dataloader(self) -> DataLoader[Any]:
        """The validation images in order."""
        return self._loader("val")

    def test_dataloader(self) -> DataLoader[Any]:
        """The test images in order."""
        return self._loader("test")

    def predict_dataloader(self) -> DataLoader[Any]:
        """The test images in order."""
        return self._loader("test")

    def _loader(self, split: str, **options: Any) -> DataLoader[Any]:
        if split not in self.datasets:
            raise RuntimeError(f"Got no {split} images so far. Call setup() first.")
        return DataLoader(
            self.datasets[split],
            batch_size=self.batch_size,
            num_workers=self.num_workers,
            persistent_workers=self.num_workers > 0,
            **options,
        )


def check_min(minimum: Mapping[str, tuple[int, int]]) -> None:
    """Check numbers against their minimum.

    Args:
        minimum: By name, the number given and the smallest one allowed.

    Raises:
        ValueError: If a number is below its minimum, or none.
    """
    for name, (number, allowed) in minimum.items():
        check_minimum(name, number, allowed, "give one of them")


def normalization(mean: Channels, std: Channels) -> v2.Normalize:
    """The `torchvision.transforms.v2.Normalize` for images in [0, 1].

    Raises:
        ValueError: If there are not three numbers each, or a standard deviation is not positive.
    """
    published_mean, published_std = IMAGENET_NORMALIZATION
    return v2.Normalize(mean=_channels("mean", mean, published_mean), std=_channels("std", std, published_std))


def _channels(name: str, given: str | Sequence[float], imagenet: tuple[float, ...]) -> list[float]:
    values = list(imagenet) if given == "imagenet" else given
    if isinstance(values, str) or len(values) != 3 or (name == "std" and min(values) <= 0):
        raise ValueError(
            f"Got {name}={given!r}. Allowed are 'imagenet' and three {'positive ' if name == 'std' else ''}numbers; "
            "give one number for each channel."
        )
    return [float(value) for value in values]
