"""Statistics of the column of C activations at each position: they measure how much the network found there.

SMOE Scale and the statistics it is compared with in Table 1 of "Efficient Saliency Maps for Explainable AI" (the SMOE
paper). Each is a plain function `statistic(activations, *, dim=1)` that reduces dimension `dim` of `[B, C, *S]`, or of
any other layout, and is found by its name in `STATISTICS`. The distribution statistics live in
`lightning_saliency.functional.statistics.distributions`.

What holds for all of them: any real floating-point type is taken, half precision is computed and returned in float32,
float64 in float64; any memory layout, B = 0 and one channel included; finite values of up to 1e30 in size give finite
results, NaN gives NaN; where no gradient is recorded, the extra memory on a CPU is that of a few million values.
"""

from lightning_saliency.functional.statistics.activations import (
    STATISTICS,
    Statistic,
    get_statistic,
    max,
    mean,
    renyi_entropy,
    shannon_entropy,
    smoe_scale,
    std,
)
from lightning_saliency.functional.statistics.distributions import (
    gamma_scale,
    lognormal_entropy,
    lognormal_mean,
    truncnormal_entropy,
    truncnormal_mean,
    truncnormal_std,
)

__all__ = [
    "STATISTICS",
    "Statistic",
    "gamma_scale",
    "get_statistic",
    "lognormal_entropy",
    "lognormal_mean",
    "max",
    "mean",
    "renyi_entropy",
    "shannon_entropy",
    "smoe_scale",
    "std",
    "truncnormal_entropy",
    "truncnormal_mean",
    "truncnormal_std",
]
