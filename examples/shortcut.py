"""What the monitor is good for: a network that learned a mark in the corner, not the digits.

95 % of the training and validation images carry a small coloured mark that gives the class away, as a watermark or a
hospital's token might. The validation accuracy looks fine. The monitor's film shows where the information comes from,
and ``saliency/energy_in_box`` puts a number on it; the test set has no marks and tells the truth.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import pytorch_lightning as pl

from lightning_saliency import DigitScenes, ImageClassifier, SaliencyMonitor


def main(epochs: int = 4, output: str = "runs/shortcut", **sizes: Any) -> dict[str, dict[str, float]]:
    results: dict[str, dict[str, float]] = {}
    for name, shortcut in (("honest", 0.0), ("shortcut", 0.95)):
        pl.seed_everything(1, workers=True)
        data = DigitScenes(shortcut=shortcut, shortcut_in_validation=True, **sizes)
        trainer = pl.Trainer(
            max_epochs=epochs,
            default_root_dir=Path(output) / name,
            callbacks=[SaliencyMonitor(weights="ramp")],
            accelerator="auto",
        )
        model = ImageClassifier("small_cnn", num_classes=10, learning_rate=1e-2, scheduler="one_cycle")
        trainer.fit(model, data)
        metrics = {key: float(value) for key, value in trainer.callback_metrics.items()}
        tested = trainer.test(model, data, verbose=False)[0]
        results[name] = {
            "validation accuracy": metrics["val/accuracy"],
            "test accuracy": tested["test/accuracy"],
            "energy in box": metrics["saliency/energy_in_box"],
        }
    for name, values in results.items():
        print(f"{name:<10}" + "   ".join(f"{key} {value:.3f}" for key, value in values.items()))
    return results


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--epochs", type=int, default=4)
    main(parser.parse_args().epochs)
