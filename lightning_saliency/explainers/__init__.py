"""Saliency maps of a batch of images: ``explainer(images, targets) -> maps [B, H, W]`` in [0, 1].

Every explainer is built from a network and options, and leaves the network as it was, see ``Explainer``. By name:
``build_explainer("group_cam", model, groups=16)``, ``build_explainer("torchcam:LayerCAM", model)``.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable
from functools import partial
from typing import Any

from torch import nn

from lightning_saliency.explainers.base import Explainer
from lightning_saliency.explainers.baselines import CaptumExplainer, TorchcamExplainer, torchcam_methods
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
    "find_explainer",
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


# In front of the names of torchcam's methods.
_TORCHCAM = "torchcam:"


def find_explainer(name: str, others: Iterable[str] = ()) -> Callable[..., Explainer]:
    """What builds the explainer of that name, called as ``find_explainer(name)(model, **options)``.

    Args:
        name: A key of ``EXPLAINERS``, or ``"torchcam:METHOD"`` with a class of ``torchcam.methods``, see
            ``TorchcamExplainer``.
        others: Names that the caller knows beside these, for the error.

    Raises:
        ImportError: If it is a method of torchcam's, which is not installed.
        ValueError: If the name is unknown.

    Example:
        >>> find_explainer("group_cam")
        <class 'lightning_saliency.explainers.group_cam.GroupCAM'>
        >>> find_explainer("gradcam", others=["random"])
        Traceback (most recent call last):
        ...
        ValueError: Got the explainer 'gradcam'. Allowed are random, smoe, grad_cam, ..., occlusion and torchcam:METHOD,
        such as torchcam:LayerCAM; use one of them.
    """
    if name in EXPLAINERS:
        return EXPLAINERS[name]
    if not name.startswith(_TORCHCAM):
        raise ValueError(
            f"Got the explainer {name!r}. Allowed are {', '.join((*others, *EXPLAINERS))} and torchcam:METHOD, such as "
            "torchcam:LayerCAM; use one of them."
        )
    method, methods = name.removeprefix(_TORCHCAM), torchcam_methods()
    if method not in methods:
        allowed = ", ".join(_TORCHCAM + known for known in methods)
        raise ValueError(f"Got the explainer {name!r}. Allowed are {allowed}; use one of them.")
    return partial(TorchcamExplainer, method=method)


def build_explainer(name: str, model: nn.Module, **options: Any) -> Explainer:
    """The explainer of that name.

    Args:
        name: A key of ``EXPLAINERS``, or ``"torchcam:METHOD"`` with a class of ``torchcam.methods``.
        model: The network, see ``Explainer``.
        **options: The explainer's own, for example ``layer="layer4"`` or ``groups=16``.

    Raises:
        ImportError: If it needs a package that is not installed.
        TypeError: If the explainer has no such option.
        ValueError: If the name is unknown.

    Example:
        >>> type(build_explainer("grad_cam", nn.Conv2d(3, 4, 3), layer="")).__name__
        'GradCAM'
    """
    build = find_explainer(name)
    try:
        inspect.signature(build).bind(model, **options)
    except TypeError as error:
        allowed = list(inspect.signature(build).parameters)[1:]
        raise TypeError(
            f"{name} was given the options {sorted(options)}, but {error}. It takes {', '.join(allowed)}."
        ) from None
    return build(model, **options)
