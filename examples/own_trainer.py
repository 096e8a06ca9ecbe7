"""The monitor in a Trainer of one's own: one line more."""

from __future__ import annotations

import argparse

import pytorch_lightning as pl
import torch
from torch import nn

from lightning_saliency import DigitScenes, SaliencyMonitor


class OwnModule(pl.LightningModule):
    """Any module whose validation runs its network."""

    def __init__(self) -> None:
        super().__init__()
        self.net = nn.Sequential(
            *(nn.Conv2d(3, 16, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2)),
            *(nn.Conv2d(16, 32, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2)),
            *(nn.Conv2d(32, 64, 3, padding=1), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(64, 10)),
        )

    def training_step(self, batch: dict[str, torch.Tensor], batch_idx: int) -> torch.Tensor:
        return nn.functional.cross_entropy(self.net(batch["image"]), batch["label"])

    def validation_step(self, batch: dict[str, torch.Tensor], batch_idx: int) -> torch.Tensor:
        return self.net(batch["image"])

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.Adam(self.parameters(), lr=2e-3)


def main(epochs: int = 3, train_size: int = 2000, output: str = "runs/own_trainer") -> pl.Trainer:
    data = DigitScenes(train_size=train_size, val_size=200)
    trainer = pl.Trainer(max_epochs=epochs, default_root_dir=output, accelerator="auto", callbacks=[SaliencyMonitor()])
    trainer.fit(OwnModule(), data)
    return trainer


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--epochs", type=int, default=3)
    main(parser.parse_args().epochs)
