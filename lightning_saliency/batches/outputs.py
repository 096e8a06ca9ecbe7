"""Class scores in what a step returned."""

from __future__ import annotations

from collections.abc import Iterator

from torch import Tensor

from lightning_saliency.batches.tree import fields
from lightning_saliency.functional.class_scores import label_losses, predicted_classes

#: Keys under which dictionaries usually carry class scores, the likeliest first.
LOGIT_KEYS = ("logits", "preds", "predictions", "prediction", "pred", "y_hat", "output", "outputs", "scores")


def find_predictions(outputs: object, count: int) -> Tensor | None:
    """The predicted class of each image by what a step returned, ``[count]`` int64, or ``None`` where nothing tells.

    Read are logits ``[count, N]``, of which ``[count, 1]`` is one logit that says yes or no; under the usual keys of a
    dictionary, named tuple or data class also one logit ``[count]`` and the logits of pixels ``[count, N, h, w]``, see
    ``predicted_classes``; and predicted classes ``[count]`` (integers).

    Example:
        >>> import torch
        >>> find_predictions({"loss": torch.tensor(0.7), "logits": torch.tensor([[1.5], [-0.5]])}, 2)
        tensor([1, 0])
    """
    for value in _scores(outputs, count):
        if not value.is_floating_point():
            return value.long()
        return predicted_classes(value[:, None] if value.ndim == 1 else value)
    return None


def find_losses(outputs: object, labels: Tensor) -> Tensor | None:
    """The cross-entropy of each image's class by the logits that a step returned, or ``None`` where it returned none.

    Read are the logits that `find_predictions` reads, but for those of pixels.

    Args:
        outputs: What a step, or a network, returned.
        labels: The class of each image, ``[count]`` int64.

    Returns:
        ``[count]``, see `label_losses`.

    Example:
        >>> import torch
        >>> find_losses({"logits": torch.tensor([[1.0, 0.0], [1.0, 0.0]])}, torch.tensor([0, 1]))
        tensor([0.3133, 1.3133])
    """
    for value in _scores(outputs, len(labels)):
        if value.is_floating_point() and value.ndim < 3:
            return label_losses(value[:, None] if value.ndim == 1 else value, labels)
    return None


def _scores(outputs: object, count: int) -> Iterator[Tensor]:
    """The tensors that may be class scores, or classes, of ``count`` images."""
    held = None if isinstance(outputs, Tensor) else fields(outputs)
    candidates = [] if held is None else [held[key] for key in LOGIT_KEYS if key in held]
    named = bool(candidates)
    if not named and (held is None or isinstance(outputs, tuple)):
        candidates = list(outputs) if isinstance(outputs, (tuple, list)) else [outputs]
    for value in candidates:
        if not isinstance(value, Tensor) or value.ndim == 0 or value.shape[0] != count:
            continue
        if not value.is_floating_point():
            if value.ndim == 1:
                yield value
        elif value.numel() and (value.ndim == 2 or (named and value.ndim in (1, 4))):
            yield value
