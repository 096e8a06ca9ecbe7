"""A segmentation network: masks as labels, and how much of the map's energy lies on the objects."""

from __future__ import annotations

import argparse

import pytorch_lightning as pl
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, default_collate
from torchvision.models.segmentation import lraspp_mobilenet_v3_large

from lightning_saliency import DigitScenes, SaliencyMonitor


def with_masks(samples: list[dict[str, Tensor]]) -> dict[str, Tensor]:
    """A batch with masks ``[B, H, W]``: 1 to 10 in a digit's box, 0 elsewhere."""
    batch = default_collate(samples)
    masks = torch.zeros(len(samples), *batch["image"].shape[-2:], dtype=torch.int64)
    for mask, label, box in zip(masks, batch["label"], batch["boxes"][:, 0].int(), strict=True):
        x1, y1, x2, y2 = box.tolist()
        mask[y1:y2, x1:x2] = label + 1
    return {"image": batch["image"], "mask": masks}


class SegmentationModule(pl.LightningModule):
    """A class for each pixel."""

    def __init__(self) -> None:
        super().__init__()
        self.net = lraspp_mobilenet_v3_large(weights=None, weights_backbone=None, num_classes=11)

    def training_step(self, batch: dict[str, Tensor], batch_idx: int) -> Tensor:
        return nn.functional.cross_entropy(self.net(batch["image"])["out"], batch["mask"])

    def validation_step(self, batch: dict[str, Tensor], batch_idx: int) -> None:
        predicted, truth = self.net(batch["image"])["out"].argmax(1) > 0, batch["mask"] > 0
        self.log("val/iou", (predicted & truth).sum() / (predicted | truth).sum(), prog_bar=True)

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.AdamW(self.parameters(), lr=2e-3)


def main(epochs: int = 3, train_size: int = 1000, output: str = "runs/segmentation") -> pl.Trainer:
    data = DigitScenes(train_size=train_size, val_size=100)
    data.setup("fit")
    train = DataLoader(data.datasets["train"], 32, shuffle=True, collate_fn=with_masks)
    val = DataLoader(data.datasets["val"], 32, collate_fn=with_masks)
    # Grad-CAM shows the class with the most pixels, background left out.
    monitor = SaliencyMonitor(views=("overview", "grad_cam"), class_names=["background", *data.classes])
    trainer = pl.Trainer(max_epochs=epochs, default_root_dir=output, accelerator="auto", callbacks=[monitor])
    trainer.fit(SegmentationModule(), train, val)
    return trainer


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--epochs", type=int, default=3)
    main(parser.parse_args().epochs)
