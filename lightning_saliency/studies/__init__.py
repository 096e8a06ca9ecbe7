"""Studies: whole experiments over networks, explainers and data, whose results are kept and resumed."""

from lightning_saliency.studies.augmentation import (
    AugmentationConfig,
    AugmentationResult,
    plan_augmentation,
    run_augmentation,
)
from lightning_saliency.studies.comparison import (
    ComparisonConfig,
    ComparisonResult,
    MetricConfig,
    plan_comparison,
    run_comparison,
)
from lightning_saliency.studies.engine.cell import CellError
from lightning_saliency.studies.engine.files import StaleResultsError
from lightning_saliency.studies.layer_masking import (
    LayerMaskingConfig,
    LayerMaskingResult,
    MergedLayerMasking,
    merge_layer_masking,
    plan_layer_masking,
    run_layer_masking,
)
from lightning_saliency.studies.method_costs import CostResult, run_costs
from lightning_saliency.studies.roar_kar import RoarKarConfig, RoarKarResult, plan_roar_kar, run_roar_kar
from lightning_saliency.studies.sanity_check import (
    SanityCheckConfig,
    SanityCheckResult,
    plan_sanity_check,
    run_sanity_check,
)

__all__ = [
    "AugmentationConfig",
    "AugmentationResult",
    "CellError",
    "ComparisonConfig",
    "ComparisonResult",
    "CostResult",
    "LayerMaskingConfig",
    "LayerMaskingResult",
    "MergedLayerMasking",
    "MetricConfig",
    "RoarKarConfig",
    "RoarKarResult",
    "SanityCheckConfig",
    "SanityCheckResult",
    "StaleResultsError",
    "merge_layer_masking",
    "plan_augmentation",
    "plan_comparison",
    "plan_layer_masking",
    "plan_roar_kar",
    "plan_sanity_check",
    "run_augmentation",
    "run_comparison",
    "run_costs",
    "run_layer_masking",
    "run_roar_kar",
    "run_sanity_check",
]
