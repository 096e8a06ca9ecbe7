"""`SaliencyAugmentation` and its presets: training batches changed by saliency maps."""

from lightning_saliency.callbacks.augmentation.actions.basic import Action, Changed, Hide, Keep
from lightning_saliency.callbacks.augmentation.actions.more import Mix, Protect, Swap
from lightning_saliency.callbacks.augmentation.callback import SaliencyAugmentation
from lightning_saliency.callbacks.augmentation.frame import FilmConfig
from lightning_saliency.callbacks.augmentation.one_map.hide_place import HidePlace, NoPlaceError
from lightning_saliency.callbacks.augmentation.options import AugmentationConfigurationError
from lightning_saliency.callbacks.augmentation.presets import GroupCAMAugmentation, KeepAugment, MaskTune

__all__ = [
    "Action",
    "AugmentationConfigurationError",
    "Changed",
    "FilmConfig",
    "GroupCAMAugmentation",
    "Hide",
    "HidePlace",
    "Keep",
    "KeepAugment",
    "MaskTune",
    "Mix",
    "NoPlaceError",
    "Protect",
    "SaliencyAugmentation",
    "Swap",
]
