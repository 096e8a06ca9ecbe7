"""Watch, epoch by epoch and almost for free, where a vision network finds its information."""

from lightning_saliency.callbacks import (
    GroupCAMAugmentation,
    KeepAugment,
    MaskTune,
    SaliencyAugmentation,
    SaliencyMonitor,
    SaliencyWriter,
    ShortcutAlert,
)
from lightning_saliency.classifier import ImageClassifier
from lightning_saliency.data import DigitScenes, ImageFolderDataModule, RoarKarDataModule, SaliencyStore
from lightning_saliency.pictures.page import FilmRecorder, film
from lightning_saliency.reports import explain_images
from lightning_saliency.scales.find import NoScalesError, Scale, find_scales, named_scales
from lightning_saliency.scales.maps import ScaleMaps
from lightning_saliency.scales.taps import ScaleTaps

__version__ = "0.1.0"

__all__ = [
    "DigitScenes",
    "FilmRecorder",
    "GroupCAMAugmentation",
    "ImageClassifier",
    "ImageFolderDataModule",
    "KeepAugment",
    "MaskTune",
    "NoScalesError",
    "RoarKarDataModule",
    "SaliencyAugmentation",
    "SaliencyMonitor",
    "SaliencyStore",
    "SaliencyWriter",
    "Scale",
    "ScaleMaps",
    "ScaleTaps",
    "ShortcutAlert",
    "explain_images",
    "film",
    "find_scales",
    "named_scales",
]
