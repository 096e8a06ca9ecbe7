"""An image classifier as a Lightning module: any torchvision or timm network by name, for configs and studies."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import pairwise
from pathlib import Path
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torchmetrics.classification import MulticlassAccuracy

from lightning_saliency.batches import BatchContent, BatchError, BatchReader, describe, find_images
from lightning_saliency.checks import check_choice, check_minimum
from lightning_saliency.lightning_bases import LightningModule
from lightning_saliency.networks import build_network, load_weights

# Of each auxiliary head's loss during training: Szegedy et al., "Going deeper with convolutions", section 5.
AUXILIARY_WEIGHT = 0.3


def split_logits(output: object) -> tuple[Tensor, list[Tensor]]:
    """The logits `[B, N]` in a network's output and those of its auxiliary heads.

    Args:
        output: A tensor, an object or a dictionary with `logits`, or a tuple whose first tensor they are. Further
            tensors of the same shape are those of auxiliary heads, as GoogLeNet and Inception give them in training.

    Raises:
        TypeError: If it has another type.

    Example:
        >>> main, auxiliary = split_logits((torch.zeros(2, 10), torch.ones(2, 10)))
        >>> main.sum().item(), len(auxiliary)
        (0.0, 1)
    """
    if isinstance(output, Tensor):
        return output, []
    if isinstance(output, tuple) and output and isinstance(output[0], Tensor):
        rest = [other for other in output[1:] if isinstance(other, Tensor) and other.shape == output[0].shape]
        return output[0], rest
    logits = output.get("logits") if isinstance(output, Mapping) else getattr(output, "logits", None)
    if isinstance(logits, Tensor):
        return logits, []
    raise TypeError(
        f"Got {describe(output)} from the network. Allowed are logits [B, N], alone, first in a tuple or named "
        "`logits`; wrap the network in a module that returns one of them."
    )


def _labels(content: BatchContent, num_classes: int) -> Tensor | None:
    """A batch's classes `[B]`, or class probabilities `[B, num_classes]` where it has these; `None` for neither."""
    try:
        truth = content.ground_truth()
    except BatchError:
        return content.labels()
    if truth.ndim == 2 and truth.shape[1] == num_classes and bool((truth.sum(1) - 1).abs().max() < 1e-3):
        return truth
    return content.labels()


class ImageClassifier(LightningModule):
    """Trains an image classifier: cross-entropy, accuracy, an optimiser and a schedule.

    Logs `loss` and `accuracy` under `train/`, `val/` and `test/`. Batches may be tuples, lists or dictionaries; the
    images and labels in them are found by `lightning_saliency.batches`.

    Args:
        model: Name of a network (see `build_network`), or the network itself.
        num_classes: Number of classes.
        in_channels: Channels of the images. Only for a network given by name.
        library: "torchvision" or "timm": where the name is looked up; "timm/resnet18" says the same in the name.
        model_options: Further arguments of the network's builder. Only for a network given by name.
        checkpoint: File of weights to begin with (see `load_weights`).
        reset_head: Begin with the checkpoint's weights in all but the last layer.
        optimizer: "adamw" or "sgd".
        learning_rate: Learning rate of the optimiser; under "one_cycle", the maximum.
        weight_decay: Weight decay of the optimiser.
        momentum: Momentum of SGD; not used by AdamW.
        scheduler: "cosine": to 0 by the end of training; "one_cycle": up during the first 30 % and then down to
            almost 0; "step": divided by 10 after each third of the epochs; "multi_step": divided by 10 after each
            of the `milestones`; `None`: constant.
        milestones: Epochs in increasing order, from 1. Only for "multi_step".
        nesterov: Use Nesterov momentum in SGD.

    Attributes:
        model: The network, `[B, C, H, W]` to logits `[B, num_classes]`.

    Raises:
        ValueError: If an argument is out of range, a name unknown or a checkpoint another network's.

    Example:
        >>> ImageClassifier("small_cnn", num_classes=10)(torch.rand(2, 3, 64, 64)).shape
        torch.Size([2, 10])
    """

    def __init__(
        self,
        model: str | nn.Module,
        num_classes: int,
        in_channels: int = 3,
        library: Literal["torchvision", "timm"] = "torchvision",
        model_options: dict[str, Any] | None = None,
        checkpoint: str | Path | None = None,
        reset_head: bool = False,
        optimizer: Literal["adamw", "sgd"] = "adamw",
        learning_rate: float = 1e-3,
        weight_decay: float = 1e-2,
        momentum: float = 0.9,
        scheduler: Literal["cosine", "one_cycle", "step", "multi_step"] | None = "cosine",
        milestones: list[int] | None = None,
        nesterov: bool = False,
    ) -> None:
        super().__init__()
        for name, given, allowed in (
            ("library", library, ("torchvision", "timm")),
            ("optimizer", optimizer, ("adamw", "sgd")),
            ("scheduler", scheduler, ("cosine", "one_cycle", "step", "multi_step", None)),
        ):
            check_choice(name, given, allowed)
        check_minimum("num_classes", num_classes, 2)
        if (scheduler == "multi_step") != bool(milestones) or any(
            milestone <= before for before, milestone in pairwise([0, *(milestones or [])])
        ):
            raise ValueError(
                f"Got milestones={milestones} with scheduler={scheduler!r}. Allowed are rising epochs from 1 with "
                "'multi_step', and none with another scheduler; change one of them."
            )
        if nesterov and (optimizer != "sgd" or momentum <= 0):
            raise ValueError(
                f"Got nesterov=True with optimizer={optimizer!r} and momentum={momentum}. Allowed are 'sgd' and a "
                "momentum above 0; take them, or leave it out."
            )
        if isinstance(model, nn.Module) and (in_channels != 3 or model_options):
            raise ValueError(
                f"Got in_channels={in_channels} and model_options={model_options} with a module as the network. "
                "Allowed are both with the name of a network only; leave them out."
            )
        # A Lightning checkpoint carries its own weights: rebuilding from one must not ask for the first file again.
        self.save_hyperparameters(
            ignore=["checkpoint", "reset_head", *(["model"] if isinstance(model, nn.Module) else [])]
        )
        if isinstance(model, str):
            model = build_network(model, num_classes, in_channels, library, model_options)
        if checkpoint is not None:
            load_weights(model, checkpoint, reset_head)
        self._batches = BatchReader()
        self.model = model
        self.num_classes = num_classes
        self.train_accuracy = MulticlassAccuracy(num_classes, average="micro")
        self.val_accuracy = MulticlassAccuracy(num_classes, average="micro")
        self.test_accuracy = MulticlassAccuracy(num_classes, average="micro")

    def forward(self, images: Tensor) -> Tensor:
        """Logits `[B, num_classes]` of images `[B, C, H, W]`."""
        return split_logits(self.model(images))[0]

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        """The cross-entropy of a batch, auxiliary heads included."""
        return self._step(batch, "train")["loss"]

    def validation_step(self, batch: Any, batch_idx: int) -> dict[str, Tensor]:
        """`loss` and detached `logits` of a batch."""
        return self._step(batch, "val")

    def test_step(self, batch: Any, batch_idx: int) -> dict[str, Tensor]:
        """`loss` and detached `logits` of a batch."""
        return self._step(batch, "test")

    def predict_step(self, batch: Any, batch_idx: int) -> Tensor:
        """Logits `[B, num_classes]` of a batch."""
        logits: Tensor = self(find_images(batch))
        return logits

    def configure_optimizers(self) -> Any:
        """The optimiser over the parameters that train, with its schedule."""
        options = self.hparams
        parameters = [parameter for parameter in self.parameters() if parameter.requires_grad]
        rate, decay, momentum = options["learning_rate"], options["weight_decay"], options["momentum"]
        optimizer: torch.optim.Optimizer
        if options["optimizer"] == "sgd":
            nesterov = options["nesterov"]
            optimizer = torch.optim.SGD(parameters, rate, momentum, weight_decay=decay, nesterov=nesterov)
        else:
            optimizer = torch.optim.AdamW(parameters, rate, weight_decay=decay)
        if options["scheduler"] is None:
            return optimizer
        if options["scheduler"] == "step":
            third = max(1, -(-(self.trainer.max_epochs or 1) // 3))
            return [optimizer], [torch.optim.lr_scheduler.StepLR(optimizer, step_size=third, gamma=0.1)]
        if options["scheduler"] == "multi_step":
            return [optimizer], [torch.optim.lr_scheduler.MultiStepLR(optimizer, options["milestones"], gamma=0.1)]
        steps = self.trainer.estimated_stepping_batches
        if not isinstance(steps, int):
            raise ValueError(
                f"Got scheduler={options['scheduler']!r} in a run without an end. Allowed are runs with max_epochs or "
                "max_steps; set one of them in the trainer, or take scheduler=None."
            )
        schedule: torch.optim.lr_scheduler.LRScheduler
        if options["scheduler"] == "one_cycle":
            schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, max_lr=rate, total_steps=steps)
        else:
            schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, T_max=steps)
        return [optimizer], [{"scheduler": schedule, "interval": "step"}]

    def _step(self, batch: Any, stage: str) -> dict[str, Tensor]:
        content = self._batches.read(batch)
        images, labels = content.images, _labels(content, self.num_classes)
        if labels is None:
            raise ValueError(
                f"Found no integer labels [{len(images)}] next to the images of the batch, which is {describe(batch)}. "
                "Let the data set return them."
            )
        logits, auxiliary = split_logits(self.model(images))
        if logits.shape != (len(images), self.num_classes):
            raise ValueError(
                f"Got logits {list(logits.shape)} from the network. Allowed are {[len(images), self.num_classes]}; set "
                "num_classes to the number of its outputs."
            )
        labels = labels.to(logits.dtype) if labels.is_floating_point() else labels
        loss = F.cross_entropy(logits, labels)
        for other in auxiliary:
            loss = loss + AUXILIARY_WEIGHT * F.cross_entropy(other, labels)
        accuracy = getattr(self, f"{stage}_accuracy")
        accuracy(logits.detach(), labels if labels.ndim == 1 else labels.argmax(1))
        progress = stage != "train"
        self.log(f"{stage}/loss", loss, prog_bar=progress, on_step=not progress, on_epoch=True, batch_size=len(images))
        self.log(f"{stage}/accuracy", accuracy, prog_bar=progress, on_step=False, on_epoch=True, batch_size=len(images))
        return {"loss": loss, "logits": logits.detach()}
