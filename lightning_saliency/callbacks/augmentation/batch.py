"""The batch's side of the augmentation: whose class each image is, and what labels become where images are mixed."""

from __future__ import annotations

from typing import Any

import pytorch_lightning as pl
import torch
from torch import Tensor
from torch.nn import functional as F

from lightning_saliency.batches import BatchContent, BatchError, describe, follow
from lightning_saliency.batches.tree import Path, dotted


def draw_classes(truth: Tensor, generator: torch.Generator) -> Tensor:
    """The class that each image is explained for.

    Args:
        truth: Classes ``[B]`` or weights ``[B, N]``, as ``BatchContent.ground_truth`` returns them.
        generator: Source of random numbers, on the CPU.

    Returns:
        ``[B]`` int64 on the CPU, the class; if there are several, one drawn by its weight. -1 if there is none:
        a negative label, as ``ignore_index`` has it, or an image without a positive class.

    Example:
        >>> draw_classes(torch.tensor([[0.0, 1.0], [0.0, 0.0]]), torch.Generator())
        tensor([ 1, -1])
    """
    truth = truth.cpu()
    if truth.ndim == 1:
        return truth.clamp(min=-1)
    present = truth.sum(1) > 0
    drawn = torch.multinomial(torch.where(present[:, None], truth, 1.0), 1, generator=generator)[:, 0]
    return torch.where(present, drawn, -1)


def looks_multi_label(truth: Tensor) -> bool:
    """Whether a batch's ground truth looks like one of classes that do not exclude each other.

    Zeros and ones do, unless each row is the one-hot code of a single class.

    Args:
        truth: Classes ``[B]`` or weights ``[B, N]``, as ``BatchContent.ground_truth`` returns them.

    Example:
        >>> one_hot, several, soft = torch.eye(3), torch.tensor([[1.0, 0.0, 1.0]]), torch.tensor([[0.2, 0.8]])
        >>> [looks_multi_label(truth) for truth in (torch.tensor([2, 0]), one_hot, several, soft)]
        [False, False, True, False]
    """
    if truth.ndim == 1:
        return False
    hard = ((truth == 0) | (truth == 1)).all()
    return bool(hard & (truth.sum(1) != 1).any())


class GroundTruth:
    """The class that each image of a run's batches is explained for.

    Args:
        multi_label: Whether classes do not exclude each other; ``None``: the run's first batch tells.

    Attributes:
        multi_label: What was given or found out; ``None`` before.
    """

    def __init__(self, multi_label: bool | None) -> None:
        self.multi_label = self._given = multi_label

    @property
    def several(self) -> bool:
        """Whether classes do not exclude each other, as far as is known."""
        return bool(self.multi_label)

    def begin(self) -> None:
        """Another run: forget what was found out."""
        self.multi_label = self._given

    def load(self, multi_label: bool | None) -> None:
        """Go on with what a checkpoint holds, unless something was given."""
        self.multi_label = multi_label if self._given is None else self._given

    def settle(self, trainer: pl.Trainer, content: BatchContent | None) -> None:
        """Find out, once for the run and for all processes, whether classes exclude each other.

        Args:
            trainer: The run.
            content: The first images; ``None`` where this process has none.
        """
        if self.multi_label is not None:
            return
        try:
            found = content is not None and looks_multi_label(content.ground_truth())
        except BatchError:
            # Raised again where the classes are needed; meanwhile the other processes wait for this one.
            found = False
        self.multi_label = bool(trainer.strategy.reduce_boolean_decision(found, all=False))

    def classes(self, content: BatchContent, generator: torch.Generator) -> Tensor:
        """A class for each image, on the CPU, -1 for none."""
        return draw_classes(content.ground_truth(), generator)


def labels_at(batch: Any, path: Path, count: int) -> Tensor:
    """The labels of a whole batch, where they lie together.

    Args:
        batch: The batch.
        path: Where they are.
        count: The number of its images.

    Raises:
        BatchError: If each lies beside its image, as in a list of pairs.

    Example:
        >>> labels_at([torch.zeros(2, 1, 4, 4), [3, 1]], (1,), 2)
        tensor([3, 1])
    """
    own = follow(batch, dotted(path))[0]
    if isinstance(own, Tensor):
        return own
    try:
        labels = torch.as_tensor(own)
    except (TypeError, ValueError, RuntimeError):
        labels = torch.zeros(0)
    if len(labels) != count:
        raise cannot_replace(batch, own)
    return labels


def cannot_replace(container: Any, own: Any, labels: Tensor | None = None) -> BatchError:
    """The error of labels that cannot be replaced where they are."""
    shape = "" if labels is None else f" {list(labels.shape)}"
    return BatchError(
        f"Got labels in a {type(container).__name__}, where {describe(own)} cannot be replaced by class "
        f"probabilities{shape}. Allowed are lists and dictionaries that hold the labels of the whole batch together: "
        "let collate_fn return one, or let the data set return class probabilities (a float tensor [B, N], for one "
        "logit [B])."
    )


def mixed_labels(labels: Tensor, truth: Tensor, outputs: int, partners: Tensor, weights: Tensor) -> Tensor:
    """Labels that are mixed by pairs: w · y + (1 − w) · y of the partner.

    Args:
        labels: The batch's own, ``[B]``, ``[B, 1]`` or ``[B, N]``.
        truth: What they say, as ``BatchContent.ground_truth`` returns it.
        outputs: The number of the network's logits: N, the number of its classes, or 1 for a yes-no question.
        partners: ``[B]`` int64, for each image the one that it was mixed with.
        weights: ``[B]`` in [0, 1], the weight of its own label.

    Returns:
        Of floating-point labels (0 and 1, soft labels, several classes) the same form; for one logit the labels' own
        shape, float32, where an image without a class keeps its label; else class probabilities ``[B, N]`` float32, of
        zeros for an image without a class.

    Raises:
        BatchError: If the labels are masks.

    Example:
        >>> labels = torch.tensor([2, 0])
        >>> mixed_labels(labels, labels, 3, torch.tensor([1, 0]), torch.tensor([0.75, 1.0]))
        tensor([[0.2500, 0.0000, 0.7500],
                [1.0000, 0.0000, 0.0000]])
    """
    if labels.ndim > 2:
        raise BatchError(
            f"Got labels {list(labels.shape)}, which look like masks. Allowed are classes [B] and weights [B, N]; "
            "take an action that leaves labels as they are."
        )
    if labels.is_floating_point():
        values = labels
    elif truth.ndim == 2:
        values = truth.to(labels.device)
    elif outputs == 1:
        values = labels.float()
    else:
        known = (truth >= 0) & (truth < outputs)
        values = F.one_hot(torch.where(known, truth, 0), outputs).float() * known[:, None]
        values = values.to(labels.device)
    share = weights.to(values.device, values.dtype).view(-1, *[1] * (values.ndim - 1))
    # A label that was not mixed stays bit for bit, NaN included.
    mixed = share * values + (1 - share) * values[partners.to(values.device)]
    return torch.where(share == 1, values, mixed)
