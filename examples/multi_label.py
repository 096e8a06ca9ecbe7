"""Several classes an image: two digits side by side, labels of zeros and ones."""

from __future__ import annotations

import argparse

import pytorch_lightning as pl
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader

from lightning_saliency import DigitScenes, SaliencyMonitor
from lightning_saliency.networks import small_cnn


def side_by_side(samples: list[dict[str, Tensor]]) -> dict[str, Tensor]:
    """A batch in which each image is two samples', and its label tells both classes."""
    pairs = list(zip(samples[::2], samples[1::2], strict=False))
    labels = torch.tensor([[left["label"], right["label"]] for left, right in pairs])
    return {
        "image": torch.stack([torch.cat([left["image"], right["image"]], dim=2) for left, right in pairs]),
        "label": torch.zeros(len(pairs), 10).scatter(1, labels, 1.0),
    }


class MultiLabelModule(pl.LightningModule):
    """A sigmoid a class."""

    def __init__(self) -> None:
        super().__init__()
        self.net = small_cnn(num_classes=10)

    def training_step(self, batch: dict[str, Tensor], batch_idx: int) -> Tensor:
        return nn.functional.binary_cross_entropy_with_logits(self.net(batch["image"]), batch["label"])

    def validation_step(self, batch: dict[str, Tensor], batch_idx: int) -> None:
        right = (self.net(batch["image"]) > 0) == batch["label"].bool()
        self.log("val/accuracy", right.float().mean(), prog_bar=True)

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.AdamW(self.parameters(), lr=4e-3)


def main(epochs: int = 5, train_size: int = 4000, output: str = "runs/multi_label") -> pl.Trainer:
    data = DigitScenes(train_size=train_size, val_size=200)
    data.setup("fit")
    train = DataLoader(data.datasets["train"], 128, shuffle=True, collate_fn=side_by_side)
    val = DataLoader(data.datasets["val"], 128, collate_fn=side_by_side)
    # Grad-CAM shows the first class that is present.
    monitor = SaliencyMonitor(views=("overview", "grad_cam"), class_names=data.classes)
    trainer = pl.Trainer(max_epochs=epochs, default_root_dir=output, accelerator="auto", callbacks=[monitor])
    trainer.fit(MultiLabelModule(), train, val)
    return trainer


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--epochs", type=int, default=5)
    main(parser.parse_args().epochs)
