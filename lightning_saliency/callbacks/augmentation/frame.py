"""One frame of the augmentation's film: each image of the sample, its map and what the network is given instead."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any

import pytorch_lightning as pl
import torch
from torch import Tensor

from lightning_saliency.callbacks._run_film import RunFilm
from lightning_saliency.callbacks._trainer_lookups import class_names, has_trained
from lightning_saliency.callbacks.augmentation.guide import Recipe
from lightning_saliency.callbacks.augmentation.options import AugmentationConfigurationError, whole_number
from lightning_saliency.functional.masking import resize_maps
from lightning_saliency.functional.visualization import heatmap, overlay
from lightning_saliency.pictures.loggers import log_picture
from lightning_saliency.pictures.tensors import (
    Picture,
    displayable,
    fitted_size,
    parse_denormalize,
    resize_images,
    sheet,
    tile_width,
)


@dataclass(frozen=True)
class FilmConfig:
    """Settings of the augmentation's pictures.

    Args:
        num_images: Number of images in the picture, the first of the run with a class.
        denormalize: Conversion of images back to colours, see ``SaliencyMonitor``.
        picture_width: Largest width of the picture in pixels.
        megabytes: Largest size of the film on disk, in 10⁶ bytes.

    Raises:
        AugmentationConfigurationError: If a value is out of range.

    Example:
        >>> FilmConfig(num_images=8).picture_width
        512
    """

    num_images: int = 4
    denormalize: str | Sequence[Sequence[float]] = "auto"
    picture_width: int = 512
    megabytes: float = 64.0

    def __post_init__(self) -> None:
        whole_number("num_images", self.num_images, 1)
        whole_number("picture_width", self.picture_width, 1)
        try:
            parse_denormalize(self.denormalize)
        except ValueError as error:
            raise AugmentationConfigurationError(str(error)) from None
        if not self.megabytes > 0:
            raise AugmentationConfigurationError(
                f"Got megabytes={self.megabytes}. Allowed are positive sizes; give the space that the film may take."
            )

    @classmethod
    def parse(cls, given: FilmConfig | Mapping[str, Any] | bool) -> FilmConfig | None:
        """The film asked for; ``None`` where nothing is to be shown."""
        if isinstance(given, bool):
            return cls() if given else None
        if isinstance(given, FilmConfig):
            return given
        allowed = [field.name for field in fields(cls)]
        if not isinstance(given, Mapping) or not set(given) <= set(allowed):
            raise AugmentationConfigurationError(
                f"Got film={given!r}. Allowed are true, false and a mapping with any of {', '.join(allowed)}."
            )
        return cls(**given)


class AugmentationFilm(RunFilm):
    """Shows, in loggers and as files, what the augmentation does to a few images.

    Args:
        name: Prefix of the picture's key, and the film's folder.
        config: Settings of the pictures.

    Attributes:
        sample: The images ``[n, C, H, W]`` and their classes ``[n]`` on the CPU; ``None`` before there are any.
    """

    def __init__(self, name: str, config: FilmConfig) -> None:
        super().__init__(name, config.megabytes, denormalize=config.denormalize)
        self.config = config
        self.sample: tuple[Tensor, Tensor] | None = None

    def take(self, images: Tensor, targets: Tensor, class_free: bool = False) -> None:
        """Keep the first images ``[B, C, H, W]`` with a class ``[B]`` other than -1, unless one is kept.

        Args:
            images: The images.
            targets: Their classes.
            class_free: Whether images without a class are taken, too.
        """
        rows = (class_free | (targets >= 0)).nonzero()[:, 0][: self.config.num_images]
        if self.sample is None and len(rows):
            self.sample = (images[rows.to(images.device)].detach().cpu().clone(), targets[rows])

    def state_dict(self) -> dict[str, Any]:
        """The sample, if there is one, and the run's folder."""
        sample = {} if self.sample is None else dict(zip(("images", "targets"), self.sample, strict=True))
        return {**super().state_dict(), **sample}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on with the sample of a checkpoint, if it has one."""
        super().load_state_dict(state)
        if "images" in state:
            self.sample = (state["images"], state["targets"])

    def show(self, trainer: pl.Trainer, recipe: Recipe, generator: torch.Generator, multi_label: bool) -> bool:
        """Log one frame, of the present epoch or, before the first step, of the network as it came.

        Args:
            trainer: The run; its loggers get the picture.
            recipe: Makes the augmented images.
            generator: Source of random numbers, on the CPU.
            multi_label: Whether classes do not exclude each other.

        Returns:
            Whether the images' range was guessed.
        """
        if self.sample is None:
            return False
        images, targets = self.sample
        with torch.no_grad(), trainer.precision_plugin.forward_context(), recipe.guide.trial():
            changed, maps = recipe.augmented(images.to(trainer.strategy.root_device), targets, generator, multi_label)
        names = class_names(trainer)
        captions = [
            _caption(names, target, share)
            for target, share in zip(targets.tolist(), changed.masks.mean((-2, -1)).tolist(), strict=True)
        ]
        normalization = self.normalization_of(trainer, trainer.train_dataloader, {images.shape[1]})
        picture, guessed = draw_augmentation(
            images, maps, changed.pixels, captions, normalization, self.config.picture_width
        )
        step = trainer.fit_loop.epoch_loop._batches_that_stepped
        epoch = trainer.current_epoch if has_trained(trainer) else -1
        log_picture(trainer.loggers, f"{self.name}/augmentation", picture, step, captions=captions)
        self.keep(trainer, "augmentation", picture, epoch=epoch, step=step)
        return guessed


def _caption(names: Sequence[str] | None, target: int, share: float) -> str:
    """An image's class, if it has one, and how much of it is left."""
    if target < 0:
        return f"{share:.0%}"
    return f"{names[target] if names is not None and target < len(names) else target} · {share:.0%}"


def draw_augmentation(
    images: Tensor,
    maps: Tensor,
    augmented: Tensor,
    captions: Sequence[str],
    normalization: tuple[Sequence[float], Sequence[float]] | None,
    picture_width: int,
) -> tuple[Picture, bool]:
    """Three rows: the images, their maps laid over them in grey, and the augmented images.

    Args:
        images: ``[n, C, H, W]`` as the network would get them.
        maps: ``[n, H, W]`` in [0, 1].
        augmented: ``[n, C, H, W]``.
        captions: One text for each image.
        normalization: ``(mean, std)`` of the images, or ``None``.
        picture_width: Largest width in pixels.

    Returns:
        The picture, and whether the images' range was guessed.
    """
    count = images.shape[0]
    tile = tile_width(count, picture_width)
    size = fitted_size(images.shape[2], images.shape[3], tile)
    originals, guessed = displayable(images.float().cpu(), normalization)
    blended, _ = displayable(augmented.float().cpu(), normalization)
    originals, blended = resize_images(originals, size), resize_images(blended, size)
    colored = overlay(originals, heatmap(resize_maps(maps.float().cpu(), size), "inferno"))
    return sheet([list(originals), list(colored), list(blended)], captions, tile), guessed
