"""Explainers compared on images, against boxes and against the network."""

from lightning_saliency.studies.comparison.config import ComparisonConfig
from lightning_saliency.studies.comparison.measuring import MetricConfig
from lightning_saliency.studies.comparison.results import ComparisonResult
from lightning_saliency.studies.comparison.run import plan_comparison, run_comparison

__all__ = ["ComparisonConfig", "ComparisonResult", "MetricConfig", "plan_comparison", "run_comparison"]
