"""Which explainer is best for a network of one's own, on images of one's own: `compute_explainers`."""

from __future__ import annotations

import argparse

import pytorch_lightning as pl

from lightning_saliency import DigitScenes, ImageClassifier
from lightning_saliency.studies import Comparison, compute_explainers


def main(
    epochs: int = 3, train_size: int = 2000, limit: int = 50, output: str = "runs/compare_own_model", **sizes: int
) -> Comparison:
    pl.seed_everything(0, workers=True)
    data = DigitScenes(train_size=train_size, val_size=200, **sizes)
    model = ImageClassifier("small_cnn", num_classes=10, learning_rate=1e-2, scheduler="one_cycle")
    pl.Trainer(max_epochs=epochs, default_root_dir=output, accelerator="auto").fit(model, data)
    images = data.val_dataloader().dataset

    explainers = ["random", "smoe", "grad_cam", "fast_cam", "group_cam"]
    comparison = compute_explainers(model, images, explainers, limit=limit, output=output)
    comparison.save(output)
    print(comparison)
    return comparison


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--epochs", type=int, default=3)
    parser.add_argument("--limit", type=int, default=50, help="number of images")
    options = parser.parse_args()
    main(options.epochs, limit=options.limit)
