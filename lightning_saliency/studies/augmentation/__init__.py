"""Augmentations compared by fine-tuning: those that saliency maps guide, others, and controls."""

from lightning_saliency.studies.augmentation.config import (
    AugmentationConfig,
    CostConfig,
    FineTuningConfig,
)
from lightning_saliency.studies.augmentation.report.results import AugmentationResult
from lightning_saliency.studies.augmentation.run import plan_augmentation, run_augmentation
from lightning_saliency.studies.augmentation.training import FineTunedClassifier

__all__ = [
    "AugmentationConfig",
    "AugmentationResult",
    "CostConfig",
    "FineTunedClassifier",
    "FineTuningConfig",
    "plan_augmentation",
    "run_augmentation",
]
