"""Labelled images of one size that lie in memory: whole batches are cropped, mirrored and normalised at once."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F
from torch.utils.data import Dataset
from torchvision import tv_tensors
from torchvision.transforms import v2

from lightning_saliency.data.modules._split_data import Sample


class ImageTensors(Dataset[Sample]):
    """Images ``[N, 3, H, W]`` with their labels; a sample is a crop of one, normalised.

    Args:
        images: ``[N, 3, H, W]`` uint8.
        labels: ``[N]`` int64.
        size: Side of the crop in pixels, at most H and W; random crops may also use the padding.
        normalize: Applied to images in [0, 1].
        augment: Crop at random instead of at the centre; drawn from the global generator, like a loader's order.
        mirror: With ``augment``, mirror half of the images.
        padding: With ``augment``, width of the border of zeros added before an image is cropped, in pixels. ``images``
            has no such border, so that maps are made of whole images.
    """

    def __init__(
        self,
        images: Tensor,
        labels: Tensor,
        size: int,
        normalize: v2.Transform,
        augment: bool = False,
        mirror: bool = True,
        padding: int = 0,
    ) -> None:
        self.images = images
        self.labels = labels
        crop = RandomCrops(size, mirror, padding) if augment else v2.CenterCrop(size)
        self.transform = v2.Compose([crop, v2.ToDtype(torch.float32, scale=True), normalize])

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> Sample:
        if not -len(self) <= index < len(self):
            raise IndexError(f"Got index {index}. Allowed are those of {len(self)} images.")
        return self.__getitems__([index % len(self)])[0]

    def __getitems__(self, indices: Sequence[int]) -> list[Sample]:
        """The samples at several indices; PyTorch's loaders call it, and a batch is then transformed at once."""
        where = torch.as_tensor(indices, dtype=torch.int64)
        return list(zip(self.transform(self.images[where]), self.labels[where], strict=True))


class RandomCrops(v2.Transform):  # type: ignore[misc]  # torchvision has no types
    """A square of each image of a batch at its own random place, half of them mirrored.

    Images ``[N, C, H, W]``, and ``tv_tensors.Mask`` ``[N, H, W]`` in the same way; drawn from the global generator.

    Args:
        size: Side in pixels, at most H and W with the padding.
        mirror: Whether half of the images are mirrored.
        padding: Width of the border of zeros added to each image first, in pixels.

    Example:
        >>> RandomCrops(32, padding=4)(torch.rand(2, 3, 32, 32)).shape
        torch.Size([2, 3, 32, 32])
    """

    def __init__(self, size: int, mirror: bool = True, padding: int = 0) -> None:
        super().__init__()
        self.size = size
        self.mirror = mirror
        self.padding = padding

    def make_params(self, flat_inputs: list[Any]) -> dict[str, Any]:
        """Where each image is cut, for all inputs alike."""
        images = next(value for value in flat_inputs if isinstance(value, Tensor) and value.ndim == 4)
        count, _, height, width = images.shape
        steps, more = torch.arange(self.size), 2 * self.padding + 1
        rows = torch.randint(height - self.size + more, (count, 1)) + steps
        mirrored = (torch.rand(count, 1) < 0.5) & self.mirror
        columns = torch.randint(width - self.size + more, (count, 1)) + torch.where(mirrored, steps.flip(0), steps)
        return {"rows": rows, "columns": columns}

    def transform(self, inpt: Any, params: dict[str, Any]) -> Any:
        """Cut one of the inputs."""
        plain = inpt.as_subclass(Tensor)
        planes = F.pad(plain if plain.ndim == 4 else plain[:, None], [self.padding] * 4)
        of_image = torch.arange(planes.shape[0])[:, None, None, None]
        of_channel = torch.arange(planes.shape[1])[:, None, None]
        cut = planes[of_image, of_channel, params["rows"][:, None, :, None], params["columns"][:, None, None, :]]
        cut = cut if plain.ndim == 4 else cut[:, 0]
        return tv_tensors.wrap(cut, like=inpt) if isinstance(inpt, tv_tensors.TVTensor) else cut
