"""Pictures and scalars in Weights & Biases, offline: ``wandb sync`` sends the run later, or never."""

from __future__ import annotations

import argparse
from pathlib import Path

import pytorch_lightning as pl
from pytorch_lightning.loggers import WandbLogger

from examples.own_trainer import OwnModule
from lightning_saliency import DigitScenes, SaliencyMonitor

try:
    import wandb
except ImportError:
    raise SystemExit("This example needs wandb: pip install 'lightning-saliency[wandb]'") from None


def main(epochs: int = 3, train_size: int = 2000, output: str = "runs/wandb_offline") -> Path:
    Path(output).mkdir(parents=True, exist_ok=True)
    logger = WandbLogger(project="lightning-saliency", save_dir=output, offline=True)
    trainer = pl.Trainer(
        max_epochs=epochs,
        default_root_dir=output,
        accelerator="auto",
        logger=logger,
        callbacks=[SaliencyMonitor(views=("overview", "combined"))],
    )
    trainer.fit(OwnModule(), DigitScenes(train_size=train_size, val_size=200))
    run = Path(logger.experiment.dir).parent
    wandb.finish()
    print(f"To send the run: wandb sync {run}")
    return run


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--epochs", type=int, default=3)
    main(parser.parse_args().epochs)
