"""Trains a small CNN on the embedded digit scenes, in about half a minute, and keeps its weights.

`configs/evaluate_digits.yaml` and `configs/sanity_check_digits.yaml` read them:

    python -m examples.trained_digits
"""

from __future__ import annotations

from pathlib import Path

import pytorch_lightning as pl
import torch

from lightning_saliency import DigitScenes, ImageClassifier

#: Where the two configurations look, from the folder of the repository.
WEIGHTS = "runs/trained_digits.pt"


def main(weights: str = WEIGHTS, epochs: int = 5, train_size: int = 3000) -> float:
    """Train, write the weights to that file, and return the accuracy on the validation images, between 0 and 1."""
    pl.seed_everything(0)
    module = ImageClassifier("small_cnn", num_classes=10, learning_rate=0.01, scheduler="one_cycle")
    quiet = {"logger": False, "enable_checkpointing": False, "enable_model_summary": False}
    trainer = pl.Trainer(max_epochs=epochs, **quiet)
    trainer.fit(module, DigitScenes(train_size=train_size, val_size=200, size=48, batch_size=64))
    accuracy = float(trainer.callback_metrics["val/accuracy"])
    Path(weights).parent.mkdir(parents=True, exist_ok=True)
    torch.save(module.model.cpu().state_dict(), weights)
    print(f"Validation accuracy {100 * accuracy:.0f} %. The weights are in {weights}; now, for example:")
    print("  lightning-saliency evaluate --config configs/evaluate_digits.yaml")
    return accuracy


if __name__ == "__main__":
    main()
