"""The batch's side of the augmentation: whose class each image is, and other pixels for the length of one step."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import pytorch_lightning as pl
import torch
from torch import Tensor

from lightning_saliency.batches import LABEL_KEYS, BatchError, describe, find_images, follow, label_candidates, walk
from lightning_saliency.functional.class_labels import label_classes


def find_ground_truth(batch: Any, count: int, key: str | int | None = None) -> Tensor:
    """The ground truth of a batch's images.

    Args:
        batch: A batch in any form that ``find_images`` knows.
        count: B, the number of images.
        key: Where the labels are, a dictionary key, a position or a dotted path of both; ``None`` searches: under the
            usual keys of labels; then for integers ``[B]`` or weights ``[B, N]``, whichever comes first; then for
            weights ``[B]``; then for masks.

    Returns:
        ``[B]`` int64, a class an image, -1 for none; or ``[B, N]`` float32 in [0, 1], the weight of each class
        (multi-label and soft labels). See ``label_classes``.

    Raises:
        BatchError: If the batch has no ground truth for B images.

    Example:
        >>> find_ground_truth((torch.rand(2, 3, 8, 8), torch.tensor([3, 1])), 2)
        tensor([3, 1])
        >>> find_ground_truth({"target": torch.tensor([[1.0, 0.0, 1.0]])}, 1)
        tensor([[1., 0., 1.]])
    """
    where = batch if key is None else follow(batch, key)
    values = [where] if key is not None and isinstance(where, Tensor) else label_candidates(where)
    likely = [value for value in values if value.ndim == 2 or _is_class(value, count)]
    usual = [value for value in _usual(where) if any(value is candidate for candidate in values)]
    # The usual keys first: besides its weights, a batch may carry indices or other whole numbers [B].
    for value in (*usual, *likely, *values):
        truth = label_classes(value, count)
        if truth is not None:
            return truth
    given = "" if key is None else f" under label_key={key!r}"
    raise BatchError(
        f"Found no ground truth for the {count} images of the batch{given}, which is {describe(batch)}. Allowed are "
        "integer classes [B], weights [B, N] in [0, 1] and masks [B, H, W] of classes; say where they are with "
        "label_key=, for example label_key='target' or label_key=1."
    )


def _usual(batch: Any) -> Iterator[Any]:
    """What lies under the usual keys of labels, at any depth."""
    if isinstance(batch, Mapping):
        for key in LABEL_KEYS:
            if key in batch:
                yield from walk(batch[key], LABEL_KEYS)
    if isinstance(batch, (Mapping, tuple, list)):
        for item in batch.values() if isinstance(batch, Mapping) else batch:
            yield from _usual(item)


def _is_class(value: Tensor, count: int) -> bool:
    return value.shape == (count,) and not value.is_floating_point() and value.dtype != torch.bool


def draw_classes(truth: Tensor, generator: torch.Generator) -> Tensor:
    """The class that each image is explained for.

    Args:
        truth: Classes ``[B]`` or weights ``[B, N]``, as ``find_ground_truth`` returns them.
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
        truth: Classes ``[B]`` or weights ``[B, N]``, as ``find_ground_truth`` returns them.

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
        key: Where the classes are, see ``find_ground_truth``.
        multi_label: Whether classes do not exclude each other; ``None``: the run's first batch tells.

    Attributes:
        multi_label: What was given or found out; ``None`` before.
    """

    def __init__(self, key: str | int | None, multi_label: bool | None) -> None:
        self.key = key
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

    def settle(self, trainer: pl.Trainer, batch: Any, image_key: str | int | None) -> None:
        """Find out, once for the run and for all processes, whether classes exclude each other."""
        if self.multi_label is not None:
            return
        try:
            count = find_images(batch, image_key).shape[0]
            found = looks_multi_label(find_ground_truth(batch, count, self.key))
        except BatchError:
            # Raised again where the classes are needed; meanwhile the other processes wait for this one.
            found = False
        self.multi_label = bool(trainer.strategy.reduce_boolean_decision(found, all=False))

    def classes(self, batch: Any, count: int, generator: torch.Generator) -> Tensor:
        """A class for each image, on the CPU, -1 for none."""
        return draw_classes(find_ground_truth(batch, count, self.key), generator)


def find_indices(batch: Any, count: int, key: str | int) -> Tensor:
    """The images' indices in their data set, ``[count]`` int64 on the CPU.

    Raises:
        BatchError: If there are none under the key.
    """
    found = follow(batch, key)
    if not isinstance(found, Tensor) or found.shape != (count,) or found.is_floating_point():
        raise BatchError(
            f"Found no integer indices [{count}] under index_key={key!r} in the batch, which is {describe(batch)}. "
            "Let the data set hand out each image's index, say where it is with index_key=, or take reuse_epochs=1."
        )
    return found.long().cpu()


class Swap:
    """Gives the batch's image tensor other pixels for a while.

    The tensor itself, wherever in the batch it lies, is pointed at other memory, and later back. Neither the batch's
    structure matters (a tuple cannot be assigned to) nor who else holds the memory: a data set that hands out its own
    tensors, a view of all its images perhaps, keeps its pixels. Writing into the tensor would damage them.

    Example:
        >>> data = torch.zeros(4, 1, 1, 1)
        >>> batch, swap = (data[:2],), Swap()
        >>> swap.put(batch[0], torch.ones(2, 1, 1, 1))
        >>> batch[0].sum().item(), data.sum().item()
        (2.0, 0.0)
        >>> swap.restore()
        >>> batch[0].sum().item()
        0.0
    """

    def __init__(self) -> None:
        self._held: tuple[Tensor, Tensor] | None = None

    def put(self, images: Tensor, pixels: Tensor) -> None:
        """Show other pixels of the same shape, dtype and device in the place of the images."""
        self.restore()
        original = images.detach()
        images.data = pixels
        self._held = (images, original)

    def restore(self) -> None:
        """Show the images' own pixels again; does nothing where they are shown."""
        if self._held is not None:
            images, original = self._held
            images.data = original
            self._held = None
