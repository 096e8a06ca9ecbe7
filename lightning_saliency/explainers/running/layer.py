"""Which layer is explained where the user names none: the last scale, if the class's score depends on it."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn

from lightning_saliency.explainers.running.capture import depends_on
from lightning_saliency.explainers.running.outputs import Output
from lightning_saliency.scales.nearby import deepest_alive
from lightning_saliency.scales.scale import Scale

#: How many images say whether the score depends on a layer: one alone may be without any gradient.
_IMAGES = 2


def explained_scale(
    model: nn.Module, images: Tensor, scales: Sequence[Scale], output: Output = None
) -> tuple[Scale, bool]:
    """The deepest scale by which a class's score has a gradient that is not zero everywhere.

    A network that classifies by a class token reads no other token behind the last block that mixes them: what enters
    that block is taken. Where a backbone returns several tensors and the head reads another one than the last scale, it
    is the latest tensor on the same grid that the head does depend on, or else the next scale nearer to the image.

    Args:
        model: The network.
        images: ``[B, C, H, W]``; the first two are used.
        scales: Its scales, shallow to deep.
        output: Takes the logits out of what the network returns, see ``Explainer``.

    Returns:
        The scale; and ``False`` if the score depends on nothing, as with a head whose weights are still zero: then it
        is the last scale.
    """
    images = images[:_IMAGES]
    if depends_on(model, images, scales[-1:], output)[0]:
        return scales[-1], True
    found = deepest_alive(model, images, scales[-1], lambda candidates: depends_on(model, images, candidates, output))
    if found is not None:
        return found, True
    alive = depends_on(model, images, scales, output)
    others = [scale for scale, lives in zip(scales, alive, strict=True) if lives]
    return (others[-1], True) if others else (scales[-1], False)
