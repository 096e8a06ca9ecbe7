"""Saliency maps of a batch of images: ``explainer(images, targets) -> maps [B, H, W]`` in [0, 1].

Every explainer is built from a network and options, and leaves the network as it was, see ``Explainer``. By name:
``build_explainer("group_cam", model, groups=16)``.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from functools import partial
from typing import Any

from torch import nn

from lightning_saliency.explainers.base import Explainer
from lightning_saliency.explainers.baselines import CaptumExplainer, TorchcamExplainer
from lightning_saliency.explainers.cam import GradCAM, GradCAMPlusPlus, XGradCAM
from lightning_saliency.explainers.fast_cam import FastCAM
from lightning_saliency.explainers.group_cam import GroupCAM
from lightning_saliency.explainers.mask_scoring import score_masks
from lightning_saliency.explainers.rise import RISE
from lightning_saliency.explainers.score_cam import ScoreCAM
from lightning_saliency.explainers.sise import SISE
from lightning_saliency.explainers.smoe import SMOE

__all__ = [
    "EXPLAINERS",
    "RISE",
    "SISE",
    "SMOE",
    "CaptumExplainer",
    "Explainer",
    "FastCAM",
    "GradCAM",
    "GradCAMPlusPlus",
    "GroupCAM",
    "ScoreCAM",
    "TorchcamExplainer",
    "XGradCAM",
    "build_explainer",
    "score_masks",
]

#: Every explainer by name, called as ``EXPLAINERS[name](model, **options)``. Those from ``gradient`` on need captum.
EXPLAINERS: dict[str, Callable[..., Explainer]] = {
    "smoe": SMOE,
    "grad_cam": GradCAM,
    "grad_cam_plus_plus": GradCAMPlusPlus,
    "x_grad_cam": XGradCAM,
    "fast_cam": FastCAM,
    "group_cam": GroupCAM,
    "score_cam": ScoreCAM,
    "rise": RISE,
    "sise": SISE,
    "gradient": partial(CaptumExplainer, method="Saliency"),
    "gradient_smoothgrad_sq": partial(CaptumExplainer, method="Saliency", noise_tunnel="smoothgrad_sq"),
    "guided_backprop": partial(CaptumExplainer, method="GuidedBackprop"),
    "guided_backprop_smoothgrad_sq": partial(CaptumExplainer, method="GuidedBackprop", noise_tunnel="smoothgrad_sq"),
    "integrated_gradients": partial(CaptumExplainer, method="IntegratedGradients"),
    "integrated_gradients_smoothgrad_sq": partial(
        CaptumExplainer, method="IntegratedGradients", noise_tunnel="smoothgrad_sq"
    ),
    "occlusion": partial(CaptumExplainer, method="Occlusion"),
}


def build_explainer(name: str, model: nn.Module, **options: Any) -> Explainer:
    """The explainer of that name.

    Args:
        name: A key of ``EXPLAINERS``.
        model: The network, see ``Explainer``.
        **options: The explainer's own, for example ``layer="layer4"`` or ``groups=16``.

    Raises:
        ImportError: If it needs a package that is not installed.
        TypeError: If the explainer has no such option.
        ValueError: If the name is unknown.

    Example:
        >>> type(build_explainer("grad_cam", nn.Conv2d(3, 4, 3), layer="")).__name__
        'GradCAM'
        >>> build_explainer("gradcam", nn.Identity())
        Traceback (most recent call last):
        ...
        ValueError: Expected the name of an explainer, one of smoe, grad_cam, ..., occlusion, but got 'gradcam'.
    """
    if name not in EXPLAINERS:
        raise ValueError(f"Expected the name of an explainer, one of {', '.join(EXPLAINERS)}, but got {name!r}.")
    build = EXPLAINERS[name]
    try:
        inspect.signature(build).bind(model, **options)
    except TypeError as error:
        allowed = list(inspect.signature(build).parameters)[1:]
        raise TypeError(
            f"{name} was given the options {sorted(options)}, but {error}. It takes {', '.join(allowed)}."
        ) from None
    return build(model, **options)
