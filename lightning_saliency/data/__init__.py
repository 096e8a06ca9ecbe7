"""Data modules: the embedded digit scenes, folders of images, and any of them masked by saliency maps."""

from lightning_saliency.data.boxes import AnnotatedImages, BoxedImages
from lightning_saliency.data.image_files import ImageFiles
from lightning_saliency.data.masked import (
    RoarKarDataModule,
    SaliencyGeometryError,
    SaliencyStore,
    SaliencyStoreError,
    whole_image_loaders,
    whole_images,
)
from lightning_saliency.data.modules import (
    ArrayImagesDataModule,
    ClassPhotograph,
    DigitScenes,
    ImageFolderDataModule,
    ObjectCropsDataModule,
)
from lightning_saliency.data.planted import PlantedShortcut
from lightning_saliency.data.shortcuts import (
    BackgroundTint,
    ClassBlur,
    ClassBorder,
    CornerMark,
    RandomMark,
    Shortcut,
    Watermark,
)

__all__ = [
    "AnnotatedImages",
    "ArrayImagesDataModule",
    "BackgroundTint",
    "BoxedImages",
    "ClassBlur",
    "ClassBorder",
    "ClassPhotograph",
    "CornerMark",
    "DigitScenes",
    "ImageFiles",
    "ImageFolderDataModule",
    "ObjectCropsDataModule",
    "PlantedShortcut",
    "RandomMark",
    "RoarKarDataModule",
    "SaliencyGeometryError",
    "SaliencyStore",
    "SaliencyStoreError",
    "Shortcut",
    "Watermark",
    "whole_image_loaders",
    "whole_images",
]
