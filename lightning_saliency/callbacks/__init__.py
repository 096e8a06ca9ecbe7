"""Lightning callbacks: what is added to a ``Trainer``."""

from lightning_saliency.callbacks.augmentation import (
    Action,
    AugmentationConfigurationError,
    Changed,
    FilmConfig,
    GroupCAMAugmentation,
    Hide,
    HidePlace,
    Keep,
    KeepAugment,
    MaskTune,
    Mix,
    NoPlaceError,
    Protect,
    SaliencyAugmentation,
    Swap,
)
from lightning_saliency.callbacks.monitor import MonitorConfigurationError, SaliencyMonitor, ShortcutAlert
from lightning_saliency.callbacks.saliency_writer import SaliencyWriter, write_maps

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
    "MonitorConfigurationError",
    "NoPlaceError",
    "Protect",
    "SaliencyAugmentation",
    "SaliencyMonitor",
    "SaliencyWriter",
    "ShortcutAlert",
    "Swap",
    "write_maps",
]
