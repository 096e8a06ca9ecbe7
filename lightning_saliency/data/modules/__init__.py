"""Data modules: embedded digit scenes, image folders, arrays of images, objects cut out of photographs."""

from lightning_saliency.data.modules.array_images import ArrayImagesDataModule
from lightning_saliency.data.modules.class_photographs import ClassPhotograph
from lightning_saliency.data.modules.digit_scenes import DigitScenes
from lightning_saliency.data.modules.image_folder import ImageFolderDataModule
from lightning_saliency.data.modules.object_crops import ObjectCropsDataModule

__all__ = ["ArrayImagesDataModule", "ClassPhotograph", "DigitScenes", "ImageFolderDataModule", "ObjectCropsDataModule"]
