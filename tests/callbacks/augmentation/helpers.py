"""What the augmentation's tests share: modules that keep what they were trained on, and runs to compare."""

from __future__ import annotations

import random
from typing import Any

import numpy as np
import pytorch_lightning as pl
import torch
from torch import nn
from torch.utils.data import DataLoader

from lightning_saliency.callbacks import GroupCAMAugmentation
from tests.callbacks.monitor.helpers import Module, Pictures, SmallNet, loader, trainer


class Watching(Module):
    """Keeps the images that its training steps were given."""

    def __init__(self, net: nn.Module | None = None, learning_rate: float = 0.1) -> None:
        if net is None:
            with torch.random.fork_rng():
                torch.manual_seed(0)
                net = SmallNet()
        super().__init__(net, learning_rate)
        self.given: list[torch.Tensor] = []
        if learning_rate == 0:  # then nothing at all is to change, neither weights nor statistics
            for module in self.modules():
                if isinstance(module, nn.BatchNorm2d):
                    module.momentum = 0.0

    def training_step(self, batch: Any, batch_idx: int) -> torch.Tensor:
        self.given.append(self._images_and_labels(batch)[0].detach().clone())
        return super().training_step(batch, batch_idx)


def originals(count: int = 16, size: int = 16) -> torch.Tensor:
    data = Pictures(count, size=size)
    return torch.stack([data[index][0] for index in range(count)])


def quiet(**settings: Any) -> GroupCAMAugmentation:
    return GroupCAMAugmentation(groups=4, film=False, **settings)


def fit(folder: Any, callback: pl.Callback | None, module: pl.LightningModule, data: Any = None, **options: Any):
    options.setdefault("epochs", 1)
    pl.seed_everything(7, workers=True)
    callbacks = options.pop("callbacks", [callback] if callback is not None else [])
    checkpoint = options.pop("ckpt_path", None)
    run = trainer(folder, *callbacks, **options)
    run.fit(module, loader() if data is None else data, ckpt_path=checkpoint)
    return run


def state(module: Watching, run: pl.Trainer) -> dict[str, Any]:
    """Everything about a run that another one can be compared by."""
    return {
        "weights": module.state_dict(),
        "optimizer": run.optimizers[0].state_dict()["state"],
        "losses": module.losses,
        "given": module.given,
        "torch": torch.get_rng_state(),
        "numpy": np.random.get_state()[1].tolist(),  # noqa: NPY002
        "python": random.getstate(),
        "flags": [m.training for m in module.modules()],
        "hooks": [(len(m._forward_hooks), len(m._forward_pre_hooks)) for m in module.modules()],
        "requires": [p.requires_grad for p in module.parameters()],
        "gradients": [p.grad for p in module.parameters()],
    }


def equal(left: Any, right: Any) -> bool:
    if isinstance(left, torch.Tensor):
        return isinstance(right, torch.Tensor) and torch.equal(left, right)
    if isinstance(left, dict):
        return left.keys() == right.keys() and all(equal(left[key], right[key]) for key in left)
    if isinstance(left, (list, tuple)):
        return len(left) == len(right) and all(map(equal, left, right))
    return bool(left == right)


class Batches(torch.utils.data.IterableDataset):
    """Hands out whole batches that it keeps, as a data set that lies on the device does."""

    def __init__(self, batches: list[Any]) -> None:
        self.batches = batches

    def __iter__(self):
        return iter(self.batches)


def ready_made(batches: list[Any]) -> DataLoader:
    return DataLoader(Batches(batches), batch_size=None)


__all__ = ["Batches", "SmallNet", "Watching", "equal", "fit", "originals", "quiet", "ready_made", "state"]
