"""The batch's side of the augmentation: whose class each image is, and other pixels for the length of one step."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from lightning_saliency.batches import LABEL_KEYS, BatchError, describe, find_labels, follow, walk


def find_ground_truth(batch: Any, count: int, key: str | int | None = None) -> Tensor:
    """The ground truth of a batch's images.

    Args:
        batch: As for ``find_images``.
        count: B, the number of images.
        key: Where it is, a dictionary key, a position or a dotted path of both; ``None`` searches.

    Returns:
        ``[B]`` int64, a class an image; or ``[B, N]`` float32 in [0, 1], the weight of each class (multi-label and soft
        labels; a yes-no label ``[B]`` of bools or floats becomes ``[B, 1]``).

    Raises:
        BatchError: If there is none for B images.

    Example:
        >>> find_ground_truth((torch.rand(2, 3, 8, 8), torch.tensor([3, 1])), 2)
        tensor([3, 1])
        >>> find_ground_truth({"target": torch.tensor([[1.0, 0.0, 1.0]])}, 1)
        tensor([[1., 0., 1.]])
    """
    where = batch if key is None else follow(batch, key)
    labels = find_labels(where, count)
    if labels is not None and labels.dtype != torch.bool:
        return labels.long()
    for value in walk(where, LABEL_KEYS):
        if not isinstance(value, Tensor) or value.ndim not in (1, 2) or value.shape[0] != count or not value.numel():
            continue
        weights = value.detach().float().reshape(count, -1)
        if bool(((weights >= 0) & (weights <= 1)).all()):
            return weights
    given = "" if key is None else f" under labels={key!r}"
    raise BatchError(
        f"Found no ground truth for the {count} images of the batch{given}, which is {describe(batch)}. Allowed are "
        "integer classes [B] and weights [B, N] in [0, 1]; say where they are with labels=, for example "
        "labels='target' or labels=1."
    )


def draw_classes(truth: Tensor, generator: torch.Generator) -> Tensor:
    """The class that each image is explained for.

    Args:
        truth: As ``find_ground_truth`` returns it.
        generator: On the CPU.

    Returns:
        ``[B]`` int64 on the CPU: the class; of several, one drawn in proportion to its weight. -1 where there is none:
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


def find_indices(batch: Any, count: int, key: str | int) -> Tensor:
    """The images' indices in their data set, ``[count]`` int64 on the CPU.

    Raises:
        BatchError: If there are none under the key.
    """
    found = follow(batch, key)
    if not isinstance(found, Tensor) or found.shape != (count,) or found.is_floating_point():
        raise BatchError(
            f"Found no integer indices [{count}] under index={key!r} in the batch, which is {describe(batch)}. Let the "
            "data set hand out each image's index, say where it is with index=, or take reuse_epochs=1."
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
