"""Studies: whole experiments over networks, explainers and data, whose results are kept and resumed."""

from lightning_saliency.studies.augmentation.run import AugmentationConfig, run_augmentation
from lightning_saliency.studies.comparison import (
    ComparisonConfig,
    ComparisonResult,
    MetricConfig,
    plan_comparison,
    run_comparison,
)
from lightning_saliency.studies.engine.cell import CellError
from lightning_saliency.studies.engine.files import StaleResultsError

__all__ = [
    "AugmentationConfig",
    "CellError",
    "ComparisonConfig",
    "ComparisonResult",
    "MetricConfig",
    "StaleResultsError",
    "plan_comparison",
    "run_augmentation",
    "run_comparison",
]
