"""Data modules: the embedded digit scenes, folders of images, and any of them masked by saliency maps."""

from lightning_saliency.data._transforms import SaliencyGeometryError
from lightning_saliency.data.array_images import ArrayImagesDataModule
from lightning_saliency.data.digit_scenes import DigitScenes
from lightning_saliency.data.image_folder import ImageFolderDataModule
from lightning_saliency.data.object_crops import ObjectCropsDataModule
from lightning_saliency.data.roar_kar import RoarKarDataModule
from lightning_saliency.data.saliency_store import SaliencyStore, SaliencyStoreError
from lightning_saliency.data.whole_images import whole_image_loaders, whole_images

__all__ = [
    "ArrayImagesDataModule",
    "DigitScenes",
    "ImageFolderDataModule",
    "ObjectCropsDataModule",
    "RoarKarDataModule",
    "SaliencyGeometryError",
    "SaliencyStore",
    "SaliencyStoreError",
    "whole_image_loaders",
    "whole_images",
]
