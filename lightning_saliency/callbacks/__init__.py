"""Lightning callbacks: what is added to a ``Trainer``."""

from lightning_saliency.callbacks.augmentation import (
    AugmentationConfigurationError,
    FilmConfig,
    GroupCAMAugmentation,
    SaliencyAugmentation,
)
from lightning_saliency.callbacks.monitor import MonitorConfigurationError, SaliencyMonitor, ShortcutAlert
from lightning_saliency.callbacks.saliency_writer import SaliencyWriter, write_maps

__all__ = [
    "AugmentationConfigurationError",
    "FilmConfig",
    "GroupCAMAugmentation",
    "MonitorConfigurationError",
    "SaliencyAugmentation",
    "SaliencyMonitor",
    "SaliencyWriter",
    "ShortcutAlert",
    "write_maps",
]
