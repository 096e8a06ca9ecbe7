"""Which parts of a batch belong to its images."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from lightning_saliency.batches.images import channels
from lightning_saliency.batches.names import role
from lightning_saliency.batches.tree import Node


def beside(images: Node, nodes: Sequence[Node], candidates: Sequence[Node]) -> list[list[Node]]:
    """What is beside the images: in their container, in the one round it, and so on.

    A container with other images of the same number of channels is another branch, and left out with all that is in it.

    Args:
        images: The images; they are looked at from the container of their branch.
        nodes: All parts of the branch.
        candidates: Those that may be images.

    Returns:
        For each container, from the innermost outwards, its parts that are in none before, as seen from it.
    """
    path = images.path
    scopes = []
    for depth in range(len(path) - 1, images.depth - 1, -1):
        foreign = {
            other.path[: depth + 1]
            for other in candidates
            if len(other.path) > depth + 1
            and other.path[:depth] == path[:depth]
            and other.path[: depth + 1] != path[: depth + 1]
            and channels(other.value) == channels(images.value)
            and role(replace(other, depth=depth).name) not in ("mask", "box", "other")
        }
        scopes.append(
            [
                replace(node, depth=depth)
                for node in nodes
                if len(node.path) > depth
                and node.path[:depth] == path[:depth]
                and node.path[: depth + 1] != path[: depth + 1]
                and node.path[: depth + 1] not in foreign
            ]
        )
    return scopes
