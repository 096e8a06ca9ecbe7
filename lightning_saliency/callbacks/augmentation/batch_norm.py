"""BatchNorm statistics of the images as they came, while the network trains on others."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.modules.batchnorm import _BatchNorm
from torch.utils.hooks import RemovableHandle

from lightning_saliency.callbacks._trainer_lookups import is_compiled
from lightning_saliency.callbacks.augmentation.options import AugmentationConfigurationError
from lightning_saliency.scales.tracing.hooks import Hook

TRAINED_ON, ORIGINAL = "trained_on", "original"


@dataclass
class _Kept:
    """What a BatchNorm is to keep: its own buffers may not change before the backward pass."""

    mean: Tensor
    var: Tensor
    count: int


class SharpStatistics:
    """Lets the running statistics of a network's BatchNorms see only those images of a batch that are as they came.

    In a training pass a BatchNorm normalises by the statistics of the whole batch, as ever; only what it keeps for
    evaluation is taken from the unchanged images. From a batch without any it keeps nothing. One whose input has not a
    row an image (patches or frames folded into the batch, two views of each image) keeps statistics of all that it
    sees in this step, since it is not known which rows are of which image.

    Attributes:
        unknown: The name of the first such BatchNorm since `open`, its input's rows and the batch's images; ``None``
            where there is none.

    Example:
        >>> norm, statistics = nn.BatchNorm1d(1, momentum=1.0), SharpStatistics()
        >>> statistics.open(norm, torch.tensor([True, True, False]))
        >>> _ = norm(torch.tensor([[1.0], [3.0], [100.0]]))
        >>> statistics.close()
        >>> norm.running_mean.item(), norm.running_var.item()
        (2.0, 2.0)
    """

    def __init__(self) -> None:
        self._handles: list[RemovableHandle] = []
        self._sharp = torch.zeros(0, dtype=torch.bool)
        self._kept: dict[_BatchNorm, _Kept] = {}
        self._names: dict[_BatchNorm, str] = {}
        self._left: set[_BatchNorm] = set()
        self.unknown: tuple[str, int, int] | None = None

    def __getstate__(self) -> dict[str, Any]:
        """For copies of a network that are made while it is watched, and pickles of it: their BatchNorms are not."""
        return vars(SharpStatistics())

    def check(self, network: nn.Module) -> None:
        """Raise an error for a network whose BatchNorms cannot be watched.

        Raises:
            AugmentationConfigurationError: If it is compiled, or its BatchNorms are synchronised between processes.
        """
        if is_compiled(network) or any(isinstance(each, nn.SyncBatchNorm) for each in network.modules()):
            raise AugmentationConfigurationError(
                f"Got batch_norm={ORIGINAL!r} for a network that is compiled or has SyncBatchNorm. Allowed are those "
                f"that run eagerly with BatchNorms of their own; take batch_norm={TRAINED_ON!r}, or renew the "
                "statistics after training with torch.optim.swa_utils.update_bn."
            )

    def open(self, network: nn.Module, sharp: Tensor) -> None:
        """Until `close`, take statistics from these images of the batch alone.

        Args:
            network: The network.
            sharp: ``[B]`` bool, which of the images are as they came.
        """
        self.close()
        self._sharp, self.unknown = sharp, None
        self._names = {module: name for name, module in network.named_modules() if isinstance(module, _BatchNorm)}
        for module in self._names:
            self._handles.append(Hook.on(module.register_forward_pre_hook, self._keep))
            self._handles.append(Hook.on(module.register_forward_hook, self._take, with_kwargs=True))

    def close(self) -> None:
        """Take the statistics over, and let BatchNorms see whole batches again. Called after the backward pass."""
        for handle in self._handles:
            handle.remove()
        for module, kept in self._kept.items():
            for own, value in (
                (module.running_mean, kept.mean),
                (module.running_var, kept.var),
                (module.num_batches_tracked, torch.tensor(kept.count)),
            ):
                if own is not None:
                    own.copy_(value)
        self._handles, self._kept, self._names, self._left = [], {}, {}, set()

    def _keep(self, module: nn.Module, arguments: Any) -> None:
        if not self._handles or not isinstance(module, _BatchNorm) or not module.training:
            return
        if module in self._kept or module in self._left:
            return
        if module.running_mean is not None and module.running_var is not None:
            counted = module.num_batches_tracked
            count = 0 if counted is None else int(counted)
            self._kept[module] = _Kept(module.running_mean.clone(), module.running_var.clone(), count)

    def _take(self, module: nn.Module, arguments: Any, named: Any, output: Any) -> None:
        kept = self._kept.get(module) if isinstance(module, _BatchNorm) and module.training else None
        if kept is None or not isinstance(module, _BatchNorm):
            return
        given = next(value for value in (*arguments, *named.values()) if isinstance(value, Tensor)).detach()
        if len(given) != len(self._sharp):
            # What it has kept itself is right: nothing is put in its place.
            del self._kept[module]
            self._left.add(module)
            self.unknown = self.unknown or (self._names.get(module, ""), len(given), len(self._sharp))
            return
        with torch.no_grad():
            seen = given[self._sharp.to(given.device)]
            if seen.numel() > seen.shape[1]:  # one value a channel has no variance
                kept.count += 1
                momentum = 1 / kept.count if module.momentum is None else module.momentum
                F.batch_norm(seen, kept.mean, kept.var, None, None, True, momentum, module.eps)
