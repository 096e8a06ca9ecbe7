"""Any network of timm: its scales are found, and a class-specific map is one more view."""

from __future__ import annotations

import argparse

import pytorch_lightning as pl
import torch
from torch import nn

from lightning_saliency import DigitScenes, SaliencyMonitor

try:
    import timm
except ImportError:
    raise SystemExit("This example needs timm: pip install 'lightning-saliency[timm]'") from None


class TimmModule(pl.LightningModule):
    """Trains a network of timm."""

    def __init__(self, name: str) -> None:
        super().__init__()
        self.net = timm.create_model(name, pretrained=False, num_classes=10)

    def training_step(self, batch: dict[str, torch.Tensor], batch_idx: int) -> torch.Tensor:
        return nn.functional.cross_entropy(self.net(batch["image"]), batch["label"])

    def validation_step(self, batch: dict[str, torch.Tensor], batch_idx: int) -> torch.Tensor:
        logits = self.net(batch["image"])
        self.log("val/accuracy", (logits.argmax(1) == batch["label"]).float().mean(), prog_bar=True)
        return logits

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.AdamW(self.parameters(), lr=2e-3)


def main(
    model: str = "resnet10t", epochs: int = 3, train_size: int = 2000, output: str = "runs/timm_network"
) -> pl.Trainer:
    data = DigitScenes(train_size=train_size, val_size=200)
    monitor = SaliencyMonitor(views=("overview", "fast_cam"))
    trainer = pl.Trainer(max_epochs=epochs, default_root_dir=output, accelerator="auto", callbacks=[monitor])
    trainer.fit(TimmModule(model), data)
    return trainer


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", default="resnet10t", help="one of timm.list_models()")
    parser.add_argument("--epochs", type=int, default=3)
    main(**vars(parser.parse_args()))
