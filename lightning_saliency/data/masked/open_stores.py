"""Which store holds the maps of which loader's images."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

from lightning_saliency.data.masked.store import SaliencyStore
from lightning_saliency.data.masked.store_files import SaliencyStoreError
from lightning_saliency.data.masked.whole_images import data_fingerprint

Stores = Mapping[str, Any] | str | Path


def stores_of(saliency: Stores, stage: str) -> Any:
    """The store, or the collection of stores, of a stage's loaders; prediction falls back on the test images.

    Raises:
        SaliencyStoreError: If a mapping has none.
    """
    if not isinstance(saliency, Mapping):
        folder = Path(saliency)
        return folder / ("test.npy" if stage == "predict" and not (folder / "predict.npy").exists() else f"{stage}.npy")
    key = "test" if stage == "predict" and "predict" not in saliency else stage
    if key not in saliency:
        raise SaliencyStoreError(
            f"Got stores for {', '.join(map(str, saliency)) or 'no stage'}, but none for {key!r}. Every stage is "
            f"masked; write the maps of its images and give them as {key!r}."
        )
    return saliency[key]


def open_store(
    store: SaliencyStore | str | Path, dataset: Any, fingerprints: Mapping[str, str], geometry: Literal["auto", "fixed"]
) -> SaliencyStore:
    """A finished store of a data set's maps.

    Raises:
        SaliencyGeometryError: If the data set moves its images before its transforms do.
        SaliencyStoreError: If the store is missing or unfinished, or holds other maps.
        TypeError: If ``store`` is neither a store nor a path.
    """
    if not isinstance(store, (SaliencyStore, str, Path)):
        raise TypeError(f"Got a store of type {type(store).__name__}. Allowed are a SaliencyStore and the path of one.")
    path = store.path if isinstance(store, SaliencyStore) else store
    opened = SaliencyStore.open(path, fingerprints)
    # A store written by hand may name no data set; its length is compared in any case.
    if "data" in opened.fingerprints and opened.fingerprints["data"] != data_fingerprint(dataset, geometry=geometry):
        raise SaliencyStoreError(
            f"The store {opened.path} holds the maps of other images than those of {type(dataset).__name__} "
            f"({len(dataset)} images). Give the store that was written for them, or write a new one."
        )
    return opened
