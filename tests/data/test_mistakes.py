"""What is no number, no share, no fill and no stage is refused when a data module is made, whatever its type."""

from __future__ import annotations

import pytest

from lightning_saliency.data import (
    ArrayImagesDataModule,
    CornerMark,
    DigitScenes,
    ImageFolderDataModule,
    ObjectCropsDataModule,
    PlantedShortcut,
    RoarKarDataModule,
)
from lightning_saliency.explainers import SMOE
from lightning_saliency.networks import small_cnn

SMALL = {"train_size": 20, "val_size": 10, "test_size": 10, "batch_size": 4}


def digits(**options):
    return DigitScenes(**{**SMALL, **options})


def masked(**options):
    return RoarKarDataModule(digits(), options.pop("saliency", None) or SMOE(small_cnn()), **options)


MISTAKES = [
    *(
        (digits, name, value)
        for name in ("train_size", "size", "batch_size", "seed")
        for value in ("a", None, 20.5, [])
    ),
    *((digits, "shortcut", value) for value in ("a", None, [0.5], float("nan"))),
    *((digits, "digit_scale", value) for value in (0.5, None, ("a", "b"), "ab")),
    *((masked, "fraction", value) for value in ("0.1", None, [0.1])),
    *((masked, "fill", value) for value in (None, ["a"], object(), "zeros")),
    *((masked, "seed", value) for value in ("a", None, -1)),
    *((masked, "fingerprints", value) for value in ("abc", ["weights"], 3)),
    *((lambda **given: PlantedShortcut(digits(), **given), "share", value) for value in ("a", None, [0.5])),
    *((lambda **given: PlantedShortcut(digits(), **given), "seed", value) for value in ("a", None, -1)),
    *((CornerMark, "size", value) for value in ("a", None, [0.1])),
    *((lambda **given: ImageFolderDataModule("images", **given), "val_fraction", value) for value in ("a", None, 1)),
    *((lambda **given: ArrayImagesDataModule("a.npz", **given), "val_fraction", value) for value in ("a", None, 0)),
    *((lambda **given: ObjectCropsDataModule("boxes.csv", **given), "context", value) for value in ("a", None, -1)),
    *((lambda **given: ObjectCropsDataModule("boxes.csv", **given), "val_fraction", value) for value in ("a", None, 0)),
]


@pytest.mark.parametrize(("make", "name", "value"), MISTAKES)
def test_a_value_of_another_type_is_named_with_what_is_allowed(make, name, value):
    with pytest.raises((TypeError, ValueError), match=rf"Got .*{name}(=| of type )[\s\S]*Allowed (is|are) "):
        make(**{name: value})


@pytest.mark.parametrize("stage", ["trian", "validate", "tset"])
def test_stores_of_an_unknown_stage_are_refused_before_training(stage):
    stores = {"train": "train.npy", "val": "val.npy", stage: "x.npy"}
    with pytest.raises(ValueError, match=f"Got a stage of saliency='{stage}'. Allowed are 'train', 'val', 'test'"):
        masked(saliency=stores)
