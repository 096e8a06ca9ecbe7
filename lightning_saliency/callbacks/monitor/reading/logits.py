"""What the network itself returned in a step, for predictions and losses where the step returns no logits."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from lightning_saliency.batches import find_losses, find_predictions


class NetworkPredictions:
    """Sees the network's outputs during one step, and keeps the classes, and the losses, that they tell."""

    def __init__(self) -> None:
        self._handle: RemovableHandle | None = None
        self._look: _Look | None = None

    def watch(self, network: nn.Module, count: int, labels: Tensor | None = None) -> None:
        """Watch the passes to come.

        Args:
            network: The network; its outputs stay as they are.
            count: Number of images in the batch: other outputs are no logits of it.
            labels: The images' classes, where their losses are asked for.
        """
        self.close()
        self._look = _Look(count, labels)
        self._handle = network.register_forward_hook(self._look)

    def take(self) -> tuple[Tensor | None, Tensor | None]:
        """The predicted classes and the losses of the last pass, ``[count]`` each, ``None`` where nothing tells."""
        look = self._look
        self.close()
        return (None, None) if look is None else (look.found, look.losses)

    def close(self) -> None:
        """Take off the hook."""
        if self._handle is not None:
            self._handle.remove()
        self._handle, self._look = None, None


class _Look:
    """The hook. A copy of the network, or a file that it is pickled to, gets one that looks for nothing."""

    def __init__(self, count: int, labels: Tensor | None = None) -> None:
        self.count, self.labels = count, labels
        self.found: Tensor | None = None
        self.losses: Tensor | None = None

    def __call__(self, _module: nn.Module, _args: object, output: object) -> None:
        """Take the classes of outputs that are those of the batch's images."""
        try:
            with torch.no_grad():
                found = find_predictions(output, self.count) if self.count else None
                losses = None if found is None or self.labels is None else find_losses(output, self.labels)
        except Exception:  # of whatever a network returns; a step must not end for a caption
            return
        if found is not None:
            self.found, self.losses = found.detach(), losses

    def __reduce__(self) -> tuple[type[_Look], tuple[int]]:
        return _Look, (0,)
