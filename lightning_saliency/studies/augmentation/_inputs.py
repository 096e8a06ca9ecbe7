"""The models and data of a comparison of augmentations as plain data, and what tells data apart."""

from __future__ import annotations

from itertools import islice
from typing import Any

from lightning_saliency.studies.augmentation.cells import prepared_data
from lightning_saliency.studies.augmentation.config import AugmentationConfig, FineTuningConfig
from lightning_saliency.studies.augmentation.training import FineTunedClassifier
from lightning_saliency.studies.engine.fingerprints import batches_fingerprint
from lightning_saliency.studies.isolation import OwnRandomness
from lightning_saliency.studies.specs import Spec, as_spec

# Batches of each split that are looked at.
_LOOKED_AT = 4


def model_spec(
    config: AugmentationConfig, name: str, num_classes: int, training: FineTuningConfig | None
) -> dict[str, Any]:
    """One of the models as ``class_path`` and ``init_args``, completed by the data and the training.

    Args:
        config: The comparison.
        name: Name of the model in the table.
        num_classes: Number of classes of the data.
        training: How it is trained; ``None``: as the arms are.

    Raises:
        TypeError: If the class does not take the arguments.
        ValueError: If the model has another number of classes, or the class cannot be imported.
    """
    given = config.models[name]
    class_path = f"{FineTunedClassifier.__module__}.{FineTunedClassifier.__qualname__}"
    spec = given if "class_path" in given else {"class_path": class_path, "init_args": given}
    own = dict(spec.get("init_args") or {})
    init_args = {"num_classes": num_classes, **(training or config.training).model_defaults(), **own}
    if init_args["num_classes"] != num_classes:
        raise ValueError(
            f"Got num_classes={init_args['num_classes']} for the model {name}. Allowed is the data's number, "
            f"{num_classes}; leave it out."
        )
    if init_args["optimizer"] != "sgd" and "nesterov" not in own:
        del init_args["nesterov"]
    return as_spec({**spec, "init_args": init_args})


def data_content(spec: Spec, seed: int) -> dict[str, Any]:
    """For each split the number of batches and a hash of the first ones."""
    data = prepared_data(spec)
    with OwnRandomness(seed):
        loaders = (data.train_dataloader(), data.val_dataloader(), data.test_dataloader())
        return {
            split: [len(loader), batches_fingerprint(islice(loader, _LOOKED_AT))]
            for split, loader in zip(("train", "val", "test"), loaders, strict=True)
        }
