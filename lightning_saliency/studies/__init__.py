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
    "MetricConfig",
    "SanityCheckConfig",
    "SanityCheckResult",
    "StaleResultsError",
    "plan_augmentation",
    "plan_comparison",
    "plan_sanity_check",
    "run_augmentation",
    "run_comparison",
    "run_sanity_check",
]
