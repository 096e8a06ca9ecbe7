"""`SaliencyAugmentation` and its presets: training batches changed by saliency maps."""

from lightning_saliency.callbacks.augmentation.callback import SaliencyAugmentation
from lightning_saliency.callbacks.augmentation.frame import FilmConfig
from lightning_saliency.callbacks.augmentation.options import AugmentationConfigurationError
from lightning_saliency.callbacks.augmentation.presets import GroupCAMAugmentation

__all__ = ["AugmentationConfigurationError", "FilmConfig", "GroupCAMAugmentation", "SaliencyAugmentation"]
