"""Images, labels, objects and indices in a batch; class scores in the output of a step; telling images apart."""

from lightning_saliency.batches.content import BatchContent
from lightning_saliency.batches.fingerprints import content_keys, fingerprint, same_images
from lightning_saliency.batches.outputs import find_losses, find_predictions
from lightning_saliency.batches.reader import BatchReader, find_classes, find_images, find_labels, find_objects
from lightning_saliency.batches.tree import BatchError, NoImagesError, describe, follow

__all__ = [
    "BatchContent",
    "BatchError",
    "BatchReader",
    "NoImagesError",
    "content_keys",
    "describe",
    "find_classes",
    "find_images",
    "find_labels",
    "find_losses",
    "find_objects",
    "find_predictions",
    "fingerprint",
    "follow",
    "same_images",
]
