"""A shortcut seen, numbered and cured: a network that learned a mark in the corner, not the digits.

95 % of the training and validation images carry a small coloured mark that gives the class away, as a watermark or a
hospital's token might, and the validation accuracy looks fine. The monitor warns of it, says where it is, and its film
shows it. Then the same network is trained on, with the place hidden that it leans on in all images (`MaskTune`, guided
by the SMOE Scale maps and by what in the images tells the class). The test images have no marks, or another class's,
and tell before and after.

    python -m examples.shortcut [--epochs N]
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
from torch.utils.data import DataLoader

from lightning_saliency import DigitScenes, ImageClassifier, MaskTune, SaliencyMonitor
from lightning_saliency.data import CornerMark, PlantedShortcut

SIZES = {"train_size": 3000, "val_size": 1000, "test_size": 1000, "size": 48}


def main(epochs: int = 8, output: str = "runs/shortcut", **sizes: Any) -> dict[str, dict[str, float]]:
    """Train, be warned, train on with the cure.

    Args:
        epochs: Epochs before the cure, and with it.
        output: Folder of the runs.
        **sizes: Arguments of `DigitScenes`.

    Returns:
        ``"before"`` and ``"after"`` -> accuracies on ``"validation"`` images (marked too) and on ``"unmarked"`` and
        ``"misled"`` test images, and ``"alert"``, 1 where the monitor has warned.
    """
    pl.seed_everything(1, workers=True)
    data = PlantedShortcut(DigitScenes(**{**SIZES, **sizes}), CornerMark(0.125), share=0.95)
    model = ImageClassifier("small_cnn", num_classes=10, learning_rate=4e-3, weight_decay=0.05, scheduler="one_cycle")
    results = {
        "before": train(model, data, epochs, f"{output}/before", SaliencyMonitor(views=("overview", "mean"))),
        "after": train(
            model,
            data,
            epochs,
            f"{output}/after",
            MaskTune("smoe", maps="shortcut"),  # the place to which the maps of the network as it is now point
            SaliencyMonitor(views=("overview", "mean")),
        ),
    }
    print("\naccuracy in %:                 " + "".join(f"{name:>12}" for name in ("validation", "unmarked", "misled")))
    for name, values in results.items():
        numbers = "".join(f"{100 * values[key]:12.1f}" for key in ("validation", "unmarked", "misled"))
        print(f"{name:<31}{numbers}   {'the monitor warns' if values['alert'] else ''}")
    return results


def train(model: Any, data: Any, epochs: int, folder: str, *callbacks: Any) -> dict[str, float]:
    """Train a network, or train it on, and measure it."""
    trainer = pl.Trainer(
        max_epochs=epochs, default_root_dir=Path(folder), callbacks=list(callbacks), accelerator="auto"
    )
    trainer.fit(model, data)
    metrics = {key: float(value) for key, value in trainer.callback_metrics.items()}
    found = {"validation": metrics["val/accuracy"], "alert": metrics.get("saliency/shortcut_alert", 0.0)}
    data.setup("test")
    for group, loader in data.group_dataloaders().items():
        found[group] = accuracy(model, loader, folder)
    return found


def accuracy(model: Any, loader: DataLoader[Any], folder: str) -> float:
    """The share of the test images that a network gets right."""
    tester = pl.Trainer(logger=False, default_root_dir=folder, enable_progress_bar=False, enable_model_summary=False)
    return float(tester.test(model, loader, verbose=False)[0]["test/accuracy"])


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--epochs", type=int, default=8, help="epochs before the cure, and with it")
    main(parser.parse_args().epochs)
