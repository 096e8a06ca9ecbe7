"""A network of Hugging Face's transformers, made from a configuration: nothing is downloaded."""

from __future__ import annotations

import argparse

import pytorch_lightning as pl
import torch

from lightning_saliency import DigitScenes, SaliencyMonitor

try:
    from transformers import ResNetConfig, ResNetForImageClassification
except ImportError:
    raise SystemExit("This example needs transformers: pip install transformers") from None


class HuggingFaceModule(pl.LightningModule):
    """Trains a network that takes keywords and returns an object with loss and logits."""

    def __init__(self, config: ResNetConfig) -> None:
        super().__init__()
        self.net = ResNetForImageClassification(config)

    def training_step(self, batch: dict[str, torch.Tensor], batch_idx: int) -> torch.Tensor:
        return self.net(pixel_values=batch["image"], labels=batch["label"]).loss

    def validation_step(self, batch: dict[str, torch.Tensor], batch_idx: int) -> dict[str, torch.Tensor]:
        returned = self.net(pixel_values=batch["image"], labels=batch["label"])
        self.log("val/loss", returned.loss, prog_bar=True)
        return {"logits": returned.logits}

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.AdamW(self.parameters(), lr=2e-3)


def main(epochs: int = 3, train_size: int = 2000, output: str = "runs/hugging_face") -> pl.Trainer:
    data = DigitScenes(train_size=train_size, val_size=200)
    config = ResNetConfig(
        embedding_size=16,
        hidden_sizes=[16, 32, 64],
        depths=[1, 1, 1],
        layer_type="basic",
        num_labels=10,  # type: ignore[call-arg]
    )
    monitor = SaliencyMonitor(views=("overview", "grad_cam"))
    trainer = pl.Trainer(max_epochs=epochs, default_root_dir=output, accelerator="auto", callbacks=[monitor])
    trainer.fit(HuggingFaceModule(config), data)
    return trainer


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--epochs", type=int, default=3)
    main(parser.parse_args().epochs)
