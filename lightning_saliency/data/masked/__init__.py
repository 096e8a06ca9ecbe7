"""Any data module masked by saliency maps (ROAR and KAR), and the store that keeps the maps of a data set."""

from lightning_saliency.data.masked.module import RoarKarDataModule
from lightning_saliency.data.masked.store import SaliencyStore
from lightning_saliency.data.masked.store_files import SaliencyStoreError
from lightning_saliency.data.masked.transforms import SaliencyGeometryError
from lightning_saliency.data.masked.whole_images import whole_image_loaders, whole_images

__all__ = [
    "RoarKarDataModule",
    "SaliencyGeometryError",
    "SaliencyStore",
    "SaliencyStoreError",
    "whole_image_loaders",
    "whole_images",
]
