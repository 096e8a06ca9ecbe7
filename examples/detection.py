"""A detector: its backbone is watched through its own resizing; boxes of the batch tell the energy on the objects."""

from __future__ import annotations

import argparse

import pytorch_lightning as pl
import torch
from torch import Tensor
from torchvision.models.detection import fasterrcnn_mobilenet_v3_large_320_fpn
from torchvision.ops import box_iou

from lightning_saliency import DigitScenes, SaliencyMonitor


class DetectionModule(pl.LightningModule):
    """Finds the digits and their boxes."""

    def __init__(self) -> None:
        super().__init__()
        self.net = fasterrcnn_mobilenet_v3_large_320_fpn(
            weights=None,
            weights_backbone=None,
            num_classes=11,  # 0 is the background
            min_size=128,
            max_size=128,
            image_mean=[0.0, 0.0, 0.0],  # the data module has normalised them
            image_std=[1.0, 1.0, 1.0],
            rpn_post_nms_top_n_train=200,  # one object an image needs few proposals
            rpn_post_nms_top_n_test=50,
        )

    def training_step(self, batch: dict[str, Tensor], batch_idx: int) -> Tensor:
        pairs = zip(batch["boxes"], batch["label"], strict=True)
        targets = [{"boxes": boxes, "labels": label[None] + 1} for boxes, label in pairs]
        return torch.stack(list(self.net(list(batch["image"]), targets).values())).sum()

    def validation_step(self, batch: dict[str, Tensor], batch_idx: int) -> None:
        found = [boxes["boxes"][:1] for boxes in self.net(list(batch["image"]))]  # the one with the highest score
        overlaps = [box_iou(best, boxes).sum() for best, boxes in zip(found, batch["boxes"], strict=True)]
        self.log("val/iou", torch.stack(overlaps).mean(), prog_bar=True)

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.AdamW(self.parameters(), lr=1e-3)


def main(epochs: int = 3, train_size: int = 500, val_size: int = 64, output: str = "runs/detection") -> pl.Trainer:
    data = DigitScenes(train_size=train_size, val_size=val_size, batch_size=16)
    trainer = pl.Trainer(max_epochs=epochs, default_root_dir=output, accelerator="auto", callbacks=[SaliencyMonitor()])
    trainer.fit(DetectionModule(), data)
    return trainer


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--epochs", type=int, default=3)
    main(parser.parse_args().epochs)
