"""Scores of masked images: the one primitive that Group-CAM, Score-CAM, RISE and SISE are built on."""

from lightning_saliency.explainers.mask_scoring.blocks import MaskBlock
from lightning_saliency.explainers.mask_scoring.budget import ScoringBudget, limited_scoring
from lightning_saliency.explainers.mask_scoring.explainer import MaskScoringExplainer
from lightning_saliency.explainers.mask_scoring.fast_forward import fast_inference
from lightning_saliency.explainers.mask_scoring.precisions import native_precision
from lightning_saliency.explainers.mask_scoring.scorer import MaskScorer, score_masks

__all__ = [
    "MaskBlock",
    "MaskScorer",
    "MaskScoringExplainer",
    "ScoringBudget",
    "fast_inference",
    "limited_scoring",
    "native_precision",
    "score_masks",
]
