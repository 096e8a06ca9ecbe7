"""Masks inside a network, scale by scale and statistic by statistic."""

from lightning_saliency.studies.layer_masking.config import LayerMaskingConfig
from lightning_saliency.studies.layer_masking.merged import MergedLayerMasking, merge_layer_masking
from lightning_saliency.studies.layer_masking.results import LayerMaskingResult
from lightning_saliency.studies.layer_masking.run import plan_layer_masking, run_layer_masking

__all__ = [
    "LayerMaskingConfig",
    "LayerMaskingResult",
    "MergedLayerMasking",
    "merge_layer_masking",
    "plan_layer_masking",
    "run_layer_masking",
]
