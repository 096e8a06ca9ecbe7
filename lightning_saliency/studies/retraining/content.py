"""Hashes of the content of a study's data and files, since names and paths do not show when it changes."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

from lightning_saliency.studies.engine.cell import plain
from lightning_saliency.studies.engine.fingerprints import batches_fingerprint, files_fingerprint
from lightning_saliency.studies.isolation import quiet, seeded
from lightning_saliency.studies.retraining.cells import Training
from lightning_saliency.studies.retraining.training import first_items
from lightning_saliency.studies.specs import build_data

# Images of each stage that are looked at.
_ITEMS = 64


def training_fingerprint(training: Training) -> dict[str, Any]:
    """Everything that the results of a training depend on, except the seed.

    The data are identified by the number of batches and by the first images, see `batches_fingerprint`; the files that
    the arguments name, such as a checkpoint or ``path/file.py:function``, by their sizes and ends, see
    `files_fingerprint`.
    """
    spec = plain(asdict(training))
    return {
        **spec,
        "content": {
            "data": _data_content(training.data),
            "files": files_fingerprint({"data": spec["data"], "model": spec["model"]}),
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
            digest.update(batches_fingerprint([first_items(loader, _ITEMS)]).encode())
    return digest.hexdigest()
