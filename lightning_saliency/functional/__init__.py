"""Pure functions of tensors: statistics, maps, masks, curves, scores and pictures. No hook, no module, no Lightning."""

from lightning_saliency.functional.cascade import cascade_fusion, otsu_threshold
from lightning_saliency.functional.class_labels import label_classes, main_classes, no_classes
from lightning_saliency.functional.class_scores import (
    Score,
    class_count,
    class_regions,
    class_scores,
    log_odds,
    most_frequent_classes,
    predicted_classes,
)
from lightning_saliency.functional.curves import auc, deletion_curve, insertion_curve, target_scores
from lightning_saliency.functional.distributions import (
    fit_gamma,
    gamma_scale,
    gamma_shape,
    lognormal_entropy,
    lognormal_mean,
    truncnormal_entropy,
    truncnormal_mean,
    truncnormal_std,
)
from lightning_saliency.functional.fills import Fill, NamedFill, blur, fill_images, is_random
from lightning_saliency.functional.fusion import PRIOR_WEIGHTS, combine, scale_weights
from lightning_saliency.functional.localization import (
    bbox_score,
    boxes_to_masks,
    energy_pointing_game,
    map_entropy,
    pointing_game,
    top_fraction_iou,
)
from lightning_saliency.functional.masking import (
    attribution_masks,
    blend,
    keep_most_salient,
    remove_most_salient,
    resize_maps,
    top_fraction,
)
from lightning_saliency.functional.normalization import gamma_cdf, min_max, normal_cdf
from lightning_saliency.functional.operations import ScaleOperations, fast_cam_memory, fast_cam_operations
from lightning_saliency.functional.scores import difference_score, drop, increase, information_score
from lightning_saliency.functional.similarity import hog_similarity, spearman, ssim
from lightning_saliency.functional.statistics import (
    STATISTICS,
    Statistic,
    get_statistic,
    mean,
    renyi_entropy,
    shannon_entropy,
    smoe_scale,
    std,
)
from lightning_saliency.functional.visualization import color_table, heatmap, highlight, lovi, overlay, stretched

# `statistics.max` stays there, or by its name in STATISTICS: an import of * must not replace the built-in.
__all__ = [
    "PRIOR_WEIGHTS",
    "STATISTICS",
    "Fill",
    "NamedFill",
    "ScaleOperations",
    "Score",
    "Statistic",
    "attribution_masks",
    "auc",
    "bbox_score",
    "blend",
    "blur",
    "boxes_to_masks",
    "cascade_fusion",
    "class_count",
    "class_regions",
    "class_scores",
    "color_table",
    "combine",
    "deletion_curve",
    "difference_score",
    "drop",
    "energy_pointing_game",
    "fast_cam_memory",
    "fast_cam_operations",
    "fill_images",
    "fit_gamma",
    "gamma_cdf",
    "gamma_scale",
    "gamma_shape",
    "get_statistic",
    "heatmap",
    "highlight",
    "hog_similarity",
    "increase",
    "information_score",
    "insertion_curve",
    "is_random",
    "keep_most_salient",
    "label_classes",
    "log_odds",
    "lognormal_entropy",
    "lognormal_mean",
    "lovi",
    "main_classes",
    "map_entropy",
    "mean",
    "min_max",
    "most_frequent_classes",
    "no_classes",
    "normal_cdf",
    "otsu_threshold",
    "overlay",
    "pointing_game",
    "predicted_classes",
    "remove_most_salient",
    "renyi_entropy",
    "resize_maps",
    "scale_weights",
    "shannon_entropy",
    "smoe_scale",
    "spearman",
    "ssim",
    "std",
    "stretched",
    "target_scores",
    "top_fraction",
    "top_fraction_iou",
    "truncnormal_entropy",
    "truncnormal_mean",
    "truncnormal_std",
]
