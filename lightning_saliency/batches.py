"""Finding images, labels, objects and logits in a batch or in the output of a step."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from lightning_saliency.functional.class_labels import main_classes, no_classes
from lightning_saliency.functional.class_scores import predicted_classes
from lightning_saliency.functional.localization import boxes_to_masks

#: Keys under which dictionaries usually carry each thing, the likeliest first.
IMAGE_KEYS = ("image", "images", "pixel_values", "img", "imgs", "x", "input", "inputs", "data")
LABEL_KEYS = ("label", "labels", "target", "targets", "class", "y")
BOX_KEYS = ("boxes", "bboxes", "box", "bbox")
MASK_KEYS = ("masks", "mask")
LOGIT_KEYS = ("logits", "preds", "predictions", "prediction", "pred", "y_hat", "output", "outputs", "scores")


class BatchError(ValueError):
    """A batch does not hold the expected tensors; the message describes its content."""


def find_images(batch: object, key: str | int | None = None) -> Tensor:
    """The images of a batch.

    Args:
        batch: A tensor, or tuples, lists and dictionaries of tensors, nested to any depth.
        key: Place of the images: a dictionary key, a position, or a dotted path of both, such as ``"inputs.image"`` or
            ``"0.pixel_values"``. ``None`` takes the first ``[B, C, H, W]`` tensor, dictionaries being searched under
            their usual keys first.

    Returns:
        ``[B, C, H, W]``, floating point or uint8.

    Raises:
        BatchError: If there is nothing under the key, or no such tensor at all.

    Example:
        >>> find_images({"label": torch.zeros(2), "image": torch.rand(2, 3, 8, 8)}).shape
        torch.Size([2, 3, 8, 8])
    """
    if key is not None:
        found = _as_images(follow(batch, key))
        if found is None:
            raise BatchError(
                f"Got {describe(follow(batch, key))} under image_key={key!r} of a batch that is {describe(batch)}. "
                "Allowed are images [B, C, H, W]; give the key that they are under."
            )
        return found
    candidates = [images for value in walk(batch, IMAGE_KEYS) if (images := _as_images(value)) is not None]
    for images in sorted(candidates, key=lambda candidate: not candidate.is_floating_point()):
        return images
    raise BatchError(
        f"Found no images [B, C, H, W] in the batch, which is {describe(batch)}. "
        "Say where they are with image_key, for example image_key='inputs.image' or image_key=0."
    )


def find_labels(batch: object, count: int) -> Tensor | None:
    """The integer labels ``[count]`` of a batch, or ``None`` where it carries none."""
    for value in walk(batch, LABEL_KEYS):
        if isinstance(value, Tensor) and value.shape == (count,) and not value.is_floating_point():
            return value
    return None


def find_classes(batch: object, count: int) -> Tensor | None:
    """The class of each image in a batch.

    The integers of `find_labels` come first, then labels in the other forms that `main_classes` knows, masks being the
    last; then numbers that are no classes, see `no_classes`.

    Returns:
        ``[count]`` int64, -1 for an image without a class, -1 − N for N numbers that are none; ``None`` where the batch
        carries no labels at all.

    Example:
        >>> images = torch.rand(2, 3, 8, 8)
        >>> find_classes((images, torch.tensor([4, 2])), 2), find_classes((images, torch.tensor([[1.0], [0.0]])), 2)
        (tensor([4, 2]), tensor([1, 0]))
        >>> find_classes((images, torch.tensor([0.2, 31.0])), 2)
        tensor([-2, -2])
    """
    labels = find_labels(batch, count)
    if labels is not None:
        return main_classes(labels, count)
    for read in (main_classes, no_classes):
        for value in label_candidates(batch):
            found = read(value, count)
            if found is not None:
                return found
    return None


def label_candidates(batch: object) -> list[Tensor]:
    """The tensors of a batch that may be labels, those under the usual keys first: vectors and matrices, then masks."""
    try:
        images: Tensor | None = find_images(batch)
    except BatchError:
        images = None
    leaves = [value for value in walk(batch, LABEL_KEYS) if isinstance(value, Tensor) and value is not images]
    return [value for value in leaves if 0 < value.ndim < 3] + [value for value in leaves if value.ndim > 2]


def find_objects(batch: object, size: tuple[int, int]) -> Tensor | None:
    """The regions of the objects of each image, from its boxes or masks.

    Args:
        batch: Holds, in dictionaries at any depth, ``masks`` (``[B, H, W]`` or ``[B, n, H, W]``, non-zero inside, or a
            list with one ``[n, H, W]`` per image) or ``boxes`` (``[B, 4]``, ``[B, n, 4]`` or a list with one ``[n, 4]``
            per image; xyxy in pixels; rows of NaN or without area are padding); also as a list with one dictionary per
            image.
        size: The ``(H, W)`` of the images.

    Returns:
        ``[B, H, W]`` bool, the union of each image's objects; ``None`` where the batch carries neither, or masks of
        another size.
    """
    masks = _collect(batch, MASK_KEYS)
    if masks is not None:
        united = [mask.reshape(-1, *mask.shape[-2:]).ne(0).any(0) for mask in masks]
        return torch.stack(united) if united and all(mask.shape == torch.Size(size) for mask in united) else None
    boxes = _collect(batch, BOX_KEYS)
    if boxes is not None and all(box.shape[-1] == 4 for box in boxes):
        return boxes_to_masks([box.reshape(-1, 4) for box in boxes], size)
    return None


def find_predictions(outputs: object, count: int) -> Tensor | None:
    """The predicted class of each image by what a step returned, ``[count]`` int64, or ``None`` where nothing tells.

    Read are logits ``[count, N]``, of which ``[count, 1]`` is one logit that says yes or no; under the usual keys of a
    dictionary also one logit ``[count]`` and the logits of pixels ``[count, N, h, w]``, see ``predicted_classes``; and
    predicted classes ``[count]`` (integers).

    Example:
        >>> find_predictions({"loss": torch.tensor(0.7), "logits": torch.tensor([[1.5], [-0.5]])}, 2)
        tensor([1, 0])
    """
    named = isinstance(outputs, Mapping)
    if isinstance(outputs, Mapping):
        candidates = [outputs[key] for key in LOGIT_KEYS if key in outputs]
    else:
        candidates = list(outputs) if isinstance(outputs, (tuple, list)) else [outputs]
    for value in candidates:
        if not isinstance(value, Tensor) or value.ndim == 0 or value.shape[0] != count:
            continue
        if value.ndim == 1 and not value.is_floating_point():
            return value.long()
        if value.is_floating_point() and value.numel() and (value.ndim == 2 or (named and value.ndim in (1, 4))):
            return predicted_classes(value[:, None] if value.ndim == 1 else value)
    return None


def describe(value: object, depth: int = 0) -> str:
    """A short description of a nested batch, for error messages."""
    if isinstance(value, Tensor):
        return f"Tensor{list(value.shape)} {str(value.dtype).removeprefix('torch.')}"
    if isinstance(value, Mapping) and depth < 3:
        inner = ", ".join(f"{key!r}: {describe(item, depth + 1)}" for key, item in list(value.items())[:8])
        return f"{{{inner}}}"
    if isinstance(value, (tuple, list)) and depth < 3:
        inner = ", ".join(describe(item, depth + 1) for item in value[:8])
        return f"{type(value).__name__}({inner})"
    return type(value).__name__


def _as_images(value: object) -> Tensor | None:
    if not isinstance(value, Tensor) or value.ndim != 4 or min(value.shape[1:]) == 0:
        return None
    return value if value.is_floating_point() or value.dtype == torch.uint8 else None


def walk(value: object, keys: Sequence[str]) -> Iterator[Any]:
    """Every leaf of a nested batch, depth first, dictionaries under the given keys before their other ones."""
    if isinstance(value, Mapping):
        first = [key for key in keys if key in value]
        for key in (*first, *(key for key in value if key not in first)):
            yield from walk(value[key], keys)
    elif isinstance(value, (tuple, list)):
        for item in value:
            yield from walk(item, keys)
    else:
        yield value


def follow(batch: Any, key: str | int) -> Any:
    """The value in a nested batch at a dotted path of keys, positions and attributes, or ``None``."""
    value = batch
    for part in str(key).split("."):
        if isinstance(value, Mapping):
            value = value.get(part, value.get(int(part)) if part.isdigit() else None)
        elif isinstance(value, (tuple, list)) and part.lstrip("-").isdigit() and -len(value) <= int(part) < len(value):
            value = value[int(part)]
        else:
            value = getattr(value, part, None)
    return value


def _collect(batch: object, keys: Sequence[str]) -> list[Tensor] | None:
    """One tensor per image under the first of the keys found in a dictionary at any depth."""
    if isinstance(batch, Mapping):
        for key in keys:
            if key in batch:
                value = batch[key]
                items = list(value) if isinstance(value, (Tensor, tuple, list)) else []
                return items if items and all(isinstance(item, Tensor) for item in items) else None
        nested: Sequence[object] = list(batch.values())
    elif isinstance(batch, (tuple, list)):
        nested = batch
        values = [
            item[key]
            for item in batch
            if isinstance(item, Mapping)
            for key in [_first_key(item, keys)]
            if key is not None
        ]
        if values and len(values) == len(batch):
            return [torch.as_tensor(value) for value in values]
    else:
        return None
    for item in nested:
        if isinstance(item, (Mapping, tuple, list)):
            found = _collect(item, keys)
            if found is not None:
                return found
    return None


def _first_key(mapping: Mapping[Any, Any], keys: Sequence[str]) -> str | None:
    return next((key for key in keys if key in mapping), None)


#: Rows and columns of pixels in an image's fingerprint.
_PRINT = 8


def fingerprint(images: Tensor) -> Tensor:
    """A few pixels of each image ``[B, C, H, W]``, on an even grid over it, as ``[B, C·64]`` float32 on the CPU."""
    rows, columns = (
        torch.linspace(0, side - 1, _PRINT, device=images.device).round().long() for side in images.shape[-2:]
    )
    # NaN equals nothing, not even itself.
    return torch.nan_to_num(images.detach()[:, :, rows][..., columns].flatten(1).float()).cpu().clone()
