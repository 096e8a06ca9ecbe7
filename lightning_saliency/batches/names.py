"""What the names of keys and fields say about the tensors under them."""

from __future__ import annotations

from typing import Literal

Role = Literal["image", "label", "index", "box", "mask", "other"]

# The likeliest first.
_IMAGES = ("image", "images", "pixel_values", "img", "imgs", "x", "input", "inputs", "data", "pixels")
# Of five dimensions, see `volumes` of ``BatchReader``.
_VOLUMES = ("video", "videos", "clip", "clips", "volume", "volumes", "frames", "scan", "ct", "mri")
_LABELS = (
    *("label", "labels", "target", "targets", "class", "classes", "y", "truth", "ground_truth", "gt"),
    *("class_label", "class_labels", "class_id", "class_ids", "class_index", "class_idx", "cls"),
    *("category", "categories", "category_id", "fine_label", "label_id", "label_idx", "coarse_label"),
)
_BOXES = ("boxes", "bboxes", "box", "bbox", "bounding_boxes", "bounding_box")
_MASKS = ("masks", "mask", "segmentation_mask", "segmentation_masks", "object_mask", "instance_masks")
_INDICES = ("index", "indices", "idx", "id", "ids", "uid", "uids")
_INDEX_ENDINGS = ("_index", "_indices", "_idx", "_id", "_ids")
# Pictures of something else than the network's input.
_OTHER = ("depth", "height", "heatmap", "density", "disparity", "flow", "normals", "edges", "anomaly_map", "pixel_mask")


def role(name: str | int) -> Role | None:
    """What lies under a name; ``None``: the name does not say.

    Example:
        >>> [role(name) for name in ("pixel_values", "gt_label", "patient_id", "bbox_xywh", "pred_label", "view")]
        ['image', 'label', 'index', 'box', 'other', None]
    """
    plain = _plain(name)
    if plain in _IMAGES or plain in _VOLUMES:
        return "image"
    if plain in _LABELS:
        return "label"
    if plain in _INDICES or plain.endswith(_INDEX_ENDINGS):
        return "index"
    if plain.removesuffix(_format_of(plain)) in _BOXES:
        return "box"
    if plain in _MASKS:
        return "mask"
    # What a step may have put beside the batch's own: its predictions.
    return "other" if plain in _OTHER or plain.startswith("pred") else None


def rank(name: str | int) -> int:
    """How usual a name is among those of its role, 0 the most."""
    plain = _plain(name)
    return next((names.index(plain) for names in (_IMAGES + _VOLUMES, _LABELS, _BOXES, _MASKS) if plain in names), 99)


def box_format(name: str | int) -> str | None:
    """The format of boxes that a name ends on, as in ``bbox_xyxy``."""
    return _format_of(_plain(name)).removeprefix("_") or None


def _format_of(plain: str) -> str:
    return next((ending for ending in ("_xyxy", "_cxcywh", "_xywh") if plain.endswith(ending)), "")


def _plain(name: str | int) -> str:
    text = str(name).lower()
    return text if text == "gt" else text.removeprefix("gt_")
