"""The fixed sample of a film: which images it shows, and finding them again in every epoch."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from lightning_saliency.batches import fingerprint, same_images
from lightning_saliency.functional.similarity import spearman

#: The ``indices`` of a sample with one image of each class.
ONE_PER_CLASS = "one_per_class"
#: The ``indices`` of a sample with the images of the highest loss.
WORST = "worst"
#: Maps are compared from epoch to epoch on this grid.
_DRIFT_GRID = (56, 56)
_DRIFT_GRID_OF_VOLUMES = (8, 28, 28)


@dataclass
class SampleRecord:
    """One image of the sample as this epoch's forward pass saw it.

    Args:
        image: ``[C, H, W]``, or a volume ``[C, T, H, W]``, as the network got it, on the CPU.
        statistics: The raw map ``[h, w]``, or ``[t, h, w]``, of each scale, on the CPU.
        label: The image's class, if it has one.
        prediction: The class that the network predicted, if the step returned its logits.
        views: The map ``[H, W]``, or ``[T, H, W]``, of each class-specific view, on the CPU.
    """

    image: Tensor
    statistics: list[Tensor]
    label: int | None = None
    prediction: int | None = None
    views: dict[str, Tensor] = field(default_factory=dict)


class FixedSample:
    """Finds the same images in every epoch's batches and gathers what was read of them.

    The first epoch fills the slots with the first images that come by. Later ones look for these images, wherever a
    shuffling loader puts them. Where a whole epoch brought none of them back (random augmentation), the first images of
    each epoch are taken instead, and ``followed`` is false from then on.

    Args:
        size: The number of images.
        follow: Whether images are to be found again; ``False`` takes each epoch's first images.
        indices: Which images the first epoch takes instead of the first ones: numbers in the order in which they come
            by, as many as ``size``; or ``ONE_PER_CLASS``, the first image of each class; or ``WORST``, the images of
            the highest loss of all that come by in the first epoch. These are known at its end only: until then
            `place` offers every image, and `choose` keeps the worst so far.
    """

    def __init__(self, size: int, follow: bool = True, indices: Sequence[int] | str | None = None) -> None:
        self.size = size
        self.followed = follow
        self.indices = None if indices is None or isinstance(indices, str) else tuple(indices)
        self.one_per_class = indices == ONE_PER_CLASS
        self.worst = indices == WORST
        self._classes: set[int] = set()
        self._passed = 0
        # What `place` took anew of the latest batch: slots, and classes.
        self._taken: tuple[list[int], set[int]] = [], set()
        # The worst so far: slot -> loss and fingerprint.
        self._ranked: dict[int, tuple[float, Tensor]] = {}
        # ``None`` for an image that has not come by yet.
        self.fingerprints: list[Tensor | None] = [None] * size
        # The last map of each slot.
        self.drift_maps: dict[int, Tensor] = {}
        self.records: dict[int, SampleRecord] = {}

    @property
    def complete(self) -> bool:
        """Whether nothing more is wanted of this epoch's batches."""
        return len(self.records) >= self.size

    @property
    def chooses(self) -> bool:
        """Whether this epoch has to find out which images are the worst."""
        return self.worst and self.followed and all(known is None for known in self.fingerprints)

    def begin(self) -> None:
        """Forget the last epoch's records."""
        self.records = {}
        self._ranked = {}
        self._passed = 0
        if not self.followed:
            self._classes = set()

    def place(self, images: Tensor | Sequence[Tensor], classes: Sequence[int] | None = None) -> list[tuple[int, int]]:
        """Which rows of a batch belong to the sample, as pairs (row, slot).

        Args:
            images: ``[B, C, H, W]``, or B images ``[C, H, W]``, or volumes ``[B, C, T, H, W]``.
            classes: The images' classes, below 0 for none; ``None``: the batch carries none.

        Raises:
            ValueError: If one image of each class, or the worst ones, are wanted, and the batch carries no classes.
        """
        if (self.one_per_class or self.chooses) and classes is None:
            wanted = WORST if self.worst else ONE_PER_CLASS
            raise ValueError(
                f"Got indices={wanted!r} with batches that carry no classes. Allowed are batches with labels; "
                "say where they are with label_key=, or give the images' numbers with indices=[...]."
            )
        self._taken = [], set()
        if self.chooses:
            return [(row, row) for row in range(len(images))]
        first = self._passed
        self._passed += len(images)
        if self.complete:
            return []
        before = set(self._classes)
        if not self.followed:
            begin = len(self.records) if self.indices is None else 0
            fresh = self._fresh(first, len(images), range(begin, self.size), set(), classes)
            self._taken = [], self._classes - before
            return fresh
        prints = fingerprint(images)
        pairs: list[tuple[int, int]] = []
        taken: set[int] = set()
        for slot, known in enumerate(self.fingerprints):
            if known is not None and slot not in self.records:
                matches = same_images(known[None], prints)[0].nonzero()[:, 0].tolist()
                row = next((row for row in matches if row not in taken), None)
                if row is not None:
                    taken.add(row)
                    pairs.append((row, slot))
        free = [slot for slot, known in enumerate(self.fingerprints) if known is None and not self.worst]
        fresh = self._fresh(first, len(images), free, taken, classes)
        self._taken = [slot for _, slot in fresh], self._classes - before
        for row, slot in fresh:
            self.fingerprints[slot] = prints[row]
        return pairs + fresh

    def release(self) -> None:
        """The latest batch could not be read: others may take the slots that its images took anew."""
        slots, classes = self._taken
        for slot in slots:
            self.fingerprints[slot] = None
        self._classes -= classes
        self._taken = [], set()

    def choose(self, images: Tensor | Sequence[Tensor], losses: Sequence[float]) -> list[tuple[int, int]]:
        """Which rows of a batch are among the worst images so far, as pairs (row, slot); those in their slots go.

        Args:
            images: B images as they were given to `place`.
            losses: The loss of each; −∞ for an image without one, which is not taken.
        """
        rows: dict[int, int] = {}
        for row, loss in enumerate(losses):
            slot = len(self._ranked)
            if slot == self.size:
                slot = min(self._ranked, key=lambda one: self._ranked[one][0])
                if loss <= self._ranked[slot][0]:
                    continue
            if loss > -math.inf:
                self._ranked[slot] = loss, fingerprint(images[row][None])[0]
                self.records.pop(slot, None)
                rows[slot] = row
        return sorted((row, slot) for slot, row in rows.items())

    def _fresh(
        self, first: int, count: int, free: Sequence[int], taken: set[int], classes: Sequence[int] | None
    ) -> list[tuple[int, int]]:
        """Rows of a batch that begins with the ``first`` image of the epoch, for slots that are free."""
        if self.one_per_class and classes is not None:
            rows: list[int] = []
            for row, class_ in enumerate(classes):
                if len(rows) < len(free) and class_ >= 0 and class_ not in self._classes and row not in taken:
                    self._classes.add(class_)
                    rows.append(row)
            return list(zip(rows, free, strict=False))
        if self.indices is None:
            return list(zip((row for row in range(count) if row not in taken), free, strict=False))
        pairs = ((self.indices[slot] - first, slot) for slot in free)
        return sorted((row, slot) for row, slot in pairs if 0 <= row < count and row not in taken)

    def end(self) -> bool:
        """Close an epoch; returns whether the images had to be given up as not coming back."""
        if self.chooses and self._ranked:
            order = sorted(self._ranked, key=lambda slot: -self._ranked[slot][0])
            self.fingerprints[: len(order)] = [self._ranked[slot][1] for slot in order]
            self.records = {place: self.records[slot] for place, slot in enumerate(order) if slot in self.records}
        if self.followed and not self.records and any(known is not None for known in self.fingerprints):
            self.followed = False
            return True
        return False

    def drift(self, combined: Sequence[Tensor]) -> Tensor | None:
        """1 − Spearman correlation of each map with its image's one logged before; remembers the new maps.

        Args:
            combined: The maps ``[h, w]``, or ``[t, h, w]`` of volumes, which are compared as a whole, of `present`.

        Returns:
            ``[n]`` in [0, 2], of the images that came by now and before; ``None`` where there are none.
        """
        maps = {slot: _on_drift_grid(map_.float()) for slot, map_ in zip(self.slots(), combined, strict=True)}
        both = [slot for slot in maps if slot in self.drift_maps]
        value = None
        if both and self.followed:
            before = torch.stack([self.drift_maps[slot] for slot in both])
            value = 1 - spearman(torch.stack([maps[slot] for slot in both]), before)
        self.drift_maps.update(maps)
        return value

    def slots(self) -> list[int]:
        """Of this epoch's records, which images of the film they are: a part of an epoch may miss some."""
        return sorted(self.records)

    def present(self) -> list[SampleRecord]:
        """This epoch's records, in the order of the film."""
        return [self.records[slot] for slot in self.slots()]

    def state_dict(self) -> dict[str, Any]:
        """What a resumed run needs to go on with the same film."""
        return {
            "followed": self.followed,
            "fingerprints": [None if known is None else known.clone() for known in self.fingerprints],
            "drift_maps": {slot: map_.half() for slot, map_ in self.drift_maps.items()},
            "classes": sorted(self._classes),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take up the film where ``state_dict`` left it."""
        self.followed = bool(state["followed"])
        known = list(state["fingerprints"])[: self.size]
        self.fingerprints = known + [None] * (self.size - len(known))
        self.drift_maps = {slot: map_.float() for slot, map_ in state["drift_maps"].items()}
        self._classes = set(state["classes"])


def _on_drift_grid(map_: Tensor) -> Tensor:
    if map_.ndim == 3:
        return F.adaptive_avg_pool3d(map_[None], _DRIFT_GRID_OF_VOLUMES)[0].cpu()
    return F.interpolate(map_[None, None], _DRIFT_GRID, mode="bilinear", antialias=True)[0, 0].cpu()
