"""A small CNN that is trained on the digit scenes, for configurations: `examples/trained_digits.py:trained_digits`.

The first call trains it, in about half a minute, and keeps its weights in a file; later ones read them.
"""

from __future__ import annotations

from pathlib import Path

import pytorch_lightning as pl
import torch
from torch import nn

from lightning_saliency import DigitScenes, ImageClassifier
from lightning_saliency.networks import load_weights, small_cnn


def trained_digits(
    num_classes: int = 10, weights: str = "runs/trained_digits.pt", epochs: int = 5, train_size: int = 3000
) -> nn.Module:
    """The network, with the weights of that file, which is made where it is not there."""
    path = Path(weights)
    if not path.is_file():
        print(f"Training a small CNN on {train_size} digit scenes; its weights go to {path}.")
        path.parent.mkdir(parents=True, exist_ok=True)
        with torch.random.fork_rng():
            torch.manual_seed(0)
            torch.save(_train(num_classes, epochs, train_size).state_dict(), path)
    network = small_cnn(num_classes)
    load_weights(network, path)
    return network


def _train(num_classes: int, epochs: int, train_size: int) -> nn.Module:
    module = ImageClassifier("small_cnn", num_classes=num_classes, learning_rate=0.01, scheduler="one_cycle")
    quiet = {"logger": False, "enable_checkpointing": False, "enable_progress_bar": False}
    trainer = pl.Trainer(max_epochs=epochs, accelerator="auto", enable_model_summary=False, **quiet)
    trainer.fit(module, DigitScenes(train_size=train_size, val_size=200, size=48, batch_size=64))
    return module.model.cpu()


if __name__ == "__main__":
    trained_digits()
