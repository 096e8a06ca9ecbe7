"""How large a share to hide from a network with a shortcut, chosen without one unmarked image.

For each mark a network is trained on digits of which 95 % carry it, and then trained on from there with each share of
the images hidden (`MaskTune`). The table sets what the monitor says of the marked validation images after that,
`position_bias` and `content_bias`, beside the accuracies on test images that no choice may use. What lies in the folder
is not trained again.

    python -m benchmarks.share_to_hide [--marks corner watermark] [--seeds 100] [--folder runs/share_to_hide] [--quick]
"""

from __future__ import annotations

import argparse
import json
import logging
import tempfile
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

import pytorch_lightning as pl
import torch

from benchmarks._timing import machine, print_table
from lightning_saliency import DigitScenes, ImageClassifier, MaskTune, SaliencyMonitor
from lightning_saliency.data import ClassBorder, CornerMark, PlantedShortcut, RandomMark, Watermark
from lightning_saliency.files import write_atomically

RESULTS = Path(__file__).parents[1] / "docs" / "results" / "shortcut" / "share_to_hide.json"
#: The mark, whose maps are hidden, and the shares.
MARKS: dict[str, tuple[Callable[[], Any], Literal["own", "mean"], tuple[float, ...]]] = {
    "corner": (lambda: CornerMark(0.125), "mean", (0.025, 0.05, 0.1, 0.15, 0.2, 0.3)),
    "watermark": (lambda: Watermark(size=0.375, opacity=0.5), "mean", (0.15, 0.25, 0.4, 0.5, 0.6)),
    "random": (lambda: RandomMark(0.125), "own", (0.03, 0.1, 0.2, 0.3)),
    "frame": (lambda: ClassBorder(0.0625), "mean", (0.25, 0.4, 0.5, 0.6)),
}
EPOCHS = 8
#: Keys of a training's result, and their names in the table.
SHOWN = {
    "saliency/position_bias": "position_bias",
    "saliency/content_bias": "content_bias",
    "val/accuracy": "validation",
    "unmarked": "unmarked",
    "misled": "misled",
}


class Trainings:
    """The trainings of one mark and seed, kept in a file.

    Args:
        folder: Where results and the first training's weights lie.
        mark: A name in `MARKS`.
        seed: Of data, weights and order.
        quick: Train on few images, for a test.
    """

    def __init__(self, folder: Path, mark: str, seed: int, quick: bool) -> None:
        self.path = folder / f"{mark}-{seed}.json"
        self.results: dict[str, dict[str, float]] = json.loads(self.path.read_text()) if self.path.is_file() else {}
        self.seed, self.epochs = seed, 1 if quick else EPOCHS
        sizes = (128, 120, 64) if quick else (3000, 1000, 1000)
        digits = DigitScenes(*sizes, size=32, batch_size=64, seed=seed)
        self.data = PlantedShortcut(digits, MARKS[mark][0](), share=0.95)

    def run(self, shares: tuple[float, ...], maps: Literal["own", "mean"]) -> None:
        """Train first, then on with nothing and with each share hidden."""
        weights = self.path.with_suffix(".pt")
        pl.seed_everything(self.seed, workers=True, verbose=False)
        module = ImageClassifier(
            "small_cnn", num_classes=10, learning_rate=4e-3, weight_decay=0.05, scheduler="one_cycle"
        )
        if not weights.is_file():
            self._train("first", module, [])
            torch.save(module.state_dict(), weights)
        for share in (0.0, *shares):
            if str(share) not in self.results:
                pl.seed_everything(self.seed, workers=True, verbose=False)
                module.load_state_dict(torch.load(weights, weights_only=True))
                self._train(str(share), module, [MaskTune("smoe", share=share, maps=maps)] if share else [])

    def _train(self, name: str, module: pl.LightningModule, callbacks: list[Any]) -> None:
        quiet: dict[str, Any] = {"logger": False, "enable_progress_bar": False, "enable_model_summary": False}
        with tempfile.TemporaryDirectory() as folder:
            trainer = pl.Trainer(
                max_epochs=self.epochs,
                accelerator="cpu",
                default_root_dir=folder,
                enable_checkpointing=False,
                callbacks=[*callbacks, SaliencyMonitor()],
                **quiet,
            )
            trainer.fit(module, self.data)
        found = {key: float(value) for key, value in trainer.callback_metrics.items() if key in SHOWN}
        self.data.setup("test")
        for group, loader in self.data.group_dataloaders().items():
            [tested] = pl.Trainer(accelerator="cpu", **quiet).test(module, loader, verbose=False)
            found[group] = float(tested["test/accuracy"])
        self.results[name] = found
        write_atomically(self.path, json.dumps(self.results, indent=1).encode())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--marks", nargs="+", default=list(MARKS), choices=MARKS)
    parser.add_argument("--seeds", nargs="+", type=int, default=[100])
    parser.add_argument("--folder", type=Path, default=Path("runs/share_to_hide"), help="where results are kept")
    parser.add_argument("--quick", action="store_true", help="a tiny run that only shows that it works")
    options = parser.parse_args()
    torch.set_num_threads(1)
    for name in ("pytorch_lightning", "pytorch_lightning.utilities.rank_zero"):
        logging.getLogger(name).setLevel(logging.ERROR)
    warnings.filterwarnings("ignore")
    results: dict[str, dict[int, Any]] = {}
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary) if options.quick else options.folder
        folder.mkdir(parents=True, exist_ok=True)
        for mark in options.marks:
            _, maps, shares = MARKS[mark]
            for seed in options.seeds:
                trainings = Trainings(folder, mark, seed, options.quick)
                trainings.run(shares[:1] if options.quick else shares, maps)
                results.setdefault(mark, {})[seed] = trainings.results
    rows = [
        (f"{mark}, {seed}: {name}", *(f"{run[key]:.3f}" for key in SHOWN))
        for mark, seeds in results.items()
        for seed, runs in seeds.items()
        for name, run in runs.items()
    ]
    print_table("After the cure, by the share that was hidden", ("", *SHOWN.values()), rows)
    if not options.quick:
        write_atomically(RESULTS, json.dumps({"machine": machine(), "marks": results}, indent=1).encode())


if __name__ == "__main__":
    main()
