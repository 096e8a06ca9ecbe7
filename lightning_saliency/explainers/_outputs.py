"""Logits in what a network returns, checked targets, and the score of each image's target."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, cast

import torch
from torch import Tensor

#: Keys under which dictionaries usually carry the logits, the likeliest first.
LOGIT_KEYS = ("logits", "out", "output", "preds", "predictions", "scores")


def logits_of(output: Any) -> Tensor:
    """The tensor of class scores in whatever a network returns.

    Args:
        output: A tensor; an object with a ``logits`` attribute (torchvision's ``GoogLeNetOutputs``, most of Hugging
            Face); a mapping with one of the keys ``logits``, ``out``, ``output``, ``preds``, ``predictions``,
            ``scores`` or with one entry only; a tuple or list, whose first tensor is taken.

    Raises:
        TypeError: If there is no such tensor.

    Example:
        >>> logits_of({"out": torch.zeros(2, 10), "aux": torch.zeros(2, 10)}).shape
        torch.Size([2, 10])
    """
    found = _find_logits(output)
    if found is None:
        described = (
            f"a mapping with the keys {sorted(map(str, output))}"
            if isinstance(output, Mapping)
            else type(output).__name__
        )
        raise TypeError(
            f"The network returned {described}, in which no logits were found. Allowed are a tensor, an object with "
            f".logits, a mapping with one of {', '.join(LOGIT_KEYS)}, and a tuple; say where they are with output=, "
            "for example output=lambda returned: returned['classes']."
        )
    return found


def class_logits(returned: Any, output: Callable[[Any], Tensor] | None, batch: int) -> Tensor:
    """The logits ``[B, N]`` of a network's return value.

    Args:
        returned: What the network returned.
        output: Takes the logits out of it; ``None``: ``logits_of``.
        batch: B.

    Returns:
        ``[B, N]``. ``[B]`` becomes ``[B, 1]`` and ``[B, N, 1, 1]`` is flattened.

    Raises:
        TypeError: If no tensor was found.
        ValueError: If it has another shape, such as that of a segmentation network.
    """
    logits = logits_of(returned) if output is None else output(returned)
    if not isinstance(logits, Tensor):
        raise TypeError(
            f"Got {type(logits).__name__} from output=. Allowed is a tensor of logits [B, N]; let it return one."
        )
    if logits.ndim == 1:
        logits = logits[:, None]
    elif logits.ndim > 2 and all(size == 1 for size in logits.shape[2:]):
        logits = logits.flatten(1)
    if logits.ndim != 2 or logits.shape[0] != batch or logits.shape[1] == 0:
        raise ValueError(
            f"Got logits {list(logits.shape)} for {batch} images. Allowed are [B, N]; reduce them with output=, for a "
            "segmentation network for example output=lambda returned: returned['out'].mean(dim=(2, 3))."
        )
    return logits


def checked_targets(targets: Tensor | int | None, batch: int) -> Tensor | None:
    """Targets as ``[B]`` int64 (their range is checked once the number of classes is known).

    Raises:
        TypeError: If they are neither an int, nor an int64 tensor, nor ``None``.
        ValueError: If the tensor's shape is not ``[B]``.
    """
    if targets is None:
        return None
    if isinstance(targets, int) and not isinstance(targets, bool):
        return torch.full((batch,), targets, dtype=torch.int64)
    if not isinstance(targets, Tensor):
        raise TypeError(
            f"Got targets of type {type(targets).__name__}. Allowed are an int, an int64 tensor [B] and None (the "
            "predicted class); use one of them."
        )
    if targets.dtype != torch.int64:
        raise TypeError(f"Got targets of {targets.dtype}. Allowed is torch.int64; convert them with targets.long().")
    if targets.shape != (batch,):
        raise ValueError(
            f"Got targets {list(targets.shape)} for {batch} images. Allowed are [{batch}]; give one for each image."
        )
    return targets.detach().clone()


def select_scores(logits: Tensor, targets: Tensor | None) -> tuple[Tensor, Tensor]:
    """Each image's own target logit.

    Args:
        logits: ``[B, N]``.
        targets: ``[B]`` int64 on any device; ``None``: the class with the largest logit.

    Returns:
        The scores ``[B]`` and the targets ``[B]`` on the logits' device.

    Raises:
        ValueError: If a target is not a class of the network.
    """
    if targets is None:
        targets = logits.detach().argmax(dim=1)
    else:
        check_range(targets, logits.shape[1])
    targets = targets.to(logits.device)
    return logits.gather(1, targets[:, None])[:, 0], targets


def check_range(targets: Tensor, classes: int) -> None:
    """Raise ``ValueError`` unless all targets are classes of the network.

    To be called before anything is indexed by them: on a GPU an index out of range ends the whole process.
    """
    if bool(((targets < 0) | (targets >= classes)).any()):
        wrong = sorted({target for target in targets.tolist() if not 0 <= target < classes})
        raise ValueError(
            f"Got the targets {wrong} for a network with {classes} classes. Allowed are 0 to {classes - 1}; check them."
        )


def _find_logits(output: Any) -> Tensor | None:
    if isinstance(output, Tensor):
        return output
    if isinstance(getattr(output, "logits", None), Tensor):
        return cast(Tensor, output.logits)
    if isinstance(output, Mapping):
        candidates = [output[key] for key in LOGIT_KEYS if key in output]
        if not candidates and len(output) == 1:
            candidates = list(output.values())
    elif isinstance(output, (tuple, list)):
        candidates = list(output)
    else:
        return None
    return next((candidate for candidate in candidates if isinstance(candidate, Tensor)), None)
