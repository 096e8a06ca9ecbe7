"""The images of one batch, and what belongs to them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import torch
from torch import Tensor
from torchvision import tv_tensors

from lightning_saliency.batches.images import channels
from lightning_saliency.batches.labels import as_vector, groups_of_labels, is_vector, looks_labelled, tensor_of
from lightning_saliency.batches.names import box_format, role
from lightning_saliency.batches.objects import box_regions, mask_regions
from lightning_saliency.batches.pixels import BatchImages
from lightning_saliency.batches.scopes import beside
from lightning_saliency.batches.tree import BatchError, Node, Path, describe, dotted, follow
from lightning_saliency.functional.class_labels import label_classes, main_classes, no_classes


@dataclass(frozen=True)
class Keys:
    """Where a reader was told to look, see `BatchReader`."""

    image: str | int | None
    label: str | int | None
    index: str | int | None
    box_format: str
    ignore_index: int | None


class BatchContent(BatchImages):
    """The images of one batch, and what belongs to them.

    What belongs to images is searched for from the innermost container that holds them outwards, and never in a
    container with other images of the same number of channels: that is another branch.

    Args:
        batch: The batch.
        branch: Where the part of the batch lies that one loader made.
        nodes: All parts of the branch.
        candidates: Those that may be images.
        images: The one that is taken.
        keys: Where to look.
        say: Called with warnings.
    """

    def __init__(
        self,
        batch: Any,
        branch: Path,
        nodes: Sequence[Node],
        candidates: Sequence[Node],
        images: Node,
        keys: Keys,
        say: Callable[[str], None],
        pixel_boxes: set[Path],
    ) -> None:
        super().__init__(images.value)
        self.batch = batch
        self.branch = branch
        self.path = images.path
        self._nodes = nodes
        self._candidates = candidates
        self._keys = keys
        self._say = say
        self._pixel_boxes = pixel_boxes

    # --- labels -------------------------------------------------------------------------------------------------------

    @cached_property
    def is_labelled(self) -> bool:
        """Whether something beside the images looks like their labels."""
        if self._keys.label is not None:
            return self._at(self._keys.label)[0] is not None
        return looks_labelled(self._scopes, self.count)

    def labels(self) -> Tensor | None:
        """The images' classes ``[B]`` int64; ``None`` where there are none.

        Whole numbers ``[B]``, ``[B, 1]`` or a list of them: under a name of labels, or beside the images without a
        name, or in a container of labels; then under any name but that of indices.

        Raises:
            BatchError: If there is something else under ``label_key``.
        """
        key = self._keys.label
        if key is not None:
            value = self._at(key)[0]
            found = as_vector(value, self.count)
            self._say_missing(key, value)
            if value is not None and found is None:
                raise BatchError(
                    f"Found no integer labels [{self.count}] under label_key={key!r} but {describe(value)}. The batch "
                    f"is {describe(self.batch)}."
                )
            return found
        for group in groups_of_labels(self._scopes):
            fitting = self._vectors(group)
            if fitting:
                self._say_which("labels", "label_key", fitting)
                return as_vector(fitting[0].value, self.count)
        return None

    def ground_truth(self) -> Tensor:
        """The images' classes, or the weights of theirs, see ``label_classes``.

        Returns:
            ``[B]`` int64, a class an image, -1 for none; or ``[B, N]`` float32 in [0, 1], the weight of each class
            (multi-label and soft labels).

        Raises:
            BatchError: If there is neither.

        Example:
            >>> from lightning_saliency.batches import BatchReader
            >>> images = torch.rand(1, 3, 8, 8)
            >>> BatchReader().read({"image": images, "target": torch.tensor([[1.0, 0.0, 1.0]])}).ground_truth()
            tensor([[1., 0., 1.]])
        """
        return self.truth_and_place()[0]

    def truth_and_place(self) -> tuple[Tensor, Path]:
        """The ground truth, and where in the batch the labels are that it was read from.

        Raises:
            BatchError: As for `ground_truth`.
        """
        key = self._keys.label
        for group in self._groups():
            # Classes or weights of each class before a number an image, which may be anything.
            likely = [node for node in group if is_vector(node.value, self.count) or node.value.ndim == 2]
            for node in (*likely, *(node for node in group if node not in likely)):
                truth = label_classes(node.value, self.count)
                if truth is not None:
                    if is_vector(node.value, self.count) and key is None:
                        self._say_which("labels", "label_key", self._vectors(group))
                    return truth, node.path
        told = "" if key is None else f" under label_key={key!r}"
        raise BatchError(
            f"Found no ground truth for the {self.count} images of the batch{told}, which is {describe(self.batch)}. "
            "Allowed are integer classes [B], weights [B, N] in [0, 1] and masks [B, H, W] of classes; say where they "
            "are with label_key=, for example label_key='target' or label_key=1, or where they are whole numbers in "
            "floating point, convert them with .long()."
        )

    def classes(self) -> Tensor | None:
        """The class of each image, ``[B]`` int64, -1 for an image without one; ``None`` where there are no labels.

        Integers come first, then labels in the other forms that ``main_classes`` knows, masks being the last; then
        numbers that are no classes: -1 − N for N of them, see ``no_classes``.

        Example:
            >>> from lightning_saliency.batches import BatchReader
            >>> images = torch.rand(2, 3, 8, 8)
            >>> [BatchReader().read((images, torch.tensor(labels))).classes() for labels in ([4, 2], [[1.0], [0.0]])]
            [tensor([4, 2]), tensor([1, 0])]
        """
        labels = self.labels() if self._keys.label is None else None
        if labels is not None:
            return main_classes(labels, self.count)
        for read in (main_classes, no_classes):
            for group in self._groups():
                for node in group:
                    found = read(node.value, self.count)
                    if found is not None:
                        return found
        return None

    def _groups(self) -> list[list[Node]]:
        """The tensors that may be labels, the likeliest first: vectors and matrices, then masks."""
        key = self._keys.label
        if key is not None:
            value, path = self._at(key)
            self._say_missing(key, value)
            groups = [[Node(path, value)]]
        else:
            index = self._at(self._keys.index)[1] if self._keys.index is not None else None
            views = [node.value for node in self._candidates if channels(node.value) == channels(self._images)]
            masks = ([node for node in scope if role(node.name) == "mask"] for scope in self._scopes)
            groups = [
                [node for node in group if node.path != index and not any(node.value is view for view in views)]
                for group in (*groups_of_labels(self._scopes), *masks)
            ]
        tensors = [
            [replace(node, value=tensor) for node in group if (tensor := tensor_of(node.value, self.count)) is not None]
            for group in groups
        ]
        flat = [[node for node in group if node.value.ndim < 3] for group in tensors]
        return [*flat, *([node for node in group if node.value.ndim >= 3] for group in tensors)]

    def _say_missing(self, key: str | int, value: Any) -> None:
        if value is None:
            self._say(f"There is nothing under label_key={key!r} in the batch, which is {describe(self.batch)}.")

    # --- indices and objects ------------------------------------------------------------------------------------------

    def indices(self) -> Tensor:
        """The images' indices in their data set, ``[B]`` int64 on the CPU.

        Raises:
            BatchError: If there are none.
        """
        key = self._keys.index
        if key is not None:
            found = as_vector(self._at(key)[0], self.count)
        else:
            named = [node for scope in self._scopes for node in scope if role(node.name) == "index"]
            rest = [node for group in groups_of_labels(self._scopes) for node in self._vectors(group)]
            # Of vectors without a name of indices, the one that is not taken for the labels.
            fitting = [node for node in named if is_vector(node.value, self.count)] or (
                [node for node in rest if node.path != self._at(self._keys.label)[1]]
                if self._keys.label is not None
                else rest[1:]
            )
            self._say_which("indices", "index_key", fitting)
            found = as_vector(fitting[0].value, self.count) if fitting else None
        if found is None:
            told = "" if key is None else f" under index_key={key!r}"
            raise BatchError(
                f"Found no integer indices [{self.count}]{told} in the batch, which is {describe(self.batch)}. "
                "Let the data set hand out each image's index, and say where it is with index_key=, for example "
                "index_key='index'."
            )
        return found.cpu()

    def objects(self, size: Sequence[int] | None = None) -> Tensor | None:
        """The regions of the objects of each image, from its masks or else its boxes.

        They are found by their names (``masks``, ``boxes``, …) or as torchvision's ``Mask`` and ``BoundingBoxes``, as
        tensors or as one an image, see `mask_regions` and `box_regions`.

        Args:
            size: ``(H, W)`` of the images, or ``(T, H, W)`` of volumes; ``None``: their own.

        Returns:
            ``[B, H, W]`` bool, the union of each image's objects; ``None`` where the batch carries none of that size,
            or the images are of different sizes. Of volumes ``[B, T, H, W]``, from masks of their own size alone: a
            warning says that others, and boxes, are passed over.
        """
        if size is None and len({image.shape for image in self.held}) > 1:
            return None
        size = self.size if size is None else size
        beside = [node for scope in self._scopes for node in scope]
        for node in beside:
            if role(node.name) == "mask" or _are(node.value, tv_tensors.Mask):
                found = mask_regions(node.value, self.count, size, self._keys.ignore_index)
                if found is not None:
                    return found
                self._say_flat(node, size)
        for node in beside:
            if role(node.name) == "box" or _are(node.value, tv_tensors.BoundingBoxes):
                self._say_flat(node, size)
                if len(size) > 2:
                    continue
                form = box_format(node.name) or self._keys.box_format
                known = node.path in self._pixel_boxes
                found = box_regions(node.value, self.count, (size[0], size[1]), form, known)
                if found is not None:
                    # Looking at the numbers means to wait for a GPU: the first batch with a box beyond the first pixel
                    # tells for all.
                    if not known and bool(found.flatten(1)[:, 1:].any()):
                        self._pixel_boxes.add(node.path)
                    return found
        return None

    def rows(self) -> list[Node]:
        """The parts of the branch beside the images that hold something for each: tensors ``[B, …]`` and lists of B.

        What lies under several names is one part.
        """
        found: list[Node] = []
        for node in self._nodes:
            held = isinstance(node.value, list) or (isinstance(node.value, Tensor) and node.value.ndim > 0)
            if not held or node.path == self.path[: len(node.path)] or len(node.value) != self.count:
                continue
            if node.value is self._images or any(node.value is other.value for other in found):
                continue
            if not any(node.path[: len(other.path)] == other.path for other in found):
                found.append(node)
        return found

    # --- what belongs to the images -----------------------------------------------------------------------------------

    @cached_property
    def _scopes(self) -> list[list[Node]]:
        return beside(Node(self.path, self._images, len(self.branch)), self._nodes, self._candidates)

    def _at(self, key: str | int | None) -> tuple[Any, Path]:
        """What is at a key, in the batch or in the branch, and where."""
        if key is None:
            return None, ()
        value, path = follow(self.batch, key)
        if value is None and self.branch:
            value, inner = follow(follow(self.batch, dotted(self.branch))[0], key)
            path = (*self.branch, *inner)
        return value, path

    def _vectors(self, group: Sequence[Node]) -> list[Node]:
        """Those of some nodes that hold a whole number an image; indices whose place is known are none of them."""
        given = self._at(self._keys.index)[1] if self._keys.index is not None else None
        fitting = [node for node in group if is_vector(node.value, self.count) and node.path != given]
        return sorted(fitting, key=lambda node: getattr(node.value, "dtype", None) == torch.bool)

    def _say_flat(self, node: Node, size: Sequence[int]) -> None:
        """Warn of objects of which it is not known in which slices of a volume they are."""
        if len(size) > 2:
            self._say(
                f"The objects under {dotted(node.path)!r}, {describe(node.value)}, are passed over. Allowed are masks "
                f"of the volumes' own size, [B, {', '.join(map(str, size))}]; boxes do not say in which slices they "
                "are."
            )

    def _say_which(self, what: str, option: str, fitting: Sequence[Node]) -> None:
        """Warn where there was a choice."""
        if len(fitting) > 1:
            listed = ", ".join(f"{dotted(node.path)!r} ({describe(node.value)})" for node in fitting)
            self._say(
                f"Several parts of the batch may be the {what}: {listed}. The first is taken; say which it is with "
                f"{option}={dotted(fitting[0].path)!r} or another."
            )


def _are(value: Any, kind: type) -> bool:
    """Whether a value is of a kind, or a sequence of such values."""
    listed = value if isinstance(value, (tuple, list)) else [value]
    return bool(listed) and all(isinstance(item, kind) for item in listed)
