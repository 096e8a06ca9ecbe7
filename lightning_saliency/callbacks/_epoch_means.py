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
        >>> means.add("area", torch.tensor([0.25, 0.75, float("nan")]))
        >>> means.local()
        {'area': 0.5}
    """

    def __init__(self, names: Sequence[str]) -> None:
        self._names = tuple(names)
        # Sum and count of each name, added up on the device where the values are.
        self._totals: dict[str, Tensor] = {}

    def add(self, name: str, values: Tensor, counted: Tensor | None = None) -> None:
        """Take in one value an image, or a single value; values that are NaN or infinite do not count.

        Args:
            name: One of the names.
            values: ``[n]`` or a scalar.
            counted: ``[n]`` bool: which of them count; ``None``: all.
        """
        values = values.detach().reshape(-1)
        good = values.isfinite() if counted is None else values.isfinite() & counted
        # Apple's GPUs have no float64.
        dtype = torch.float32 if values.device.type == "mps" else torch.float64
        new = torch.stack([torch.where(good, values, 0).sum(dtype=dtype), good.sum().to(dtype)])
        total = self._totals.get(name)
        self._totals[name] = new if total is None else total.to(new.device) + new

    def local(self) -> dict[str, float]:
        """The means of this process; names without a value are left out."""
        return self._means(self._vector(torch.device("cpu")))

    def reduced(self, trainer: Any) -> dict[str, float]:
        """The means over all processes; names nobody has a value for are left out. Called on every process alike."""
        return self._means(trainer.strategy.reduce(self._vector(trainer.strategy.root_device), reduce_op="sum"))

    def _vector(self, device: torch.device) -> Tensor:
        dtype = torch.float32 if device.type == "mps" else torch.float64
        vector = torch.zeros(2 * len(self._names), dtype=dtype, device=device)
        for index, name in enumerate(self._names):
            if name in self._totals:
                vector[2 * index : 2 * index + 2] = self._totals[name].to(device=device, dtype=dtype)
        return vector

    def _means(self, vector: Tensor) -> dict[str, float]:
        pairs = vector.reshape(-1, 2).tolist()
        return {name: total / count for name, (total, count) in zip(self._names, pairs, strict=True) if count}
