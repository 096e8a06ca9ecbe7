"""Labelled images of one size that lie in memory: whole batches are cropped, mirrored and normalised at once."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import pytorch_lightning as pl
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset
from torchvision import tv_tensors
from torchvision.transforms import v2

from lightning_saliency.data.image_folder import Sample


class ImageTensors(Dataset[Sample]):
    """Images ``[N, 3, H, W]`` with their labels; a sample is a crop of one, normalised.

    Args:
        images: ``[N, 3, H, W]`` uint8.
        labels: ``[N]`` int64.
        size: Side of the crop in pixels, at most H and W.
        normalize: Applied to images in [0, 1].
        augment: Crop at random instead of at the centre; drawn from the global generator, like a loader's order.
        mirror: With ``augment``, mirror half of the images.
    """

    def __init__(
        self,
        images: Tensor,
        labels: Tensor,
        size: int,
        normalize: v2.Transform,
        augment: bool = False,
        mirror: bool = True,
    ) -> None:
        self.images = images
        self.labels = labels
        crop = RandomCrops(size, mirror) if augment else v2.CenterCrop(size)
        self.transform = v2.Compose([crop, v2.ToDtype(torch.float32, scale=True), normalize])

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> Sample:
        if not -len(self) <= index < len(self):
            raise IndexError(f"image {index} was asked for, but there are {len(self)}")
        return self.__getitems__([index % len(self)])[0]

    def __getitems__(self, indices: Sequence[int]) -> list[Sample]:
        """The samples at several indices; PyTorch's loaders call it, and a batch is then transformed at once."""
        where = torch.as_tensor(indices, dtype=torch.int64)
        return list(zip(self.transform(self.images[where]), self.labels[where], strict=True))


class TensorDataModule(pl.LightningDataModule):
    """Loaders over the `ImageTensors` that a subclass's `setup` puts into `datasets`.

    Attributes:
        datasets: By ``"train"``, ``"val"`` and ``"test"``.
    """

    def __init__(self, batch_size: int, num_workers: int) -> None:
        super().__init__()
        self.batch_size = batch_size
        self.num_workers = num_workers
        self.datasets: dict[str, ImageTensors] = {}

    def train_dataloader(self) -> DataLoader[Sample]:
        """The training images in random order."""
        return self._loader("train", shuffle=True)

    def val_dataloader(self) -> DataLoader[Sample]:
        """The validation images in order."""
        return self._loader("val")

    def test_dataloader(self) -> DataLoader[Sample]:
        """The test images in order."""
        return self._loader("test")

    def predict_dataloader(self) -> DataLoader[Sample]:
        """The test images in order."""
        return self._loader("test")

    def _loader(self, split: str, **options: Any) -> DataLoader[Sample]:
        if split not in self.datasets:
            raise RuntimeError(f"The {split} images have not been read yet: call `setup()` first")
        return DataLoader(
            self.datasets[split],
            batch_size=self.batch_size,
            num_workers=self.num_workers,
            persistent_workers=self.num_workers > 0,
            **options,
        )


class RandomCrops(v2.Transform):  # type: ignore[misc]  # torchvision has no types
    """A square of each image of a batch at a random place of its own, half of them mirrored.

    Images ``[N, C, H, W]``, and ``tv_tensors.Mask`` ``[N, H, W]`` in the same way; drawn from the global generator.

    Args:
        size: Side in pixels, at most H and W.
        mirror: Whether any is mirrored.

    Example:
        >>> RandomCrops(32)(torch.rand(2, 3, 40, 40)).shape
        torch.Size([2, 3, 32, 32])
    """

    def __init__(self, size: int, mirror: bool = True) -> None:
        super().__init__()
        self.size = size
        self.mirror = mirror

    def make_params(self, flat_inputs: list[Any]) -> dict[str, Any]:
        """Where each image is cut, for all inputs alike."""
        images = next(value for value in flat_inputs if isinstance(value, Tensor) and value.ndim == 4)
        count, _, height, width = images.shape
        steps = torch.arange(self.size)
        rows = torch.randint(height - self.size + 1, (count, 1)) + steps
        mirrored = (torch.rand(count, 1) < 0.5) & self.mirror
        columns = torch.randint(width - self.size + 1, (count, 1)) + torch.where(mirrored, steps.flip(0), steps)
        return {"rows": rows, "columns": columns}

    def transform(self, inpt: Any, params: dict[str, Any]) -> Any:
        """Cut one of the inputs."""
        plain = inpt.as_subclass(Tensor)
        planes = plain if plain.ndim == 4 else plain[:, None]
        of_image = torch.arange(planes.shape[0])[:, None, None, None]
        of_channel = torch.arange(planes.shape[1])[:, None, None]
        cut = planes[of_image, of_channel, params["rows"][:, None, :, None], params["columns"][:, None, None, :]]
        cut = cut if plain.ndim == 4 else cut[:, 0]
        return tv_tensors.wrap(cut, like=inpt) if isinstance(inpt, tv_tensors.TVTensor) else cut


def check_least(least: Mapping[str, tuple[int, int]]) -> None:
    """Raise unless each number, given with the least that is allowed, is at least that."""
    for name, (number, allowed) in least.items():
        if number < allowed:
            raise ValueError(f"Expected `{name}` to be at least {allowed}, but got {number}")
