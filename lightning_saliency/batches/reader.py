"""Reading images, and what belongs to them, from a batch of any form."""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from lightning_saliency.batches.content import BatchContent, Keys
from lightning_saliency.batches.images import holds_images, image_candidates, standing
from lightning_saliency.batches.labels import groups_of_labels, vectors
from lightning_saliency.batches.objects import check_box_format
from lightning_saliency.batches.tree import (
    BatchError,
    Node,
    NoImagesError,
    Path,
    children,
    describe,
    follow,
    is_batch_of_volumes,
    walk,
)

_FLAT_ALONE = (
    " Volumes and clips [B, C, T, H, W] are read by SaliencyMonitor alone; SMOE, Grad-CAM and FastCAM map them."
)


class BatchReader:
    """Finds the images of batches, and the labels, objects and indices of these very images.

    A batch is a tensor, or dictionaries, sequences, named tuples, data classes and other records of tensors, nested to
    any depth; images are a tensor ``[B, C, H, W]`` (or ``[B, H, W, C]``), or a list of B tensors ``[C, H, W]``, as
    detectors take them. A batch may have several branches with images, such as the labelled and the unlabelled one of a
    ``CombinedLoader``: the first whose images have labels is taken, and nothing of another one.

    Volumes and clips ``[B, C, T, H, W]`` (or ``[B, T, H, W, C]``) count as images where that is asked for. Clips with
    the frames before the channels, ``[B, T, C, H, W]``, are not told from volumes by guessing, and refused.

    Images: under a usual name (``image``, ``pixel_values``, ``x``, …) before others, floating point before uint8, in
    the order of the batch; those under names of something else (``mask``, ``depth``, ``target``) last.

    Args:
        image_key: Place of the images: a key, a position, or a dotted path of both, such as ``"inputs.image"`` or
            ``"0.pixel_values"``, in the batch or in a loader's part of it. ``None`` searches.
        label_key: Place of the labels. ``None`` searches: under usual names, then by form, with a warning where two
            vectors fit.
        index_key: Place of the images' indices in their data set. ``None`` searches likewise.
        box_format: Format of boxes that do not tell theirs (``tv_tensors.BoundingBoxes`` do, and names such as
            ``bbox_xywh``): ``"xyxy"``, ``"xywh"``, ``"cxcywh"`` in pixels, ``"relative_cxcywh"`` and the like in shares
            of the image's sides, and torchvision's rotated ones.
        ignore_index: The number in masks of pixels without a label.
        volumes: Whether tensors of five dimensions are images, too.

    Raises:
        ValueError: If ``box_format`` is unknown.

    Example:
        >>> import torch
        >>> extra, images, labels = torch.rand(4, 3, 8, 8), torch.rand(2, 3, 8, 8), torch.tensor([3, 1])
        >>> content = BatchReader().read({"extra": extra, "labelled": [images, labels]})
        >>> content.images is images, content.labels()
        (True, tensor([3, 1]))
    """

    def __init__(
        self,
        image_key: str | int | None = None,
        label_key: str | int | None = None,
        index_key: str | int | None = None,
        *,
        box_format: str = "xyxy",
        ignore_index: int | None = 255,
        volumes: bool = False,
    ) -> None:
        self.keys = Keys(image_key, label_key, index_key, check_box_format(box_format), ignore_index)
        self.volumes = volumes
        self._said: set[str] = set()
        # Where boxes lie of which it is known that they are in pixels.
        self._pixel_boxes: set[Path] = set()

    def begin(self) -> None:
        """Begin with another loader, whose boxes may be of another unit."""
        self._pixel_boxes.clear()

    def read(self, batch: Any, form: Any = None) -> BatchContent:
        """Find a batch's images; labels and the like are looked for when they are asked for.

        Args:
            batch: A batch in any form.
            form: Which parts of the batch come from different loaders, see ``batch_form``; ``None``: not known, the
                batch's own structure tells.

        Raises:
            NoImagesError: If there are no images, as in the batches of a second loader of texts.
            BatchError: If there are none under ``image_key``, which the batch has, or they seem to be clips
                ``[B, T, C, H, W]``.
        """
        read = [self._read(batch, path, part) for path, part in _branches(batch, form)]
        content = _first_labelled([content for content in read if content is not None])
        if content is None:
            raise self._nothing(batch)
        _check_clips(content)
        return content

    def say(self, message: str) -> None:
        """Warn, once."""
        if message not in self._said:
            self._said.add(message)
            warnings.warn(message, stacklevel=2)

    def _read(self, batch: Any, branch: Path, part: Any) -> BatchContent | None:
        """What is in a branch, or ``None`` where it has no images."""
        nodes = [Node((*branch, *node.path), node.value, len(branch)) for node in walk(part)]
        candidates = image_candidates(nodes, self.volumes)
        key = self.keys.image
        chosen: list[Node] = []
        if key is not None:
            for root, start in ((batch, ()), (part, branch)):
                value, inner = follow(root, key)
                path = (*start, *inner)
                if not chosen and holds_images(value, self.volumes) and path[: len(branch)] == branch:
                    chosen = [Node(path, value)]
        elif candidates:
            chosen = [node for node in candidates if standing(node)[:2] == standing(candidates[0])[:2]]
        contents = [
            BatchContent(batch, branch, nodes, candidates, node, self.keys, self.say, self._pixel_boxes)
            for node in chosen
        ]
        return _first_labelled(contents)

    def _nothing(self, batch: Any) -> BatchError:
        key = self.keys.image
        if key is None:
            remedy = "Say where they are with image_key, for example image_key='inputs.image' or image_key=0."
            if any(is_batch_of_volumes(node.value) for node in walk(batch)):
                remedy += _FLAT_ALONE
            if almost := _almost(node.value for node in walk(batch)):
                remedy += f" {almost}"
            return NoImagesError(f"Found no images [B, C, H, W] in the batch, which is {describe(batch)}. {remedy}")
        # Where there are no images at all, it is another loader's batch; where there are, the key is wrong.
        kind = BatchError if image_candidates(list(walk(batch)), self.volumes) else NoImagesError
        found = follow(batch, key)[0]
        return kind(
            f"Expected images [B, C, H, W] under image_key={key!r}, but found {describe(found)}. "
            f"The batch is {describe(batch)}.{_FLAT_ALONE if is_batch_of_volumes(found) else ''}"
            f"{' ' if (almost := _almost([found])) else ''}{almost}"
        )


def _almost(values: Iterable[Any]) -> str:
    """What keeps the first tensor that might hold images from being taken for them; empty where there is none."""
    for value in values:
        if not isinstance(value, Tensor) or value.is_nested or value.ndim not in (3, 4) or min(value.shape[-2:]) < 5:
            continue
        shape = f"The tensor {list(value.shape)}"
        if value.ndim == 4 and not value.is_floating_point() and value.dtype != torch.uint8:
            return (
                f"{shape} of {value.dtype} is not taken for images, which may be class numbers as well. Give floating-"
                "point images, for example images.float(), or bytes (uint8)."
            )
        if value.ndim == 3 and value.is_floating_point():
            return f"{shape} has no channels. Give images [B, 1, H, W], for example images.unsqueeze(1)."
    return ""


def _check_clips(content: BatchContent) -> None:
    """Raise for tensors of five dimensions that have more channels than a picture, and as many slices as colours."""
    shape = content.held[0].shape
    if len(shape) == 5 and content.layout == "NCHW" and shape[1] > 4 and shape[2] in (1, 3):
        raise BatchError(
            f"Got images {list(shape)}, which seem to be clips [B, T, C, H, W]. Allowed are [B, C, T, H, W]; permute "
            "them in the data set (clip.permute(1, 0, 2, 3)), and back in the network if it takes frames first."
        )


def find_images(batch: Any, key: str | int | None = None) -> Tensor:
    """The images of a batch, see `BatchReader`.

    Args:
        batch: A batch in any form.
        key: Place of the images; ``None`` searches.

    Returns:
        ``[B, C, H, W]``, floating point or uint8, or ``[B, H, W, C]`` where the batch has them like that.

    Raises:
        BatchError: If there are none, or they differ in size.

    Example:
        >>> import torch
        >>> find_images({"label": torch.zeros(2), "image": torch.rand(2, 3, 8, 8)}).shape
        torch.Size([2, 3, 8, 8])
    """
    return BatchReader(key).read(batch).images


def find_labels(batch: Any, count: int) -> Tensor | None:
    """The classes ``[count]`` of a batch's images, see `BatchContent.labels`; ``None`` where it carries none.

    Args:
        batch: A batch in any form, also one without images.
        count: B.
    """
    try:
        content = BatchReader().read(batch)
    except NoImagesError:
        groups = groups_of_labels([list(walk(batch))])
        return next((labels for group in groups for labels in vectors(group, count)), None)
    return content.labels() if content.count == count else None


def find_classes(batch: Any, count: int) -> Tensor | None:
    """The class ``[count]`` of each of a batch's images, see `BatchContent.classes`; ``None`` without labels."""
    try:
        content = BatchReader().read(batch)
    except NoImagesError:
        return None
    return content.classes() if content.count == count else None


def find_objects(batch: Any, size: tuple[int, int], box_format: str = "xyxy") -> Tensor | None:
    """The regions ``[B, H, W]`` of the objects of a batch's images of size (H, W), see `BatchContent.objects`."""
    try:
        return BatchReader(box_format=box_format).read(batch).objects(size)
    except NoImagesError:
        return None


def _first_labelled(contents: Sequence[BatchContent]) -> BatchContent | None:
    return next((content for content in contents if content.is_labelled), contents[0] if contents else None)


def _branches(batch: Any, form: Any, path: Path = ()) -> list[tuple[Path, Any]]:
    """The parts of a batch that different loaders made; the whole of it where it has not that form."""
    if form is None:
        return [(path, batch)]
    parts = dict(children(batch) or ())
    named = form.items() if isinstance(form, Mapping) else enumerate(form)
    inner = {str(name) if isinstance(form, Mapping) else name: one for name, one in named}
    if parts.keys() != inner.keys():
        return [(path, batch)]
    return [branch for name, one in inner.items() for branch in _branches(parts[name], one, (*path, name))]
