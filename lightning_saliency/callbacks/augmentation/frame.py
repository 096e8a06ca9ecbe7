"""One frame of the augmentation's film: each image of the sample, its map and what the network is given instead."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytorch_lightning as pl
import torch
from torch import Tensor

from lightning_saliency.callbacks._trainer_lookups import class_names, run_folder
from lightning_saliency.callbacks.augmentation.guide import Recipe
from lightning_saliency.callbacks.augmentation.options import AugmentationConfigurationError, whole_number
from lightning_saliency.functional.masking import resize_maps
from lightning_saliency.functional.visualization import heatmap, overlay
from lightning_saliency.pictures.film import Film
from lightning_saliency.pictures.loggers import log_picture
from lightning_saliency.pictures.tensors import (
    Picture,
    displayable,
    find_normalization,
    fitted_size,
    parse_denormalize,
    resize_images,
    sheet,
    tile_width,
)


class AugmentationFilm:
    """Shows, in loggers and as files, what the augmentation does to a few images.

    Args:
        name: The prefix of the key, and the film's folder.
        num_images: How many images.
        denormalize: How images are shown.
        picture_width: In pixels.
        megabytes: The largest size on disk.

    Attributes:
        sample: The images ``[n, C, H, W]`` and their classes ``[n]`` on the CPU; ``None`` before there are any.

    Raises:
        AugmentationConfigurationError: If an option is out of range.
    """

    def __init__(
        self,
        name: str,
        num_images: int,
        denormalize: str | Sequence[Sequence[float]],
        picture_width: int,
        megabytes: float,
    ) -> None:
        self.name = name
        self.num_images = whole_number("num_images", num_images, 1)
        self.sample: tuple[Tensor, Tensor] | None = None
        self.guess = denormalize == "auto"
        try:
            self.normalization = parse_denormalize(denormalize)
        except ValueError as error:
            raise AugmentationConfigurationError(str(error)) from None
        self.picture_width = whole_number("picture_width", picture_width, 1)
        if not megabytes > 0:
            raise AugmentationConfigurationError(
                f"Got film_megabytes={megabytes}. Allowed are positive sizes; give the space that the film may take."
            )
        self.megabytes = megabytes
        self._film: Film | None = None

    def open(self, trainer: pl.Trainer) -> None:
        """Begin, or go on with, the run's film. To be called on global rank zero."""
        self._film = Film(run_folder(trainer) / self.name, self.megabytes)

    def take(self, images: Tensor, targets: Tensor) -> None:
        """Make the first images ``[B, C, H, W]`` that have a class ``[B]``, not -1, the sample, if there is none."""
        rows = (targets >= 0).nonzero()[:, 0][: self.num_images]
        if self.sample is None and len(rows):
            self.sample = (images[rows.to(images.device)].detach().cpu().clone(), targets[rows])

    def state_dict(self) -> dict[str, Tensor] | None:
        """The sample."""
        return None if self.sample is None else dict(zip(("images", "targets"), self.sample, strict=True))

    def load_state_dict(self, state: dict[str, Any] | None) -> None:
        """Go on with the sample of a checkpoint, if it has one."""
        if state is not None:
            self.sample = (state["images"], state["targets"])

    def show(self, trainer: pl.Trainer, recipe: Recipe, generator: torch.Generator, multi_label: bool) -> bool:
        """Log one frame, of the present epoch or, before the first step, of the network as it came.

        Args:
            trainer: Whose loggers are shown the picture.
            recipe: What is done to the images.
            generator: On the CPU.
            multi_label: Whether classes do not exclude each other.

        Returns:
            Whether the images' range was guessed.
        """
        if self.sample is None:
            return False
        images, targets = self.sample
        with torch.no_grad(), trainer.precision_plugin.forward_context(), recipe.guide.trial():
            augmented, maps, masks = recipe.augmented(
                images.to(trainer.strategy.root_device), targets, generator, multi_label
            )
        names = class_names(trainer)
        captions = [
            f"{names[target] if names is not None and target < len(names) else target} · {share:.0%}"
            for target, share in zip(targets.tolist(), masks.mean((-2, -1)).tolist(), strict=True)
        ]
        normalization = self.normalization
        if self.guess:
            normalization = find_normalization(getattr(trainer, "datamodule", None), trainer.train_dataloader)
        picture, guessed = draw_augmentation(images, maps, augmented, captions, normalization, self.picture_width)
        step = trainer.fit_loop.epoch_loop._batches_that_stepped
        log_picture(trainer.loggers, f"{self.name}/augmentation", picture, step, captions=captions)
        if self._film is not None:
            epoch = trainer.current_epoch if trainer.global_step > 0 else -1
            self._film.add("augmentation", picture, epoch=epoch, step=step)
        return guessed


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
        captions: n of them.
        normalization: ``(mean, std)`` of the images, or ``None``.
        picture_width: In pixels.

    Returns:
        The picture, and whether the images' range was guessed.
    """
    count = images.shape[0]
    tile = tile_width(count, picture_width)
    size = fitted_size(images.shape[2], images.shape[3], tile)
    originals, guessed = displayable(images.float().cpu(), normalization)
    blended, _ = displayable(augmented.float().cpu(), normalization)
    originals, blended = resize_images(originals, size), resize_images(blended, size)
    colored = overlay(originals, heatmap(resize_maps(maps.float().cpu(), size)))
    return sheet([list(originals), list(colored), list(blended)], captions, tile), guessed
