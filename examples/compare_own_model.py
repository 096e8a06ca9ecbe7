"""Which explainer is best for a network of one's own, on images of one's own: `run_comparison`."""

from __future__ import annotations

import argparse

import pytorch_lightning as pl

from lightning_saliency import DigitScenes, ImageClassifier
from lightning_saliency.studies import ComparisonResult, run_comparison


def main(
    epochs: int = 3, train_size: int = 2000, limit: int = 50, output: str = "runs/compare_own_model", **sizes: int
) -> ComparisonResult:
    pl.seed_everything(0, workers=True)
    data = DigitScenes(train_size=train_size, val_size=200, **sizes)
    model = ImageClassifier("small_cnn", num_classes=10, learning_rate=1e-2, scheduler="one_cycle")
    pl.Trainer(max_epochs=epochs, default_root_dir=output, accelerator="auto").fit(model, data)
    images = data.val_dataloader().dataset

    explainers = ["random", "smoe", "grad_cam", "fast_cam", "group_cam"]
    result = run_comparison(
        models={"small_cnn": model.model}, data=images, explainers=explainers, limit=limit, output=output
    )
    print(result)
    print(f"The page is {result.save()[0]}")
    return result


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--epochs", type=int, default=3)
    parser.add_argument("--limit", type=int, default=50, help="number of images")
    options = parser.parse_args()
    main(options.epochs, limit=options.limit)
