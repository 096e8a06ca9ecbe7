"""Saliency maps of a batch of images: ``explainer(images, targets) -> maps [B, H, W]`` in [0, 1].

Every explainer is built from a network and options, and leaves the network as it was, see ``Explainer``. By name:
``build_explainer("group_cam", model, groups=16)``, ``build_explainer("torchcam:LayerCAM", model)``.
"""

from lightning_saliency.explainers.base import Explainer
from lightning_saliency.explainers.cam import GradCAM, GradCAMPlusPlus, LayerCAM, XGradCAM
from lightning_saliency.explainers.controls import CenterGaussian, EdgeDetector, RandomBlobs, RandomMap
from lightning_saliency.explainers.fast_cam import FastCAM
from lightning_saliency.explainers.full_grad import FullGrad
from lightning_saliency.explainers.group_cam import GroupCAM
from lightning_saliency.explainers.labelled import NoClassesError, explain_labels
from lightning_saliency.explainers.libraries.baselines import CaptumExplainer, TorchcamExplainer
from lightning_saliency.explainers.libraries.xrai import XRAI
from lightning_saliency.explainers.mask_scoring import MaskBlock, MaskScoringExplainer, score_masks
from lightning_saliency.explainers.names import CONTROL_MAPS, EXPLAINERS, find_explainer
from lightning_saliency.explainers.registry import (
    ExplainerLike,
    ExplainerOption,
    ExplainerSpec,
    build_explainer,
    parse_explainers,
)
from lightning_saliency.explainers.rise import RISE
from lightning_saliency.explainers.score_cam import ScoreCAM
from lightning_saliency.explainers.sise import SISE
from lightning_saliency.explainers.smoe import SMOE
from lightning_saliency.explainers.smooth_cam import SmoothGradCAMPlusPlus

__all__ = [
    "CONTROL_MAPS",
    "EXPLAINERS",
    "RISE",
    "SISE",
    "SMOE",
    "XRAI",
    "CaptumExplainer",
    "CenterGaussian",
    "EdgeDetector",
    "Explainer",
    "ExplainerLike",
    "ExplainerOption",
    "ExplainerSpec",
    "FastCAM",
    "FullGrad",
    "GradCAM",
    "GradCAMPlusPlus",
    "GroupCAM",
    "LayerCAM",
    "MaskBlock",
    "MaskScoringExplainer",
    "NoClassesError",
    "RandomBlobs",
    "RandomMap",
    "ScoreCAM",
    "SmoothGradCAMPlusPlus",
    "TorchcamExplainer",
    "XGradCAM",
    "build_explainer",
    "explain_labels",
    "find_explainer",
    "parse_explainers",
    "score_masks",
]
