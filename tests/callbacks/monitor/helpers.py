"""Small modules and data for the callbacks' tests."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytorch_lightning as pl
import torch
from torch import nn
from torch.utils.data import DataLoader, Dataset


class SmallNet(nn.Module):
    """Two scales, with BatchNorm, dropout and in-place ReLUs."""

    def __init__(self, channels: int = 3, classes: int = 4) -> None:
        super().__init__()
        self.features = nn.Sequential(
            nn.Conv2d(channels, 8, 3, padding=1),
            nn.BatchNorm2d(8),
            nn.ReLU(inplace=True),
            nn.MaxPool2d(2),
            nn.Conv2d(8, 16, 3, padding=1),
            nn.BatchNorm2d(16),
            nn.ReLU(inplace=True),
            nn.AdaptiveAvgPool2d(1),
        )
        self.head = nn.Sequential(nn.Flatten(), nn.Dropout(0.3), nn.Linear(16, classes))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(self.features(x))


class Pictures(Dataset):
    """Images ``[C, H, W]`` whose values depend on the index alone."""

    def __init__(
        self, count: int = 16, channels: int = 3, size: int = 16, form: str = "tuple", sizes: tuple = ()
    ) -> None:
        self.count, self.channels, self.size, self.form, self.sizes = count, channels, size, form, sizes

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, index: int):
        generator = torch.Generator().manual_seed(index)
        size = self.sizes[index // 4 % len(self.sizes)] if self.sizes else self.size
        image = torch.rand(self.channels, size, size, generator=generator)
        label = index % 4
        if self.form == "tuple":
            return image, label
        if self.form == "nan":
            return image * float("nan"), label
        if self.form == "features":
            return image.flatten(), label
        return {"image": image, "label": label, "boxes": torch.tensor([[2.0, 2.0, 10.0, 10.0]])}


def loader(count: int = 16, batch_size: int = 4, shuffle: bool = False, workers: int = 0, **options) -> DataLoader:
    return DataLoader(Pictures(count, **options), batch_size=batch_size, shuffle=shuffle, num_workers=workers)


class Module(pl.LightningModule):
    """A classifier that returns its logits from validation."""

    def __init__(self, net: nn.Module | None = None, learning_rate: float = 0.1) -> None:
        super().__init__()
        self.net = SmallNet() if net is None else net
        self.learning_rate = learning_rate
        self.losses: list[float] = []

    def _images_and_labels(self, batch):
        return (batch["image"], batch["label"]) if isinstance(batch, dict) else batch

    def forward(self, x):
        return self.net(x)

    def training_step(self, batch, batch_idx):
        images, labels = self._images_and_labels(batch)
        loss = nn.functional.cross_entropy(self(images), labels)
        self.losses.append(loss.item())
        return loss

    def validation_step(self, batch, batch_idx):
        images, labels = self._images_and_labels(batch)
        logits = self(images)
        self.log("val/loss", nn.functional.cross_entropy(logits, labels))
        return {"logits": logits}

    test_step = validation_step

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=self.learning_rate, momentum=0.9)


class Recorder(pl.loggers.Logger):
    """A logger that keeps scalars, and leaves pictures to the film."""

    def __init__(self, folder) -> None:
        super().__init__()
        self.folder = str(folder)
        self.metrics: list[tuple[int, dict[str, float]]] = []

    name = "recorder"
    version = "v"

    @property
    def save_dir(self):
        return self.folder

    def log_metrics(self, metrics, step=None):
        self.metrics.append((step, dict(metrics)))

    def log_hyperparams(self, params, *args, **kwargs):
        pass

    def values(self, name: str) -> list[tuple[int, float]]:
        return [(step, metrics[name]) for step, metrics in self.metrics if name in metrics]


def trainer(folder, *callbacks, logger=None, epochs: int = 2, package=pl, **options):
    options.setdefault("accelerator", "cpu")
    options.setdefault("devices", 1)
    return package.Trainer(
        default_root_dir=folder,
        max_epochs=epochs,
        logger=logger if logger is not None else Recorder(folder),
        callbacks=list(callbacks),
        enable_progress_bar=False,
        enable_model_summary=False,
        enable_checkpointing=options.pop("enable_checkpointing", False),
        log_every_n_steps=1,
        **options,
    )


def trained(batches: int) -> SimpleNamespace:
    """The loop of a trainer that has trained so many batches."""
    total = SimpleNamespace(processed=batches)
    return SimpleNamespace(epoch_loop=SimpleNamespace(batch_progress=SimpleNamespace(total=total)))


def same(left: np.ndarray, right: np.ndarray) -> bool:
    return left.shape == right.shape and bool((left == right).all())
