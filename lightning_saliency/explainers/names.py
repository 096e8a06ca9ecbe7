"""Explainers by name: the class or function that each name stands for."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Iterable
from functools import partial
from typing import Any

from lightning_saliency.checks import did_you_mean
from lightning_saliency.explainers.base import Explainer
from lightning_saliency.explainers.cam import GradCAM, GradCAMPlusPlus, LayerCAM, XGradCAM
from lightning_saliency.explainers.controls import CenterGaussian, EdgeDetector, RandomBlobs, RandomMap
from lightning_saliency.explainers.fast_cam import FastCAM
from lightning_saliency.explainers.full_grad import FullGrad
from lightning_saliency.explainers.group_cam import GroupCAM
from lightning_saliency.explainers.libraries.baselines import CaptumExplainer, TorchcamExplainer, torchcam_methods
from lightning_saliency.explainers.libraries.xrai import XRAI
from lightning_saliency.explainers.rise import RISE
from lightning_saliency.explainers.score_cam import ScoreCAM
from lightning_saliency.explainers.sise import SISE
from lightning_saliency.explainers.smoe import SMOE
from lightning_saliency.explainers.smooth_cam import SmoothGradCAMPlusPlus

#: Every explainer by name, called as ``EXPLAINERS[name](model, **options)``. Those from ``gradient`` on need captum,
#: ``xrai`` the package saliency.
EXPLAINERS: dict[str, Callable[..., Explainer]] = {
    "smoe": SMOE,
    "grad_cam": GradCAM,
    "grad_cam_plus_plus": GradCAMPlusPlus,
    "x_grad_cam": XGradCAM,
    "layer_cam": LayerCAM,
    "smooth_grad_cam_plus_plus": SmoothGradCAMPlusPlus,
    "full_grad": FullGrad,
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
    "xrai": XRAI,
}

#: Maps that know nothing of the network, by name: what an explainer has to beat.
CONTROL_MAPS: dict[str, Callable[..., Explainer]] = {
    "random": RandomMap,
    "center_gaussian": CenterGaussian,
    "edges": EdgeDetector,
    "random_blobs": RandomBlobs,
}

# In front of the names of torchcam's methods.
_TORCHCAM = "torchcam:"


def find_explainer(name: str, others: Iterable[str] = ()) -> Callable[..., Explainer]:
    """The factory of an explainer by its name, called as ``find_explainer(name)(model, **options)``.

    Args:
        name: A key of ``EXPLAINERS`` or ``CONTROL_MAPS``; ``"torchcam:METHOD"`` with a class of ``torchcam.methods``,
            see ``TorchcamExplainer``; or the class path of your own explainer.
        others: Further names that the caller allows, for the error message.

    Raises:
        ImportError: If the name is a method of torchcam and torchcam is not installed.
        ValueError: If the name is unknown or cannot be imported.

    Example:
        >>> find_explainer("group_cam")
        <class 'lightning_saliency.explainers.group_cam.GroupCAM'>
        >>> find_explainer("gradcam", others=["mean"])
        Traceback (most recent call last):
        ...
        ValueError: Got the explainer 'gradcam'. Allowed are mean, smoe, grad_cam, ..., random_blobs, torchcam:METHOD,
        such as torchcam:LayerCAM, and the class path of your own, such as my_package.MyExplainer; use one of them. Did
        you mean 'grad_cam'?
    """
    for known in (EXPLAINERS, CONTROL_MAPS):
        if name in known:
            return known[name]
    if name.startswith(_TORCHCAM):
        method, methods = name.removeprefix(_TORCHCAM), torchcam_methods()
        if method not in methods:
            allowed = ", ".join(_TORCHCAM + known for known in methods)
            meant = did_you_mean(method, methods)
            raise ValueError(f"Got the explainer {name!r}. Allowed are {allowed}; use one of them.{meant}")
        return partial(TorchcamExplainer, method=method)
    if "." in name:
        return imported(name)
    names = (*others, *EXPLAINERS, *CONTROL_MAPS)
    raise ValueError(
        f"Got the explainer {name!r}. Allowed are {', '.join(names)}, "
        "torchcam:METHOD, such as torchcam:LayerCAM, and the class path of your own, such as my_package.MyExplainer; "
        f"use one of them.{did_you_mean(name, names)}"
    )


def imported(path: str) -> Callable[..., Any]:
    """The class or function at a dotted path.

    Raises:
        ValueError: If it cannot be imported.
    """
    module, _, name = path.rpartition(".")
    try:
        found: Callable[..., Any] = getattr(importlib.import_module(module), name)
    except (ImportError, AttributeError) as error:
        raise ValueError(
            f"Got the class path {path!r}, which cannot be imported ({error}). Give the module and the class, such as "
            "lightning_saliency.explainers.GroupCAM, of a package that is installed or in the folder of the command."
        ) from error
    return found
