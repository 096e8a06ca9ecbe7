"""The film as one page: what is kept of each frame, and the page, strip and moving picture made of it."""

from lightning_saliency.pictures.page.find import find_run
from lightning_saliency.pictures.page.html import film
from lightning_saliency.pictures.page.recorder import FilmRecorder
from lightning_saliency.pictures.page.records import AlertRecord, FrameRecord, ImageRecord, MeanMap
from lightning_saliency.pictures.page.slides import film_strip, moving_film
from lightning_saliency.pictures.page.store import FilmRecords

__all__ = [
    "AlertRecord",
    "FilmRecorder",
    "FilmRecords",
    "FrameRecord",
    "ImageRecord",
    "MeanMap",
    "film",
    "film_strip",
    "find_run",
    "moving_film",
]
