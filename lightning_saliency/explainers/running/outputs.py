"""Logits in what a network returns, checked targets, and the score of each image's target."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Mapping
from dataclasses import fields, is_dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from lightning_saliency.functional.class_scores import class_count, class_scores, predicted_classes

#: One logit for each class, ``[B, classes]``.
plain_logits: Callable[[Tensor], Tensor] = partial(class_scores, score="logit")

#: Keys under which dictionaries usually carry the logits, the likeliest first.
LOGIT_KEYS = ("logits", "out", "output", "preds", "predictions", "scores")

if TYPE_CHECKING:
    #: What takes the logits out of what a network returns: a function; or a key, the name of an attribute, a position,
    #: or a dotted path of these, such as ``"heads.color"``; ``None``: `logits_of`.
    Output = Callable[[Any], Tensor] | str | int | None
else:
    # What jsonargparse, and so LightningCLI, sees: `parse_output` reads the path of a function. As a member of the type
    # it would take every text for itself, and could not write a key or a position back into the run's configuration.
    Output = str | int | None


def parse_output(output: Output) -> Output:
    """Read ``output=``: a dotted path to a function that can be imported becomes the function, as YAML files need it.

    Raises:
        TypeError: If it is of another type.

    Example:
        >>> parse_output("heads.color"), parse_output(1), parse_output("torch.sum").__name__
        ('heads.color', 1, 'sum')
    """
    if isinstance(output, bool) or not (output is None or callable(output) or isinstance(output, (str, int))):
        raise TypeError(
            f"Got output={output!r}. Allowed are a function from what the network returns to its logits, a key, the "
            "name of an attribute, a position, a dotted path of these, and None (searched for); give one of them."
        )
    if isinstance(output, str) and "." in output:
        module, _, name = output.rpartition(".")
        try:
            found = getattr(importlib.import_module(module), name, None)
        except ImportError:
            return output
        return found if callable(found) else output
    return output


def logits_of(returned: Any) -> Tensor:
    """The tensor of class scores in whatever a network returns.

    Args:
        returned: A tensor; an object with a ``logits`` attribute (torchvision's ``GoogLeNetOutputs``, most of Hugging
            Face); a mapping or dataclass with one of the keys ``logits``, ``out``, ``output``, ``preds``,
            ``predictions``, ``scores`` or with one entry only; a tuple or list, whose first tensor that is no single
            number counts.

    Raises:
        TypeError: If there is no such tensor.

    Example:
        >>> logits_of({"out": torch.zeros(2, 10), "aux": torch.zeros(2, 10)}).shape
        torch.Size([2, 10])
        >>> logits_of((torch.tensor(0.7), torch.zeros(2, 10))).shape
        torch.Size([2, 10])
    """
    found = next((value for value in _candidates(returned) if isinstance(value, Tensor) and value.ndim > 0), None)
    if found is None:
        raise TypeError(
            f"The network returned {_described(returned)}, in which no logits were found. Allowed are a tensor, an "
            f"object with .logits, a mapping with one of {', '.join(LOGIT_KEYS)}, and a tuple; say where they are with "
            "output=, for example output='classes' or output=lambda returned: returned['classes']."
        )
    return found


def class_logits(returned: Any, output: Output, images: Tensor) -> Tensor:
    """The logits of a network's return value, of each class or of each class at each pixel.

    Args:
        returned: What the network returned.
        output: What takes the logits out of it, see `Output`.
        images: The images ``[B, C, H, W]`` that it was given.

    Returns:
        ``[B, N]``, or ``[B, N, h, w]`` for a segmentation network; N is 1 where one logit says yes or no. ``[B]``
        becomes ``[B, 1]``; ``[B, N, 1, 1]`` is flattened; ``[B, H, W]``, one logit for each of the images' pixels,
        becomes ``[B, 1, H, W]``; ``[B, H, W, N]`` of the images' size becomes ``[B, N, H, W]``.

    Raises:
        TypeError: If no tensor was found.
        ValueError: If it has another shape.
    """
    batch, size = images.shape[0], images.shape[2:]
    if callable(output):
        logits = output(returned)
    else:
        logits = logits_of(returned) if output is None else _followed(returned, output)
    if not isinstance(logits, Tensor):
        raise TypeError(
            f"Got {type(logits).__name__} from output=. Allowed is a tensor of logits [B, N]; let it return one."
        )
    given = list(logits.shape)
    if logits.ndim == 1 or (logits.ndim == 3 and logits.shape[1:] == size):
        logits = logits[:, None]
    elif logits.ndim > 2 and all(one == 1 for one in logits.shape[2:]):
        logits = logits.flatten(1)
    elif logits.ndim == 4 and logits.shape[1:3] == size and logits.shape[2:] != size:
        logits = logits.movedim(-1, 1)
    if logits.ndim not in (2, 4) or logits.shape[0] != batch or 0 in logits.shape:
        raise ValueError(
            f"Got logits {given} for {batch} images. Allowed are [B, N], and [B, N, h, w] of a segmentation network; "
            "say where they are, or reduce them, with output=, for example output='logits' or output=lambda returned: "
            "returned['queries'].amax(dim=1)."
        )
    if not logits.is_floating_point():
        raise ValueError(
            f"Got logits of {logits.dtype}. Allowed are floating-point logits, since decided classes have no scores; "
            "take them from before the decision with output=."
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


def select_targets(outputs: Tensor, targets: Tensor | None) -> Tensor:
    """Each image's class: the given one, whose range is checked, or the predicted one.

    Args:
        outputs: ``[B, N]`` or ``[B, N, h, w]``, as `class_logits` returns them.
        targets: ``[B]`` int64 on any device; ``None``: the predicted classes, see `predicted_classes`.

    Returns:
        ``[B]`` int64 on the outputs' device.

    Raises:
        ValueError: If a target is not a class of the network.
    """
    if targets is None:
        return predicted_classes(outputs)
    check_range(targets, class_count(outputs))
    return targets.to(outputs.device)


def select_scores(
    outputs: Tensor,
    targets: Tensor | None,
    scores: Callable[[Tensor], Tensor] = plain_logits,
) -> tuple[Tensor, Tensor]:
    """Each image's own target score.

    Args:
        outputs: ``[B, N]`` or ``[B, N, h, w]``, as `class_logits` returns them.
        targets: ``[B]`` int64 on any device; ``None``: the predicted classes, see `predicted_classes`.
        scores: The scores ``[B, classes]`` of the outputs.

    Returns:
        The scores ``[B]`` and the targets ``[B]`` on the outputs' device.

    Raises:
        ValueError: If a target is no class of the network.
    """
    targets = select_targets(outputs, targets)
    return scores(outputs).gather(1, targets[:, None])[:, 0], targets


def check_range(targets: Tensor, classes: int) -> None:
    """Raise ``ValueError`` unless all targets are classes of the network.

    To be called before anything is indexed by them: on a GPU an index out of range ends the whole process.
    """
    if bool(((targets < 0) | (targets >= classes)).any()):
        wrong = sorted({target for target in targets.tolist() if not 0 <= target < classes})
        raise ValueError(
            f"Got the targets {wrong} for a network with {classes} classes. Allowed are 0 to {classes - 1}; check them."
        )


def _candidates(returned: Any) -> list[Any]:
    """Where the logits may be, the likeliest first."""
    if isinstance(returned, Tensor):
        return [returned]
    if isinstance(getattr(returned, "logits", None), Tensor):
        return [returned.logits]
    if is_dataclass(returned) and not isinstance(returned, (type, Mapping)):
        returned = {field.name: getattr(returned, field.name) for field in fields(returned)}
    if isinstance(returned, Mapping):
        usual = [returned[key] for key in LOGIT_KEYS if key in returned]
        return usual or (list(returned.values()) if len(returned) == 1 else [])
    if isinstance(returned, (tuple, list)):
        return [getattr(returned, key) for key in LOGIT_KEYS if hasattr(returned, key)] + list(returned)
    return []


def _followed(returned: Any, path: str | int) -> Any:
    """What lies at a key, an attribute or a position of what the network returned, or at a dotted path of these."""
    if isinstance(returned, Mapping) and path in returned:
        return returned[path]
    value = returned
    for part in str(path).split("."):
        if isinstance(value, Mapping) and (part in value or (part.isdigit() and int(part) in value)):
            value = value[part] if part in value else value[int(part)]
        elif isinstance(value, (tuple, list)) and part.lstrip("-").isdigit() and -len(value) <= int(part) < len(value):
            value = value[int(part)]
        elif part.isidentifier() and not isinstance(value, Tensor) and getattr(value, part, None) is not None:
            value = getattr(value, part)
        else:
            raise TypeError(
                f"Got output={path!r}, but the network returned {_described(returned)}, in which {part!r} was not "
                "found. Give a key, an attribute or a position that is there, a dotted path of these, or a function."
            )
    return value


def _described(returned: Any) -> str:
    if isinstance(returned, Mapping):
        return f"a mapping with the keys {sorted(map(str, returned))}"
    if isinstance(returned, (tuple, list)):
        return f"a {type(returned).__name__} of {len(returned)}"
    if is_dataclass(returned):
        return f"a {type(returned).__name__} with the fields {[field.name for field in fields(returned)]}"
    return type(returned).__name__
