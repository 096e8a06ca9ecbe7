"""A network that learned a planted mark, and what becomes of it by each way of training it on; kept in a file."""

from __future__ import annotations

import json
import logging
import tempfile
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch

from lightning_saliency import ImageClassifier, SaliencyMonitor
from lightning_saliency.data import PlantedShortcut
from lightning_saliency.files import write_atomically

_QUIET: dict[str, Any] = {"logger": False, "enable_progress_bar": False, "enable_model_summary": False}
EPOCHS = 8
#: Keys of a training's result, and their names in a table.
SHOWN = {
    "saliency/position_bias": "position_bias",
    "saliency/content_bias": "content_bias",
    "val/accuracy": "validation",
    "unmarked": "unmarked",
    "misled": "misled",
}


def hush() -> None:
    """One thread, and nothing said."""
    torch.set_num_threads(1)
    for name in ("pytorch_lightning", "pytorch_lightning.utilities.rank_zero"):
        logging.getLogger(name).setLevel(logging.ERROR)
    warnings.filterwarnings("ignore")


class Cures:
    """The trainings of one seed: a first one, and others that go on from it. What is in the file is not run again.

    Args:
        path: The results; the first training's weights lie beside them.
        data: What the first training has, and the tests.
        seed: Of weights and order.
        epochs: Of each training.
    """

    def __init__(self, path: Path, data: PlantedShortcut, seed: int, epochs: int = EPOCHS) -> None:
        self.path, self.data, self.seed, self.epochs = path, data, seed, epochs
        self.results: dict[str, dict[str, float]] = json.loads(path.read_text()) if path.is_file() else {}
        pl.seed_everything(seed, workers=True, verbose=False)
        self.module = ImageClassifier(
            "small_cnn", num_classes=10, learning_rate=4e-3, weight_decay=0.05, scheduler="one_cycle"
        )
        weights = path.with_suffix(".pt")
        if not weights.is_file():
            self._train("first", data, [])
            torch.save(self.module.state_dict(), weights)
        self._weights = torch.load(weights, weights_only=True)
        self.module.load_state_dict(self._weights)

    def run(self, name: str, make: Callable[[], tuple[PlantedShortcut, list[Any]]]) -> None:
        """Train on from the first training's weights.

        Args:
            name: Under which the result is kept.
            make: The data and further callbacks; called with the network as it was after the first training.
        """
        if name in self.results:
            return
        self.module.load_state_dict(self._weights)
        data, callbacks = make()
        pl.seed_everything(self.seed, workers=True, verbose=False)
        self._train(name, data, callbacks)

    def _train(self, name: str, data: PlantedShortcut, callbacks: list[Any]) -> None:
        with tempfile.TemporaryDirectory() as folder:
            trainer = pl.Trainer(
                max_epochs=self.epochs,
                accelerator="cpu",
                default_root_dir=folder,
                enable_checkpointing=False,
                callbacks=[*callbacks, SaliencyMonitor()],
                **_QUIET,
            )
            trainer.fit(self.module, data)
        found = {key: float(value) for key, value in trainer.callback_metrics.items() if key in SHOWN}
        self.data.setup("test")
        for group, loader in self.data.group_dataloaders().items():
            [tested] = pl.Trainer(accelerator="cpu", **_QUIET).test(self.module, loader, verbose=False)
            found[group] = float(tested["test/accuracy"])
        self.results[name] = found
        write_atomically(self.path, json.dumps(self.results, indent=1).encode())
