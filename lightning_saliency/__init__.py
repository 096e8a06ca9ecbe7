"""Watch, epoch by epoch and almost for free, where a vision network finds its information."""

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from lightning_saliency.callbacks import (
        GroupCAMAugmentation,
        HidePlace,
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
    from lightning_saliency.scales.find import NoScalesError, find_scales, named_scales
    from lightning_saliency.scales.maps import ScaleMaps
    from lightning_saliency.scales.scale import Scale
    from lightning_saliency.scales.taps import ScaleTaps

__version__ = "0.1.0"

__all__ = [
    "DigitScenes",
    "FilmRecorder",
    "GroupCAMAugmentation",
    "HidePlace",
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

# Torch and Lightning take seconds to import: the command line's help, and who needs one room, do without the others.
_ROOMS = {
    "callbacks": (
        "GroupCAMAugmentation",
        "HidePlace",
        "KeepAugment",
        "MaskTune",
        "SaliencyAugmentation",
        "SaliencyMonitor",
        "SaliencyWriter",
        "ShortcutAlert",
    ),
    "classifier": ("ImageClassifier",),
    "data": ("DigitScenes", "ImageFolderDataModule", "RoarKarDataModule", "SaliencyStore"),
    "pictures.page": ("FilmRecorder", "film"),
    "reports": ("explain_images",),
    "scales.find": ("NoScalesError", "find_scales", "named_scales"),
    "scales.scale": ("Scale",),
    "scales.maps": ("ScaleMaps",),
    "scales.taps": ("ScaleTaps",),
}


_PUBLIC = (
    "callbacks",
    "classifier",
    "data",
    "deployment",
    "explainers",
    "functional",
    "metrics",
    "networks",
    "pictures",
    "reports",
    "scales",
    "studies",
)


def __getattr__(name: str) -> object:
    """What the package exports, and its public modules, imported where they are first asked for."""
    if name in _PUBLIC:
        return import_module(f"{__name__}.{name}")
    for room, names in _ROOMS.items():
        if name in names:
            globals()[name] = found = getattr(import_module(f"{__name__}.{room}"), name)
            return found
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__, *_PUBLIC})
