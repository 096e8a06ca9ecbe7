"""What a study's data and files hold, in a few bytes: names and paths alone do not tell when it has changed."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping
from dataclasses import asdict
from itertools import islice
from pathlib import Path
from typing import Any

from lightning_saliency.batches import find_images, find_labels
from lightning_saliency.studies.engine.cell import plain
from lightning_saliency.studies.isolation import quiet, seeded
from lightning_saliency.studies.retraining.cells import Training
from lightning_saliency.studies.specs import build_data

# Batches of each stage that are looked at, and bytes at either end of a file.
_BATCHES, _END = 2, 1 << 20


def training_fingerprint(training: Training) -> dict[str, Any]:
    """All that the results of a training depend on, beside the seed.

    The data are told by the number of batches, and of the first ones by the labels, the sizes and each image's mean
    brightness: rounded, since two processors need not agree to the last bit. Files that the arguments name, such as a
    checkpoint or ``path/file.py:function``, are told by their sizes and ends.
    """
    spec = plain(asdict(training))
    return {
        **spec,
        "content": {
            "data": _data_content(training.data),
            "files": {
                name: _file_content(path) for name, path in _files({"data": spec["data"], "model": spec["model"]})
            },
        },
    }


def _data_content(spec: Mapping[str, Any]) -> str:
    digest = hashlib.sha256()
    data = build_data(spec)
    with quiet(), seeded(0):
        data.prepare_data()
        for stage, loaders in (("fit", "train_dataloader"), ("test", "test_dataloader")):
            data.setup(stage)
            loader = getattr(data, loaders)()
            digest.update(f"{stage} {len(loader) if hasattr(loader, '__len__') else None};".encode())
            for batch in islice(loader, _BATCHES):
                images = find_images(batch)
                labels = find_labels(batch, len(images))
                means = (10 * images.float().mean((1, 2, 3))).round().int().tolist()
                digest.update(f"{list(images.shape)} {means} {None if labels is None else labels.tolist()}".encode())
    return digest.hexdigest()


def _files(value: Any, name: str = "") -> Iterator[tuple[str, Path]]:
    """The files that are named by some text inside nested mappings and lists."""
    if isinstance(value, Mapping):
        for key, inner in value.items():
            yield from _files(inner, f"{name}.{key}" if name else str(key))
    elif isinstance(value, list):
        for place, inner in enumerate(value):
            yield from _files(inner, f"{name}.{place}")
    elif isinstance(value, str) and len(value) < 4096:
        for text in (value, value.rpartition(":")[0]):
            if text and Path(text).is_file():
                yield name, Path(text)
                return


def _file_content(path: Path) -> str:
    digest = hashlib.sha256(str(size := path.stat().st_size).encode())
    with path.open("rb") as file:
        digest.update(file.read(_END))
        file.seek(max(0, size - _END))
        digest.update(file.read(_END))
    return digest.hexdigest()
