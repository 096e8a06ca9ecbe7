"""What a perfect map would do: fill the pixels of the planted mark, or all that lies outside the objects' boxes."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

import pytorch_lightning as pl
from torch import Tensor

from lightning_saliency.batches import BatchReader, NoImagesError, describe
from lightning_saliency.checks import check_choice
from lightning_saliency.data.shortcuts import pixels_in_boxes
from lightning_saliency.lightning_bases import Callback

Region = Literal["mark", "outside_boxes"]
_KEYS: dict[Region, str] = {"mark": "mark", "outside_boxes": "boxes"}


class HideKnownRegion(Callback):
    """Fills a region that the data themselves know before each training step: the upper bound of what a map can do.

    Args:
        region: ``"mark"``, the pixels of the batch's ``mark`` ``[B, H, W]``, see
            `lightning_saliency.data.PlantedShortcut`; or ``"outside_boxes"``, those outside its ``boxes`` ``[B, K, 4]``
            (x1, y1, x2, y2 in pixels).
        value: What they are filled with; 0 is the data's mean where images are normalised.
        start_epoch: First epoch, from 0, in which it does so.

    Raises:
        ValueError: If there is no such region; at the first batch, if it does not hold what is needed.
    """

    def __init__(self, region: Region = "mark", value: float = 0.0, start_epoch: int = 0) -> None:
        check_choice("region", region, tuple(_KEYS))
        self.region: Region = region
        self.value = value
        self.start_epoch = start_epoch

    def on_train_batch_start(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, batch: Any, batch_idx: int
    ) -> None:
        """Fill the region of the batch's images, in the batch."""
        if trainer.current_epoch < self.start_epoch:
            return
        needed = _KEYS[self.region]
        name = _image_key(batch)
        if name is None or needed not in batch:
            raise ValueError(
                f"Got the batch {describe(batch)} for region={self.region!r}. Allowed are dictionaries with images and "
                f"{needed}, such as those of PlantedShortcut; take other data, or leave the arm out."
            )
        batch[name] = batch[name].masked_fill(self._mask(batch, batch[name])[:, None], self.value)

    def _mask(self, batch: Mapping[str, Tensor], images: Tensor) -> Tensor:
        if self.region == "mark":
            return batch["mark"]
        return ~pixels_in_boxes(batch["boxes"], *images.shape[2:])


def _image_key(batch: Any) -> str | None:
    """The name under which a dictionary holds its images ``[B, C, H, W]``; ``None`` where it does not."""
    if not isinstance(batch, dict):
        return None
    try:
        images = BatchReader().read(batch).held[0]
    except NoImagesError:
        return None
    return next((name for name, value in batch.items() if value is images), None)
