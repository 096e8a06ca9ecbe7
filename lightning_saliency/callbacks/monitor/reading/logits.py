"""What the network itself returned in a step, for the predictions where the step returns no logits."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from lightning_saliency.batches import find_predictions


class NetworkPredictions:
    """Sees the network's outputs during one step, and keeps the classes that they tell."""

    def __init__(self) -> None:
        self._handle: RemovableHandle | None = None
        self._look: _Look | None = None

    def watch(self, network: nn.Module, count: int) -> None:
        """Watch the passes to come.

        Args:
            network: The network; its outputs stay as they are.
            count: Number of images in the batch: other outputs are no logits of it.
        """
        self.close()
        self._look = _Look(count)
        self._handle = network.register_forward_hook(self._look)

    def take(self) -> Tensor | None:
        """The predicted classes ``[count]`` of the last pass over the batch, ``None`` where nothing tells."""
        found = None if self._look is None else self._look.found
        self.close()
        return found

    def close(self) -> None:
        """Take off the hook."""
        if self._handle is not None:
            self._handle.remove()
        self._handle, self._look = None, None


class _Look:
    """The hook. A copy of the network, or a file that it is pickled to, gets one that looks for nothing."""

    def __init__(self, count: int) -> None:
        self.count = count
        self.found: Tensor | None = None

    def __call__(self, _module: nn.Module, _args: object, output: object) -> None:
        """Take the classes of outputs that are those of the batch's images."""
        try:
            with torch.no_grad():
                found = find_predictions(output, self.count) if self.count else None
        except Exception:  # of whatever a network returns; a step must not end for a caption
            return
        if found is not None:
            self.found = found.detach()

    def __reduce__(self) -> tuple[type[_Look], tuple[int]]:
        return _Look, (0,)
