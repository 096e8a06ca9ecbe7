"""Pure functions of tensors: statistics, normalisation, fusion and pictures. No hook, no module, no Lightning."""

from lightning_saliency.functional.fusion import PRIOR_WEIGHTS, combine, scale_weights
from lightning_saliency.functional.normalization import gamma_cdf, min_max, normal_cdf
from lightning_saliency.functional.statistics import (
    STATISTICS,
    Statistic,
    gamma_scale,
    get_statistic,
    lognormal_entropy,
    lognormal_mean,
    mean,
    renyi_entropy,
    shannon_entropy,
    smoe_scale,
    std,
    truncnormal_entropy,
    truncnormal_mean,
    truncnormal_std,
)
from lightning_saliency.functional.visualization import heatmap, lovi, overlay

# `statistics.max` stays there, or by its name in STATISTICS: an import of * must not replace the built-in.
__all__ = [
    "PRIOR_WEIGHTS",
    "STATISTICS",
    "Statistic",
    "combine",
    "gamma_cdf",
    "gamma_scale",
    "get_statistic",
    "heatmap",
    "lognormal_entropy",
    "lognormal_mean",
    "lovi",
    "mean",
    "min_max",
    "normal_cdf",
    "overlay",
    "renyi_entropy",
    "scale_weights",
    "shannon_entropy",
    "smoe_scale",
    "std",
    "truncnormal_entropy",
    "truncnormal_mean",
    "truncnormal_std",
]
