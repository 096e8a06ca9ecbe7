"""The data's channel mean: what ROAR and KAR put in the place of pixels."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch.utils.data import DataLoader, Subset

from lightning_saliency.batches import find_images
from lightning_saliency.data._loaders import leaves
from lightning_saliency.data._transforms import SaliencyGeometryError, dataset_normalization
from lightning_saliency.data.whole_images import isolated_rng

#: Images that a mean is taken over at most: that of a channel is then known to about 0.003 of its range.
MOST_IMAGES = 10_000


def is_normalized(loaders: Any) -> bool:
    """Whether the data sets of all loaders normalise their images, so that zero is the mean."""
    found = leaves(loaders)
    return bool(found) and all(_normalized(getattr(loader, "dataset", None)) for loader in found)


def channel_mean(loaders: Any, prepare: Callable[[Any], Any], image_key: str | int | None) -> tuple[float, ...]:
    """The mean of each channel over the images of a loader, with the generators isolated and seeded.

    Args:
        loaders: A loader or a collection, the first of which counts. Its data set is read in order, at most
            `MOST_IMAGES` evenly spread, collated as it is there; the loader itself is not touched.
        prepare: What happens to a batch before it is masked.
        image_key: As in ``find_images``.

    Returns:
        C numbers.

    Raises:
        TypeError: If the loader is no ``DataLoader``.
    """
    loader = leaves(loaders)[0]
    if not isinstance(loader, DataLoader):
        raise TypeError(
            f"Got training data of type {type(loader).__name__}. Allowed is a DataLoader to take the mean of; give "
            "fill= as numbers, one a channel."
        )
    data = loader.dataset
    count = len(data)  # type: ignore[arg-type]  # data sets without a length are refused by `replace_transforms`
    if count > MOST_IMAGES:
        data = Subset(data, [place * count // MOST_IMAGES for place in range(MOST_IMAGES)])
    total, pixels = torch.zeros((), dtype=torch.float64), 0
    with isolated_rng(0), torch.no_grad():
        for batch in DataLoader(
            data,
            batch_size=loader.batch_size or 64,
            num_workers=loader.num_workers,
            collate_fn=loader.collate_fn,
            worker_init_fn=loader.worker_init_fn,
            multiprocessing_context=loader.multiprocessing_context,
        ):
            images = find_images(prepare(batch), image_key)
            total = total + images.double().sum((0, 2, 3))
            pixels += images.shape[0] * images.shape[2] * images.shape[3]
    return tuple((total / pixels).tolist())


def _normalized(dataset: Any) -> bool:
    try:
        return dataset is not None and dataset_normalization(dataset) is not None
    except (SaliencyGeometryError, TypeError):
        return False  # its mean is taken instead
