"""Which parts of a batch may be its images."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

from torch import Tensor

from lightning_saliency.batches.names import rank, role
from lightning_saliency.batches.tree import Node, fields, is_batch_of_images, is_batch_of_volumes, is_one_image


def image_candidates(nodes: Sequence[Node], volumes: bool = False) -> list[Node]:
    """The parts of a branch that may be images, the likeliest first: tensors, or where there are none lists of images.

    Args:
        nodes: All parts of the branch.
        volumes: Whether volumes and clips count, too, unless their name says something else.
    """
    deep = [
        node for node in nodes if volumes and is_batch_of_volumes(node.value) and role(node.name) in ("image", None)
    ]
    flat = [node for node in nodes if is_batch_of_images(node.value)]
    if flat and deep:
        flat = [node for node in nodes if any(node is one for one in (*flat, *deep))]
    elif not flat:
        flat = [*(node for node in nodes if _is_list_of_images(node, nodes)), *deep]
    return sorted(flat, key=standing)


def standing(node: Node) -> tuple[int, bool, int]:
    """How likely a part is the images, the smaller the likelier: by name, floating point or not, how usual the name."""
    kind = role(node.name)
    first = node.value if isinstance(node.value, Tensor) else node.value[0]
    usual = {"image": 0, None: 1}.get(kind, 2)
    return usual, not first.is_floating_point(), rank(node.name) if usual == 0 else 0


def holds_images(value: Any, volumes: bool = False) -> bool:
    """Whether this is a tensor of images, or a list of them; where they count, or of volumes."""
    return is_batch_of_images(value) or _are_alike(value) or (volumes and is_batch_of_volumes(value))


def layout_of(images: Tensor) -> Literal["NCHW", "NHWC"]:
    """Where the channels of images, volumes or one image are: first, unless only the last side is one of colours.

    Example:
        >>> import torch
        >>> layout_of(torch.zeros(2, 3, 32, 32)), layout_of(torch.zeros(2, 32, 32, 3))
        ('NCHW', 'NHWC')
    """
    first, height, last = images.shape[-3:]
    colours = last in (3, 4) or (last == 1 and first == height)
    return "NHWC" if colours and first > 4 and height > 4 else "NCHW"


def channels(value: Any) -> int:
    """Number of channels of a tensor or list of images, or of a tensor of volumes."""
    images = value if isinstance(value, Tensor) else value[0]
    return int(images.shape[-1] if layout_of(images) == "NHWC" else images.shape[-4 if images.ndim == 5 else -3])


def _are_alike(value: Any) -> bool:
    return (
        isinstance(value, (list, tuple))
        and len(value) > 0
        and all(map(is_one_image, value))
        and len({channels(image) for image in value}) == 1
    )


def _is_list_of_images(node: Node, nodes: Sequence[Node]) -> bool:
    """Whether a list of tensors is one of images: by its name, or by one thing more for each of them beside it."""
    kind = role(node.name)
    if not _are_alike(node.value) or kind not in ("image", None):
        return False
    if kind == "image":
        return True
    if not node.inside:
        # A batch that is a list of images; three-dimensional features of a data set look alike but for their channels.
        return len(node.value) > 1 and channels(node.value) in (1, 3)
    return any(
        len(other.path) == len(node.path)
        and other.path[:-1] == node.path[:-1]
        and other is not node
        and _tells_one_thing_each(other.value, len(node.value))
        for other in nodes
    )


def _tells_one_thing_each(value: Any, count: int) -> bool:
    if isinstance(value, Tensor):
        return value.ndim == 1 and len(value) == count > 1
    return (
        isinstance(value, (list, tuple))
        and len(value) == count
        and all(
            item.ndim == 0 if isinstance(item, Tensor) else isinstance(item, (int, str)) or fields(item) is not None
            for item in value
        )
    )
