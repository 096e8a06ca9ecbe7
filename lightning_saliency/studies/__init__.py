"""Studies: whole experiments over networks, explainers and data, whose results are kept and resumed."""

from lightning_saliency.studies.augmentation.run import AugmentationConfig, run_augmentation
from lightning_saliency.studies.comparison.run import (
    Comparison,
    ComparisonConfig,
    MetricConfig,
    compute_explainers,
    run_comparison,
)
from lightning_saliency.studies.engine.files import StaleResultsError

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
