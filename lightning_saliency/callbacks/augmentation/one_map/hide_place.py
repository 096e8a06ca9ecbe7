"""A transform that hides one place of every image, in front of what crops and flips at random, and finds it itself."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import torch
from PIL import Image
from torch import Tensor, nn
from torchvision import tv_tensors
from torchvision.transforms import v2
from torchvision.transforms.v2 import functional as transforms

from lightning_saliency.batches import BatchReader
from lightning_saliency.callbacks._trainer_lookups import watched_module
from lightning_saliency.callbacks.augmentation.one_map.shortcut_place import ShortcutPlace, region_in
from lightning_saliency.explainers import ExplainerOption, ExplainerSpec
from lightning_saliency.explainers.base import Output
from lightning_saliency.functional.class_labels import NO_CLASS
from lightning_saliency.functional.masking import resize_maps
from lightning_saliency.lightning_bases import lightning_parent

#: What is hidden is given the mean colour of what stays visible.
MEAN = "mean"


class NoPlaceError(ValueError):
    """In the images of a loader there is no place that a network leans on."""


class HidePlace(v2.Transform):  # type: ignore[misc]  # torchvision has no types
    """Hides the same place of every image: the cure of a shortcut where training crops or mirrors images at random.

    Random crops and flips move a mark, so that it has no place in the training batches any more. In the images before
    them it has. `find` looks for the place as ``MaskTune("smoe", maps="shortcut")`` does, in images that are not moved,
    such as those of validation, and makes the transform that is put in front of the training images' own ones::

        hide = HidePlace.find(module, data.val_dataloader())
        train_transform = v2.Compose([hide, v2.RandomResizedCrop(224), v2.RandomHorizontalFlip(), ...])

    The image that it is given has to show the same as those in which the place was found: where validation images are
    resized and cropped in the middle, put the same resize and crop before it. Their size may differ; then a margin is
    hidden, too, of a cell of the place.

    Images are tensors ``[..., C, H, W]``, ``tv_tensors.Image`` and ``Video``, and PIL images, alone or in any structure
    that torchvision's v2 transforms take; boxes, masks and labels beside them stay as they are.

    Args:
        place: ``[G, K]`` bool, the place, on a grid over the image: where it is true, pixels are hidden.
        fill: ``"mean"``: the mean colour of what stays visible of the image itself; or a number, or one a channel, in
            the images' own range.

    Attributes:
        place: As given.

    Raises:
        ValueError: If the place is no such tensor, holds nothing or everything, or the fill is unknown; from a call, if
            the fill does not fit the image's channels, or a PIL image holds indices of colours.

    Example:
        >>> place = torch.zeros(4, 4, dtype=torch.bool)
        >>> place[0, 0] = True
        >>> HidePlace(place)(torch.arange(16.0).view(1, 4, 4))[0, 0]  # the mean of 1 to 15
        tensor([8., 1., 2., 3.])
    """

    def __init__(self, place: Tensor, fill: float | Sequence[float] | str = MEAN) -> None:
        super().__init__()
        if not isinstance(place, Tensor) or place.ndim != 2 or place.dtype != torch.bool:
            form = f"{list(place.shape)} {place.dtype}" if isinstance(place, Tensor) else type(place).__name__
            raise ValueError(f"Got a place of {form}. Allowed is a tensor [G, K] of bool; give one, or use find().")
        if not bool(place.any()) or bool(place.all()):
            raise ValueError(
                f"Got a place that holds {'all' if bool(place.any()) else 'nothing'} of the image. Allowed is a part "
                "of it; give one, or use find()."
            )
        if isinstance(fill, str) and fill != MEAN:
            raise ValueError(f"Got fill={fill!r}. Allowed are {MEAN!r}, a number, and one a channel; use one of them.")
        self.place = place.detach().cpu()
        self.fill = fill

    @classmethod
    def find(
        cls,
        network: nn.Module,
        loader: Iterable[Any],
        explainer: ExplainerOption = "smoe",
        *,
        fill: float | Sequence[float] | str = MEAN,
        output: Output = None,
        image_key: str | int | None = None,
        label_key: str | int | None = None,
    ) -> HidePlace:
        """The transform that hides the place to which most maps point and where what lies there tells the class.

        The network stays as it was. At most 5,000 images are looked at, at one forward pass each.

        Args:
            network: The network that leans on a shortcut, or its LightningModule.
            loader: Batches of its images as it takes them, with labels, and without random crops and flips.
            explainer: Whose maps, see ``SaliencyAugmentation``.
            fill: See the class.
            output: What takes the logits out of what the network returns, see ``Explainer``.
            image_key: Where a batch carries its images, see ``BatchReader``; ``None`` searches.
            label_key: Where a batch carries its labels; ``None`` searches.

        Raises:
            NoPlaceError: If there is no such place; a kind of ``ValueError``. The message says why.
            ValueError: If a batch has no images or no labels of classes, or an option is unknown.

        Example:
            >>> images, labels = torch.rand(200, 3, 8, 8) / 10, torch.arange(200) % 2
            >>> images[:, 0, :2, :3] = 1.0
            >>> images[labels == 1, 2, :2, :3] = 1.0  # a mark, red or purple by the class
            >>> network = nn.Sequential(nn.Conv2d(3, 16, 1), nn.ReLU())
            >>> smoe = {"class_path": "smoe", "init_args": {"layers": ["0"]}}
            >>> HidePlace.find(network, [(images, labels)], smoe).place.nonzero().amax(0)
            tensor([1, 2])
        """
        if lightning_parent(network) is not None:
            network = watched_module(network, None)
        device = next((parameter.device for parameter in network.parameters()), torch.device("cpu"))
        spec = ExplainerSpec.parse(explainer).with_output(output)
        maps_of, reader, place = spec(network), BatchReader(image_key, label_key), ShortcutPlace()
        for batch in loader:
            content = reader.read(batch)
            truth = content.classes()
            if truth is None or bool((truth < NO_CLASS).any()):
                raise ValueError(
                    "Got a batch without classes. Allowed are images with labels, since a place counts where it tells "
                    "the class; say where they are with label_key=."
                )
            truth = truth.cpu()
            images = content.channels_first().detach()[truth >= 0].to(device)
            classes = truth[truth >= 0]
            if not len(classes):
                continue
            maps = maps_of(images, classes.to(device) if maps_of.class_specific else None)
            place(resize_maps(maps, (images.shape[2], images.shape[3])).cpu(), images.cpu(), classes)
            if place.settled:
                break
        if place.region is None or not bool(place.region.any()):
            raise NoPlaceError(
                f"Found no place to hide in {place.seen} images: {place.why_none or 'the loader is empty'}. Allowed is "
                "a loader of ten images of each class and more, without random crops and flips, and a network that "
                "has learnt a mark at one place in them all."
            )
        return cls(place.region, fill)

    def transform(self, inpt: Any, params: Mapping[str, Any]) -> Any:
        """One image with the place hidden."""
        if isinstance(inpt, Image.Image):
            if inpt.mode in ("1", "P"):
                raise ValueError(
                    f"Got a PIL image of mode {inpt.mode!r}, which holds indices of colours. Allowed are images of "
                    "colours; convert it first, with image.convert('RGB')."
                )
            pixels = self._hidden(transforms.pil_to_tensor(inpt))
            return transforms.to_pil_image(pixels, inpt.mode)
        if not isinstance(inpt, tv_tensors.TVTensor):
            return self._hidden(inpt)
        if not isinstance(inpt, (tv_tensors.Image, tv_tensors.Video)):
            return inpt  # boxes and masks
        return tv_tensors.wrap(self._hidden(inpt.as_subclass(Tensor)), like=inpt)

    def extra_repr(self) -> str:
        """The place's share of the image, and the fill."""
        return f"place={self.place.float().mean():.1%} of the image, fill={self.fill!r}"

    def _hidden(self, images: Tensor) -> Tensor:
        """Images ``[..., C, H, W]`` with the place hidden, of their own type."""
        place = region_in(self.place, (images.shape[-2], images.shape[-1])).to(images.device)
        values = images.double() if images.dtype == torch.float64 else images.float()
        if isinstance(self.fill, str):
            visible = (~place).to(values)
            colour = (values * visible).sum((-2, -1), keepdim=True) / visible.sum()
        else:
            given = torch.as_tensor(self.fill, dtype=values.dtype, device=values.device).reshape(-1, 1, 1)
            if given.shape[0] not in (1, images.shape[-3]):
                raise ValueError(
                    f"Got a fill of {given.shape[0]} numbers for an image of {images.shape[-3]} channels. Allowed are "
                    "one number, and one a channel; give as many."
                )
            colour = given
        if not images.is_floating_point():
            colour = colour.round()
        return torch.where(place, colour.to(images.dtype), images)
