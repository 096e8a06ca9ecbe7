"""Moving a stored map through the same crops and flips as its image, and masking the image by it."""

from __future__ import annotations

import operator
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal, get_args

import torch
from torch import Tensor, nn
from torch.utils.data import Dataset
from torchvision import tv_tensors
from torchvision.transforms import v2

from lightning_saliency.data.masked.store import SaliencyStore
from lightning_saliency.data.masked.transforms import (
    SaliencyGeometryError,
    Transform,
    hidden_geometry,
    image_size,
    replace_transforms,
    split_image,
    takes_batches,
)
from lightning_saliency.functional.fills import Fill, is_random
from lightning_saliency.functional.masking import keep_most_salient, remove_most_salient, resize_maps

Mode = Literal["kar", "roar"]
MODES: tuple[Mode, ...] = get_args(Mode)

# Maps are moved with values in [1024, 1279]: any fill value of a transform is below and counts as least salient.
_LOWEST, _HIGHEST = 1024.0, 1279.0
_NO_MASKS = (v2.AutoAugment, v2.RandAugment, v2.TrivialAugmentWide, v2.AugMix)
_BLIND = (v2.Normalize, v2.ToDtype, v2.Identity)


@dataclass(frozen=True)
class Masking:
    """How images are masked by their maps.

    Args:
        mode: ``"roar"`` fills over the most salient pixels, ``"kar"`` all others.
        fraction: Share of the pixels that are most salient, in [0, 1].
        fill: Value or kind of the replaced pixels, see ``fill_images``.
        seed: Seed of ``fill="noise"``.
    """

    mode: Mode
    fraction: float
    fill: Fill
    seed: int = 0

    @property
    def changes_nothing(self) -> bool:
        """Whether the images stay whole, whatever the maps."""
        return self.fraction == (0 if self.mode == "roar" else 1)

    def __call__(self, images: Tensor, maps: Tensor, generator: torch.Generator | None = None) -> Tensor:
        """Masked images of the images' dtype; bytes are filled in their own range and rounded."""
        change = remove_most_salient if self.mode == "roar" else keep_most_salient
        if images.is_floating_point():
            return change(images, maps, self.fraction, self.fill, generator=generator)
        masked = change(images.float(), maps, self.fraction, self.fill, generator=generator)
        return masked.round_().clamp_(0, 255).to(images.dtype)

    def generator(self, index: int) -> torch.Generator:
        """The noise of the image at an index, the same in every epoch and process."""
        # The CPU's generator looks at 32 bits of a seed.
        return torch.Generator().manual_seed(zlib.crc32(f"{self.seed} {index}".encode()))


class MaskedDataset(Dataset[Any]):
    """A data set whose images are masked by their stored maps, each map moved as its image is.

    Item i equals the data set's own item i, drawn with the same random numbers, except for the masked pixels of its
    image. The data set is not changed: a copy of it has other transforms, which take the image and its map, a
    ``tv_tensors.Mask`` of the image's size.

    Args:
        dataset: A map-style data set with torchvision's v2 transforms, or none at all.
        store: Its maps, one for each index.
        masking: How the images are masked.
        fixed: The images are not moved; the data set's transforms are ignored.

    Raises:
        SaliencyGeometryError: If the transforms that move the images cannot be found.
        ValueError: If there is not one map for each index.
    """

    def __init__(self, dataset: Any, store: SaliencyStore, masking: Masking, fixed: bool = False) -> None:
        if len(store) != len(dataset):
            raise ValueError(
                f"Got {len(store)} maps in {store.path} for {len(dataset)} images. Allowed is one for each; give the "
                "store of this very data set."
            )
        self.original = dataset
        self.store = store
        self.masking = masking
        self._carrier = MapCarrier(masking)
        self._inner, self._moves = dataset, False
        if not fixed:
            self._inner, geometry = replace_transforms(dataset, self._carrier.moving)
            if geometry == "hidden":
                raise hidden_geometry(dataset)
            self._moves = geometry == "transforms"

    def __len__(self) -> int:
        return len(self.store)

    def __getattr__(self, name: str) -> Any:
        # Classes, targets and the like are the data set's own.
        if name.startswith("__") or "original" not in vars(self):
            raise AttributeError(name)
        return getattr(self.original, name)

    def __getitem__(self, index: Any) -> Any:
        place = operator.index(index)
        row = place + len(self) if place < 0 else place
        maps = self.store[[row]]
        if not self._moves:
            return self._masked_samples([self._inner[place]], maps, [row])[0]
        self._carrier.load(maps, [row])
        sample = self._inner[place]
        self._carrier.check_used(type(self.original).__name__)
        return sample

    def __getitems__(self, indices: Sequence[int]) -> list[Any]:
        """The samples at several indices, at once where the data set can do that."""
        rows = [operator.index(index) % len(self) for index in indices]
        if not self._moves:
            return self._masked_samples([self._inner[row] for row in rows], self.store[rows], rows)
        if not takes_batches(self.original):
            return [self[index] for index in indices]
        self._carrier.load(self.store[rows], rows)
        samples: list[Any] = self._inner.__getitems__(list(indices))
        self._carrier.check_used(type(self.original).__name__)
        return samples

    def _masked_samples(self, samples: list[Any], maps: Tensor, rows: list[int]) -> list[Any]:
        """Samples whose images are as large as they were: those of one size are masked together."""
        parts = [split_image(sample) for sample in samples]
        groups: dict[Any, list[int]] = {}
        for place, (image, _) in enumerate(parts):
            _check_tensor(image, type(self.original).__name__)
            groups.setdefault((image.shape, image.dtype), []).append(place)
        masked: list[Any] = [None] * len(parts)
        for places in groups.values():
            images = torch.stack([parts[place][0] for place in places])
            sized = resize_maps(maps[places].float(), image_size(images))
            together = self._carrier.masked(images, sized, [rows[place] for place in places])
            for place, image in zip(places, together, strict=True):
                masked[place] = parts[place][1](image)
        return masked


class MapCarrier:
    """Passes the maps of the samples being drawn to the transforms of their images."""

    def __init__(self, masking: Masking) -> None:
        self.masking = masking
        self._maps = torch.empty(0)
        self._rows: list[int] = []
        self._used = 0

    def moving(self, transform: Transform) -> MovingTransform:
        """The transform that also moves and applies the maps."""
        check_movable(transform)
        return MovingTransform(transform, self)

    def load(self, maps: Tensor, rows: list[int]) -> None:
        """Maps ``[B, h, w]`` uint8 of the B samples that are drawn next."""
        self._maps, self._rows, self._used = maps.float().add_(_LOWEST), rows, 0

    def take(self, batched: int | None) -> tuple[Tensor, list[int]]:
        """The maps of the images that a transform receives, one image or a batch."""
        count = len(self._rows)
        if batched is None:
            place = self._used % count
            self._used += 1
            return self._maps[place : place + 1], self._rows[place : place + 1]
        if batched != count:
            raise SaliencyGeometryError(
                f"A transform was given {batched} images when {count} samples were drawn, so that the maps of "
                "the images are unknown. Use an explainer instead of stored maps."
            )
        self._used += count
        return self._maps, self._rows

    def check_used(self, name: str) -> None:
        """Raise an error if a sample's image did not pass through a transform."""
        if self._used == 0 or self._used % len(self._rows):
            raise SaliencyGeometryError(
                f"{name} drew {len(self._rows)} samples, but its image transform was called for {self._used}: it does "
                "not transform each image when it is drawn. Use an explainer instead of stored maps, or "
                "geometry='fixed' if the images are not moved at all."
            )

    def masked(self, image: Tensor, maps: Tensor, rows: list[int]) -> Tensor:
        """An image ``[C, H, W]`` or images ``[B, C, H, W]``, masked by maps ``[1 or B, H, W]``."""
        if self.masking.changes_nothing:
            return image
        pixels = image.as_subclass(Tensor)
        images = pixels if pixels.ndim == 4 else pixels[None]
        if is_random(self.masking.fill):
            parts = [
                self.masking(images[n : n + 1], maps[n : n + 1], self.masking.generator(row))
                for n, row in enumerate(rows)
            ]
            masked = torch.cat(parts)
        else:
            masked = self.masking(images, maps)
        return masked if pixels.ndim == 4 else masked[0]


class MovingTransform:
    """A v2 transform that moves an image's map along and masks the image by it.

    Args:
        transform: A transform of torchvision's v2.
        carrier: Source of the maps.
    """

    def __init__(self, transform: Transform, carrier: MapCarrier) -> None:
        self.transform = transform
        self.carrier = carrier

    def __call__(self, *inputs: Any) -> Any:
        """The sample, its map moved along with the image."""
        image, _ = split_image(inputs)
        batched = image.shape[0] if isinstance(image, Tensor) and image.ndim == 4 else None
        maps, rows = self.carrier.take(batched)
        mask = tv_tensors.Mask(resize_maps(maps, image_size(image)))
        try:
            *outputs, moved = self.transform(*inputs, mask)
        except TypeError as error:
            raise SaliencyGeometryError(
                f"The transform {self.transform} does not take an image together with its map: {error}. {_ALLOWED}"
            ) from error
        result, put = split_image(outputs[0] if len(outputs) == 1 else tuple(outputs))
        _check_tensor(result, self.transform)
        if not isinstance(moved, Tensor) or moved.shape[-2:] != result.shape[-2:]:
            raise SaliencyGeometryError(
                f"The transform {self.transform} made an image {list(result.shape)} and a map "
                f"{list(moved.shape) if isinstance(moved, Tensor) else type(moved).__name__}. {_ALLOWED}"
            )
        moved = moved.as_subclass(Tensor)
        if float(moved.max()) > _HIGHEST:
            raise SaliencyGeometryError(
                f"The transform {self.transform} changed the values of a tv_tensors.Mask, which it may only move. "
                f"{_ALLOWED}"
            )
        return put(self.carrier.masked(result, moved, rows))


_ALLOWED = (
    "Allowed are transforms of torchvision.transforms.v2, and your own subclasses of v2.Transform that treat "
    "tv_tensors.Mask as they do the image; or give geometry='fixed' if no image is cropped, flipped or resized at "
    "random."
)


def check_movable(transform: Any) -> None:
    """Raise an error if a transform cannot move a map together with an image."""
    steps = _steps(transform)
    for place, step in enumerate(steps):
        name = f"{type(step).__module__}.{type(step).__qualname__}"
        if not isinstance(step, v2.Transform):
            old = name.startswith("torchvision.transforms.") and ".v2." not in name
            reason = "one of torchvision's v1 transforms, which take an image alone" if old else "no v2 transform"
            raise SaliencyGeometryError(f"Got {name}, {reason}. {_ALLOWED}")
        if isinstance(step, v2.Lambda) and any(issubclass(tv_tensors.Mask, kind) for kind in step.types):
            raise SaliencyGeometryError(f"Got {name}, which would be applied to the map's values too. {_ALLOWED}")
        if isinstance(step, _NO_MASKS):
            raise SaliencyGeometryError(f"Got {name}, which refuses tv_tensors.Mask. {_ALLOWED}")
        if isinstance(step, v2.ToPureTensor) and not all(isinstance(later, _BLIND) for later in steps[place + 1 :]):
            raise SaliencyGeometryError(
                f"Got {name} before other transforms, which can then not tell the map from an image. Put it last."
            )


def _steps(transform: Any) -> list[Any]:
    """A transform, or the ones it is composed of, in order."""
    inner = getattr(transform, "transforms", None)
    if isinstance(transform, v2.Transform) and isinstance(inner, (list, tuple, nn.ModuleList)):
        return [step for part in inner for step in _steps(part)]
    return [transform]


def _check_tensor(image: Any, where: object) -> None:
    if not isinstance(image, Tensor) or image.ndim not in (3, 4):
        given = f"tensor {list(image.shape)}" if isinstance(image, Tensor) else type(image).__name__
        raise SaliencyGeometryError(
            f"Got a {given} out of {where}. Allowed is a tensor [C, H, W] to mask; let the transform end in "
            "v2.ToImage() and v2.ToDtype(torch.float32, scale=True)."
        )
