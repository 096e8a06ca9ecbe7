"""Data modules: the embedded digit scenes and folders of images."""

from lightning_saliency.data.digit_scenes import DigitScenes
from lightning_saliency.data.image_folder import ImageFolderDataModule

__all__ = ["DigitScenes", "ImageFolderDataModule"]
