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
    DigitScenes,
    ImageFolderDataModule,
    ObjectCropsDataModule,
)

__all__ = [
    "AnnotatedImages",
    "ArrayImagesDataModule",
    "BoxedImages",
    "DigitScenes",
    "ImageFiles",
    "ImageFolderDataModule",
    "ObjectCropsDataModule",
    "RoarKarDataModule",
    "SaliencyGeometryError",
    "SaliencyStore",
    "SaliencyStoreError",
    "whole_image_loaders",
    "whole_images",
]
