"""A small film, written as the monitor writes it."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from pathlib import Path

import torch

from lightning_saliency.pictures.page import FilmRecords, FrameRecord, ImageRecord, MeanMap
from lightning_saliency.pictures.page.records import photo_file

CLASSES = {0: "cat", 1: "dog <b>", 2: "ship"}
#: Predictions of four images, by frame: cat, dog, ship, cat are right.
PREDICTIONS = ([2, 2, 2, 2], [0, 2, 2, 2], [0, 1, 2, 1])


def small_film(
    run: Path,
    predictions: Sequence[Sequence[int]] = PREDICTIONS,
    size: int = 32,
    side: int = 16,
    seed: int = 0,
    missing: Collection[tuple[int, int]] = (),
) -> FilmRecords:
    """Frames from the start of the run on, one for each row of predictions, in ``run/saliency/film``.

    ``missing`` are frames and images that these lack.
    """
    generator = torch.Generator().manual_seed(7)  # two films have the same photos
    images = [torch.rand(3, size, size, generator=generator) for _ in predictions[0]]
    generator.manual_seed(seed)
    store = FilmRecords(run / "saliency" / "film")
    for number, row in enumerate(predictions):
        records, photos = [], {}
        for slot, (image, prediction, label) in enumerate(zip(images, row, [0, 1, 2, 0], strict=False)):
            name, content = photo_file(image)
            photos[name] = content
            maps = [torch.rand(side // 2**k, side // 2**k, generator=generator) for k in range(3)]
            maps.append(torch.rand(8, 8, generator=generator))
            if (number, slot) not in missing:
                records.append(ImageRecord(name, maps, label, prediction, slot))
        means = [MeanMap("cat", torch.rand(8, 8, generator=generator) / 2, 12)]
        frame = FrameRecord(
            epoch=number - 1,
            step=50 * number,
            scales=["layer1", "layer2", "layer3"],
            weights=[1.0, 1.0, 1.0],
            levels=[3.0, 2.0, 1.0],
            grids=[(side, side), (side // 2, side // 2), (side // 4, side // 4)],
            views=["fast_cam"],
            images=records,
            classes=CLASSES,
            means=means,
        )
        store.add(frame, photos)
        store.log(number - 1, 50 * number, {"val/loss": 2.0 / (1 + number), "saliency/drift": 0.5 / (1 + number)})
    return store
