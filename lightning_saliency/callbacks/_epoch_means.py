"""Means over an epoch and over all processes, summed on the device and reduced in one fixed vector."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor


class EpochMeans:
    """Sums and counts by name.

    Every process reduces the same vector, whether or not it saw anything, so that no process waits for another.

    Args:
        names: What is averaged.

    Example:
        >>> means = EpochMeans(["area", "drift"])
        >>> means.add("area", torch.tensor([0.25, 0.75]))
        >>> means.local()
        {'area': 0.5}
    """

    def __init__(self, names: Sequence[str]) -> None:
        self._sums: dict[str, list[Tensor]] = {name: [] for name in names}
        self._counts: dict[str, int] = dict.fromkeys(names, 0)

    def add(self, name: str, values: Tensor, count: int | None = None) -> None:
        """Take in one value an image, or a single value; ``count`` of them count, all if it is ``None``."""
        values = values.detach().reshape(-1)
        self._sums[name].append(values.sum())
        self._counts[name] += values.numel() if count is None else count

    def local(self) -> dict[str, float]:
        """The means of this process; names without a value are left out."""
        return self._means(self._vector(torch.device("cpu")))

    def reduced(self, trainer: Any) -> dict[str, float]:
        """The means over all processes; names nobody has a value for are left out. Called on every process alike."""
        return self._means(trainer.strategy.reduce(self._vector(trainer.strategy.root_device), reduce_op="sum"))

    def _vector(self, device: torch.device) -> Tensor:
        # Apple's GPUs have no float64.
        dtype = torch.float32 if device.type == "mps" else torch.float64
        vector = torch.zeros(2 * len(self._sums), dtype=dtype, device=device)
        for index, (name, sums) in enumerate(self._sums.items()):
            if sums:
                vector[2 * index] = torch.stack([value.to(device) for value in sums]).to(dtype).sum()
                vector[2 * index + 1] = self._counts[name]
        return vector

    def _means(self, vector: Tensor) -> dict[str, float]:
        pairs = vector.reshape(-1, 2).tolist()
        return {name: total / count for name, (total, count) in zip(self._sums, pairs, strict=True) if count}
