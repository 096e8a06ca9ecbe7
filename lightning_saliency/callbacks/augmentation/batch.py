"""The batch's side of the augmentation: whose class each image is, and other pixels for the length of one step."""

from __future__ import annotations

from collections.abc import Sequence

import pytorch_lightning as pl
import torch
from torch import Tensor

from lightning_saliency.batches import BatchContent, BatchError


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

    def settle(self, trainer: pl.Trainer, content: BatchContent) -> None:
        """Find out, once for the run and for all processes, whether classes exclude each other."""
        if self.multi_label is not None:
            return
        try:
            found = looks_multi_label(content.ground_truth())
        except BatchError:
            # Raised again where the classes are needed; meanwhile the other processes wait for this one.
            found = False
        self.multi_label = bool(trainer.strategy.reduce_boolean_decision(found, all=False))

    def classes(self, content: BatchContent, generator: torch.Generator) -> Tensor:
        """A class for each image, on the CPU, -1 for none."""
        return draw_classes(content.ground_truth(), generator)


class Swap:
    """Gives the batch's image tensors other pixels for a while.

    The tensors themselves, wherever in the batch they lie, are pointed at other memory, and later back. Neither the
    batch's structure matters (a tuple cannot be assigned to) nor who else holds the memory: a data set that hands out
    its own tensors, a view of all its images perhaps, keeps its pixels. Writing into the tensors would damage them.

    Example:
        >>> data = torch.zeros(4, 1, 1, 1)
        >>> batch, swap = (data[:2],), Swap()
        >>> swap.put([batch[0]], torch.ones(2, 1, 1, 1))
        >>> batch[0].sum().item(), data.sum().item()
        (2.0, 0.0)
        >>> swap.restore()
        >>> batch[0].sum().item()
        0.0
    """

    def __init__(self) -> None:
        self._held: list[tuple[Tensor, Tensor]] = []

    def put(self, held: Sequence[Tensor], pixels: Tensor) -> None:
        """Show other pixels ``[B, C, H, W]`` of the same type and device in the place of the images.

        Args:
            held: The batch's tensors, one of all images or one an image, see ``BatchContent.held``.
            pixels: What they show.
        """
        self.restore()
        shown = [pixels] if held[0].ndim == pixels.ndim else list(pixels)
        for tensor, other in zip(held, shown, strict=True):
            # Past what a subclass of tensors (tv_tensors, MONAI's) makes of it.
            with torch._C.DisableTorchFunctionSubclass():
                self._held.append((tensor, tensor.detach()))
                tensor.data = other

    def restore(self) -> None:
        """Show the images' own pixels again; does nothing where they are shown."""
        for tensor, original in self._held:
            with torch._C.DisableTorchFunctionSubclass():
                tensor.data = original
        self._held = []
