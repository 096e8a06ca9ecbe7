"""Studies: whole experiments over networks, explainers and data, whose results are kept and resumed."""

from lightning_saliency.studies._cells import StaleResultsError
from lightning_saliency.studies.augmentation import AugmentationConfig, run_augmentation
from lightning_saliency.studies.comparison import (
    Comparison,
    ComparisonConfig,
    MetricConfig,
    compute_explainers,
    run_comparison,
)

__all__ = [
    "AugmentationConfig",
    "Comparison",
    "ComparisonConfig",
    "MetricConfig",
    "StaleResultsError",
    "compute_explainers",
    "run_augmentation",
    "run_comparison",
]
