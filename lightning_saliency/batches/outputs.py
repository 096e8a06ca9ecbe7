"""Class scores in what a step returned."""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor

#: Keys under which dictionaries usually carry class scores, the likeliest first.
LOGIT_KEYS = ("logits", "preds", "predictions", "prediction", "pred", "y_hat", "output", "outputs", "scores")


def find_logits(outputs: object, count: int) -> Tensor | None:
    """The class scores ``[count, N]`` in what a step returned, or ``None`` where it returned none.

    Predicted classes ``[count]`` (integers) are accepted in their place.
    """
    if isinstance(outputs, Mapping):
        candidates = [outputs[key] for key in LOGIT_KEYS if key in outputs]
    else:
        candidates = list(outputs) if isinstance(outputs, (tuple, list)) else [outputs]
    for value in candidates:
        if not isinstance(value, Tensor) or value.ndim == 0 or value.shape[0] != count:
            continue
        if (value.ndim == 2 and value.is_floating_point()) or (value.ndim == 1 and not value.is_floating_point()):
            return value
    return None
