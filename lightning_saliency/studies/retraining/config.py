"""How the networks of a retraining study are trained."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from lightning_saliency.classifier import ImageClassifier
from lightning_saliency.studies.specs import as_spec


@dataclass
class TrainingConfig:
    """How the networks of a study are trained; each cell trains one.

    Args:
        data: The data module: ``{"class_path": ..., "init_args": {...}}``, or one that saved its arguments with
            ``save_hyperparameters()``.
        model: The module, in the same form as ``data``, or a mapping of `ImageClassifier`'s arguments such as
            ``{"model": "small_cnn", "num_classes": 10}``.
        epochs: Epochs of each training.
        network: Dotted path of the network within the module; ``None``: ``model`` of an `ImageClassifier`, otherwise
            the module itself.
        metric: Name under which the module logs its accuracy on the test data, in [0, 1].
        trainer: Further arguments of Lightning's ``Trainer``, such as ``precision``, or ``devices`` and ``strategy``.
            Validation is skipped and nothing is logged unless they say so. A strategy of several processes must be one
            that starts them itself (``"ddp_spawn"``); ``"ddp"`` is taken for it.

    Raises:
        TypeError: If ``data`` or ``model`` is something else.
        ValueError: If an argument is out of range.
    """

    data: Any
    model: Any
    epochs: int = 10
    network: str | None = None
    metric: str = "test/accuracy"
    trainer: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.data = as_spec(self.data)
        self.model = as_spec(self.model, ImageClassifier)
        self.trainer = dict(self.trainer or {})
        if self.epochs < 1:
            raise ValueError(f"Got epochs={self.epochs}. Allowed are numbers from 1; a cell is one training.")
        if self.trainer.get("strategy") in (
            "ddp",
            "ddp_find_unused_parameters_true",
            "ddp_find_unused_parameters_false",
        ):
            # Plain DDP starts its other processes by running the whole command again, the study and all.
            self.trainer["strategy"] = self.trainer["strategy"].replace("ddp", "ddp_spawn", 1)
        if "max_epochs" in self.trainer:
            raise ValueError("Got max_epochs among the trainer's arguments. Give epochs, which the plan counts with.")
