"""What the monitor costs: an epoch with it against one without, and validation with maps of every batch.

Both arms of a pair run in turn in one process (A B A B …), so that the ratio holds while the machine's speed drifts.
Beside the time that passed stands the processor's: it leaves out what other programs took of the machine.

    OMP_NUM_THREADS=1 python -m benchmarks.monitor [--quick]
"""

from __future__ import annotations

import argparse
import logging
import tempfile
import time
import warnings
from collections.abc import Callable
from typing import Any

import pytorch_lightning as pl
import torch
from torch.utils.data import DataLoader, Dataset

from benchmarks._timing import compare, machine, print_table, write_results
from lightning_saliency import DigitScenes, ImageClassifier, SaliencyMonitor

TARGETS = {"epoch, ResNet-18": 1.01, "epoch, the demo's network": 1.01, "validation, ResNet-50": 1.02}
CLOCKS = ("passed", "processor")


class _Stopwatch(pl.Callback):
    """Seconds, passed and of the processor, of a training epoch with its validation, or of a validation.

    The probing pass that finds the scales belongs to a run, not to an epoch of it; it happens in the first batch.
    """

    def __init__(self) -> None:
        self.seconds = (0.0, 0.0)
        self._start = (0.0, 0.0)

    def on_train_batch_end(self, trainer: pl.Trainer, module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
        if batch_idx == 0:
            self._start = (time.perf_counter(), time.process_time())

    def on_validation_batch_end(
        self, trainer: pl.Trainer, module: Any, outputs: Any, batch: Any, batch_idx: int, dataloader_idx: int = 0
    ) -> None:
        if batch_idx == 0 and trainer.state.fn == "validate":
            self._start = (time.perf_counter(), time.process_time())

    def on_validation_end(self, trainer: pl.Trainer, module: Any) -> None:
        passed, processor = self._start
        self.seconds = (time.perf_counter() - passed, time.process_time() - processor)


class _Photographs(Dataset[dict[str, torch.Tensor]]):
    """Random images of 224×224 with a box each, made before the clock runs."""

    def __init__(self, count: int) -> None:
        self.images = torch.rand(count, 3, 224, 224)

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> dict[str, torch.Tensor]:
        box = torch.tensor([[40.0, 60.0, 150.0, 180.0]])
        return {"image": self.images[index], "label": torch.tensor(index % 1000), "boxes": box}


def _trainer(callbacks: list[pl.Callback], folder: str) -> pl.Trainer:
    return pl.Trainer(
        default_root_dir=folder,
        max_epochs=1,
        callbacks=callbacks,
        accelerator="cpu",
        num_sanity_val_steps=0,
        enable_progress_bar=False,
        enable_model_summary=False,
        enable_checkpointing=False,
    )


def _epoch(network: str, monitored: bool, data: DigitScenes, folder: str) -> tuple[float, float]:
    """One epoch on the demo's 6,000 + 1,000 scenes of 64×64 with boxes, TensorBoard, the monitor at its defaults."""
    pl.seed_everything(0, verbose=False)
    stopwatch = _Stopwatch()
    model = ImageClassifier(network, num_classes=10, learning_rate=4e-3, scheduler=None)
    callbacks: list[pl.Callback] = [stopwatch, *([SaliencyMonitor()] if monitored else [])]
    _trainer(callbacks, folder).fit(model, data)
    return stopwatch.seconds


def _validation(monitored: bool, model: ImageClassifier, loader: DataLoader[Any], folder: str) -> tuple[float, float]:
    """Validation of a ResNet-50 at batch 8: the box scalars of every batch, and the drawing of the film at its end."""
    stopwatch = _Stopwatch()
    callbacks: list[pl.Callback] = [stopwatch, *([SaliencyMonitor()] if monitored else [])]
    _trainer(callbacks, folder).validate(model, loader, verbose=False)
    return stopwatch.seconds


def _pairs(run: Callable[[bool], tuple[float, float]], rounds: int) -> dict[str, dict[str, dict[str, float]]]:
    clocks: dict[str, dict[str, list[float]]] = {clock: {"without": [], "with": []} for clock in CLOCKS}
    for round_ in range(rounds + 1):
        # Who goes first changes, so that neither always finds the warmer cache.
        for name in ("without", "with") if round_ % 2 else ("with", "without"):
            for clock, seconds in zip(CLOCKS, run(name == "with"), strict=True):
                if round_:  # the first round warms up
                    clocks[clock][name].append(seconds)
    return {clock: compare(times, reference="without") for clock, times in clocks.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3, help="timed runs of each arm")
    parser.add_argument("--quick", action="store_true", help="a tiny run that only shows that it works")
    options = parser.parse_args()
    logging.getLogger("pytorch_lightning").setLevel(logging.ERROR)
    warnings.filterwarnings("ignore")
    rounds = 1 if options.quick else options.rounds
    data = DigitScenes(
        train_size=256 if options.quick else 6000, val_size=128 if options.quick else 1000, batch_size=64
    )
    data.setup("fit")
    model = ImageClassifier("resnet50", num_classes=1000)
    loader = DataLoader(_Photographs(16 if options.quick else 512), batch_size=8)
    with tempfile.TemporaryDirectory() as folder:
        results = {
            "epoch, ResNet-18": _pairs(lambda monitored: _epoch("resnet18", monitored, data, folder), rounds),
            "epoch, the demo's network": _pairs(lambda monitored: _epoch("small_cnn", monitored, data, folder), rounds),
            "validation, ResNet-50": _pairs(lambda monitored: _validation(monitored, model, loader, folder), rounds),
        }
    rows = [
        (what, clock, *(arms["with"][key] for key in ("median_ms", "ratio", "ratio_low", "ratio_high")), TARGETS[what])
        for what, clocks in results.items()
        for clock, arms in clocks.items()
    ]
    header = ("with the monitor", "clock", "ms", "ratio", "low", "high", "at most")
    print_table(f"Cost of the monitor, {machine()['threads']} threads", header, rows)
    if not options.quick:
        path = write_results("monitor", {"rounds": rounds, "targets": TARGETS, **results})
        print(f"Written to {path.relative_to(path.parents[2])}.")


if __name__ == "__main__":
    main()
