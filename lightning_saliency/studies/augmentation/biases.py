"""Where the maps of a trained network point: what tells whether a shortcut is left, without images that have none."""

from __future__ import annotations

import math
import warnings
from collections.abc import Iterable
from typing import Any

import pytorch_lightning as pl

from lightning_saliency.batches import BatchReader
from lightning_saliency.explainers.smoe import SMOE
from lightning_saliency.functional.position_bias import PositionSums
from lightning_saliency.scales.find import NoScalesError
from lightning_saliency.scales.taps import TapError
from lightning_saliency.studies.augmentation.training import FineTunedClassifier

#: The numbers of `lightning_saliency.functional.position_bias.PositionBias` that are kept, as the monitor calls them.
BIASES = ("position_bias", "content_bias")


def measure_biases(trainer: pl.Trainer, module: FineTunedClassifier, loader: Iterable[Any]) -> dict[str, float | None]:
    """How far the SMOE Scale maps of a network point to something that gives the class away.

    Args:
        trainer: Says where and in which precision the network is run.
        module: The network.
        loader: Batches of images and labels.

    Returns:
        ``position_bias`` and ``content_bias``, in [0, 1] (slightly below 0 by chance); ``None`` where they cannot be
        measured: no scale is found in the network, which is warned of, or the images are of fewer than two classes.
    """
    sums, reader = PositionSums(), BatchReader()
    device, precision = trainer.strategy.root_device, trainer.precision_plugin
    explainer = SMOE(module.to(device).model)
    for batch in loader:
        content = reader.read(batch)
        try:
            with precision.forward_context():
                maps = explainer(precision.convert_input(content.images.to(device)))
        except (NoScalesError, TapError) as error:
            warnings.warn(f"position_bias and content_bias are left out of the table: {error}", stacklevel=2)
            return dict.fromkeys(BIASES)
        sums.add(maps, content.labels(), content.images)
    found = sums.result()
    values = (math.nan, math.nan) if found is None else (found.bias, found.content)
    return {name: value if math.isfinite(value) else None for name, value in zip(BIASES, values, strict=True)}
