"""A long run with the monitor and the augmentation: memory, live tensors and hooks have to stay flat.

Trains for 2,000 steps and validates for 500, with `SaliencyMonitor` (LOVI, the combined map and a class view),
`SaliencyMonitor(stage="train")` and `SaliencyAugmentation`, and counts after each epoch. The first quarter of the
epochs, in which buffers and caches fill, is left out of the comparison.

    python -m benchmarks.soak [--steps 2000] [--validations 500] [--epochs 50]

The exit status is 1 if something grew.
"""

from __future__ import annotations

import argparse
import gc
import sys
import tempfile
import time
import warnings
from dataclasses import dataclass
from pathlib import Path

import pytorch_lightning as pl
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset

from lightning_saliency import SaliencyAugmentation, SaliencyMonitor
from lightning_saliency.networks import small_cnn

BATCH, SIDE, CLASSES = 4, 32, 10
#: Largest growth from the second quarter of the epochs to the last, in 10⁶ bytes: what an allocator may keep.
LARGEST_GROWTH = 20.0


@dataclass(frozen=True)
class Count:
    """What lives after an epoch.

    Attributes:
        megabytes: Resident memory, in 10⁶ bytes.
        tensors: Live tensors.
        hooks: Hooks on all modules.
        objects: Objects that Python's garbage collector knows.
    """

    megabytes: float
    tensors: int
    hooks: int
    objects: int


class _Noise(Dataset[tuple[Tensor, int]]):
    def __init__(self, count: int) -> None:
        self.count = count

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        image = torch.rand(3, SIDE, SIDE, generator=torch.Generator().manual_seed(index))
        return image, index % CLASSES


class _Classifier(pl.LightningModule):
    def __init__(self) -> None:
        super().__init__()
        self.net = small_cnn(num_classes=CLASSES)

    def forward(self, images: Tensor) -> Tensor:
        logits: Tensor = self.net(images)
        return logits

    def training_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> Tensor:
        return nn.functional.cross_entropy(self(batch[0]), batch[1])

    def validation_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> dict[str, Tensor]:
        logits = self(batch[0])
        self.log("val/loss", nn.functional.cross_entropy(logits, batch[1]))
        return {"logits": logits}

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=0.01)


class _Counter(pl.Callback):
    """Counts at the end of each training epoch, the validation being over."""

    def __init__(self) -> None:
        self.counts: list[Count] = []

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        gc.collect()
        known = gc.get_objects()
        hooks = sum(
            len(module._forward_hooks) + len(module._forward_pre_hooks) + len(module._backward_hooks)
            for module in pl_module.modules()
        )
        # Asked of the type, for some objects answer isinstance with a warning.
        tensors = sum(issubclass(type(each), Tensor) for each in known)
        self.counts.append(Count(_resident(), tensors, hooks, len(known)))


def _resident() -> float:
    """Resident memory of this process in 10⁶ bytes; its peak where there is no /proc."""
    status = Path("/proc/self/statm")
    if status.is_file():
        return int(status.read_text().split()[1]) * 4096 / 1e6
    import resource

    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e3


def soak(steps: int, validations: int, epochs: int, folder: str) -> list[Count]:
    """The counts of each epoch of a run."""
    pl.seed_everything(0)
    counter = _Counter()
    trainer = pl.Trainer(
        accelerator="cpu",
        devices=1,
        max_epochs=epochs,
        logger=False,  # Lightning's CSVLogger keeps all values.
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        default_root_dir=folder,
        callbacks=[
            SaliencyMonitor(num_images=4, views=("lovi", "combined", "grad_cam")),
            SaliencyMonitor(num_images=4, stage="train", name="training"),
            SaliencyAugmentation(),
            counter,
        ],
    )
    training, validation = (_Noise(BATCH * (number // epochs)) for number in (steps, validations))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        trainer.fit(_Classifier(), DataLoader(training, BATCH, shuffle=True), DataLoader(validation, BATCH))
    return counter.counts


def main() -> int:
    """Run it, print the counts of ten epochs, and say what grew."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--steps", type=int, default=2000, help="training steps in all")
    parser.add_argument("--validations", type=int, default=500, help="validation steps in all")
    parser.add_argument("--epochs", type=int, default=50, help="epochs, at least 8")
    args = parser.parse_args()
    begun = time.perf_counter()
    with tempfile.TemporaryDirectory() as folder:
        counts = soak(args.steps, args.validations, args.epochs, folder)
    print("epoch  memory/MB  tensors  hooks  objects")
    for epoch, count in enumerate(counts):
        if epoch % max(1, len(counts) // 10) == 0 or epoch == len(counts) - 1:
            print(f"{epoch:5} {count.megabytes:10.1f} {count.tensors:8} {count.hooks:6} {count.objects:8}")
    quarter = len(counts) // 4
    early, late = counts[quarter : 2 * quarter], counts[-quarter:]
    grown = [
        f"{name} from {before} to {after}"
        for name, slack in (("megabytes", LARGEST_GROWTH), ("tensors", 0), ("hooks", 0), ("objects", 0.01))
        if (after := max(getattr(each, name) for each in late))
        > (before := max(getattr(each, name) for each in early)) + (slack if slack >= 1 else slack * before)
    ]
    seconds = time.perf_counter() - begun
    print(f"{args.steps} + {args.validations} steps in {seconds:.0f} s. Grown: {', '.join(grown) or 'nothing'}.")
    return int(bool(grown))


if __name__ == "__main__":
    sys.exit(main())
