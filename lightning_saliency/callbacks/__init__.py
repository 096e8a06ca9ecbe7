"""Lightning callbacks: what is added to a ``Trainer``."""

from lightning_saliency.callbacks._augment_options import AugmentationConfigurationError
from lightning_saliency.callbacks._options import MonitorConfigurationError
from lightning_saliency.callbacks.group_cam_augmentation import GroupCAMAugmentation
from lightning_saliency.callbacks.saliency_augmentation import SaliencyAugmentation
from lightning_saliency.callbacks.saliency_monitor import SaliencyMonitor
from lightning_saliency.callbacks.saliency_writer import SaliencyWriter, write_maps

__all__ = [
    "AugmentationConfigurationError",
    "GroupCAMAugmentation",
    "MonitorConfigurationError",
    "SaliencyAugmentation",
    "SaliencyMonitor",
    "SaliencyWriter",
    "write_maps",
]
