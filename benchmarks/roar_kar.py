"""What masking by saliency costs: training steps with online and with stored maps, masks alone, and the store's rates.

Training runs go in turn in one process (A B C A B C …), so that the ratios hold while the machine's speed drifts. A
step is timed from one batch's end to the next's, loading included: the images lie in memory as bytes, are cropped,
mirrored and normalised by the loader in the main process, so that no worker hides what it costs to move the maps.

    python -m benchmarks.roar_kar [--quick] [--rounds N] [--threads N]
"""

from __future__ import annotations

import argparse
import logging
import tempfile
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset
from torchvision.transforms import v2

from benchmarks._timing import compare, machine, print_table, write_results
from lightning_saliency import ImageClassifier
from lightning_saliency.data import RoarKarDataModule, SaliencyStore
from lightning_saliency.explainers import SMOE
from lightning_saliency.functional.masking import top_fraction
from lightning_saliency.networks import build_network
from lightning_saliency.studies.timing import interleaved

FRACTION = 0.1
STEP_TARGETS = {"online SMOE": 1.5, "stored maps": 1.1}
MASK_TARGET = 10.0  # times as fast as two argsorts
READ_TARGET = 20_000.0  # maps a second
# (network, side of the images, batch)
SETTINGS = (("resnet18", 224, 16), ("resnet50", 224, 8))


class _Stopwatch(pl.Callback):
    """Seconds from the end of a run's first batch to that of its last, a step."""

    def __init__(self) -> None:
        self.seconds = 0.0
        self._start = 0.0

    def on_train_batch_end(self, trainer: pl.Trainer, module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
        if batch_idx == 0:
            self._start = time.perf_counter()  # the first batch finds the scales and touches the memory
        else:
            self.seconds = (time.perf_counter() - self._start) / batch_idx


class _Crops(Dataset[tuple[Tensor, int]]):
    """Random bytes, cropped and mirrored at random."""

    def __init__(self, count: int, size: int) -> None:
        larger = size + size // 8
        self.images = torch.randint(0, 256, (count, 3, larger, larger), dtype=torch.uint8)
        crop = [v2.RandomCrop(size), v2.RandomHorizontalFlip(), v2.ToDtype(torch.float32, scale=True)]
        self.transform = v2.Compose([*crop, v2.Normalize([0.5] * 3, [0.29] * 3)])

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        return self.transform(self.images[index]), index % 10


def _steps(network: str, size: int, batch: int, rounds: int, batches: int, folder: Path) -> dict[str, dict[str, float]]:
    """A training step on whole images, and on images masked in both ways."""
    images = _Crops(batch * batches, size)
    base = pl.LightningDataModule.from_datasets(images, batch_size=batch)
    # Pinning memory, which `from_datasets` asks for, has no place without an accelerator.
    base.train_dataloader = lambda: DataLoader(images, batch_size=batch, shuffle=True)  # type: ignore[method-assign]
    store = SaliencyStore.create(folder / f"{network}-{size}", len(images), (56, 56), {})
    store.write(range(len(images)), torch.rand(len(images), 56, 56))
    frozen = build_network(network, 10).eval().requires_grad_(False)
    arms: dict[str, Any] = {
        "plain": base,
        "online SMOE": RoarKarDataModule(base, SMOE(frozen), "roar", FRACTION, fill="zero"),
        "stored maps": RoarKarDataModule(base, {"train": store}, "roar", FRACTION, fill="zero"),
    }
    times: dict[str, list[float]] = {name: [] for name in arms}
    for round_ in range(rounds + 1):
        for name in sorted(arms, reverse=bool(round_ % 2)):
            stopwatch = _Stopwatch()
            _trainer(stopwatch).fit(ImageClassifier(network, 10, scheduler=None), arms[name])
            if round_:  # the first round warms up
                times[name].append(stopwatch.seconds)
    return compare(times, reference="plain")


def _trainer(callback: pl.Callback) -> pl.Trainer:
    return pl.Trainer(
        max_epochs=1,
        callbacks=[callback],
        logger=False,
        devices=1,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )


def two_argsorts(maps: Tensor, fraction: float) -> Tensor:
    """The rank of each pixel by sorting twice: the usual formulation."""
    flat = maps.flatten(1)
    ranks = flat.argsort(dim=1, descending=True).argsort(dim=1)
    return (ranks < round(fraction * flat.shape[1])).view(maps.shape)


def _masks(rounds: int) -> dict[str, dict[str, float]]:
    """Masks for 64 maps of 224², of values that are all different."""
    maps = torch.rand(64, 224, 224)
    functions: dict[str, Callable[[], object]] = {
        "two argsorts": lambda: two_argsorts(maps, FRACTION),
        "top_fraction": lambda: top_fraction(maps, FRACTION),
    }
    return compare(interleaved(functions, rounds), reference="two argsorts")


def _store_rates(count: int, batch: int, folder: Path) -> dict[str, float]:
    """Maps a second written in batches, and read from the page cache: in batches, in random order, one by one."""
    maps = torch.rand(batch, 56, 56)
    store = SaliencyStore.create(folder / "rates", count, (56, 56), {})
    starts = range(0, count, batch)
    rates = {"written": _rate(count, lambda: [store.write(_rows(start, batch, count), maps) for start in starts])}
    opened = SaliencyStore.open(folder / "rates")
    shuffled = torch.randperm(count)
    reads: dict[str, Callable[[], object]] = {
        "read in batches": lambda: [opened[start : start + batch] for start in starts],
        "read in random batches": lambda: [opened[shuffled[start : start + batch]] for start in starts],
        "read one by one": lambda: [opened[[row]] for row in range(count)],
    }
    for name, read in reads.items():
        read()
        rates[name] = _rate(count, read)
    return rates


def _rows(start: int, batch: int, count: int) -> range:
    return range(start, start + batch) if start + batch <= count else range(count - batch, count)


def _rate(count: int, function: Callable[[], object]) -> float:
    start = time.perf_counter()
    function()
    return count / (time.perf_counter() - start)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5, help="timed runs of each arm")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads(), help="torch's threads")
    parser.add_argument("--quick", action="store_true", help="a tiny run that only shows that it works")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    logging.getLogger("pytorch_lightning").setLevel(logging.ERROR)
    warnings.filterwarnings("ignore")
    rounds = 1 if options.quick else options.rounds
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        steps = {
            f"{network}, {size}², batch {batch}": _steps(
                network, size, 4 if options.quick else batch, rounds, 3 if options.quick else 8, folder
            )
            for network, size, batch in SETTINGS
        }
        masks = _masks(2 if options.quick else 10)
        rates = _store_rates(2_000 if options.quick else 100_000, 256, folder)
    faster = 1 / masks["top_fraction"]["ratio"]
    _report(steps, masks, rates, faster)
    if not options.quick:
        verdicts = {
            **{
                f"{setting}: {arm}": arms[arm]["ratio"] <= target
                for setting, arms in steps.items()
                for arm, target in STEP_TARGETS.items()
            },
            "masks": faster >= MASK_TARGET,
            "reading": rates["read in batches"] >= READ_TARGET,
        }
        targets = {"steps, at most": STEP_TARGETS, "masks, at least": MASK_TARGET, "maps read a second": READ_TARGET}
        content = {"rounds": rounds, "fraction": FRACTION, "targets": targets, "steps": steps, "masks": masks}
        path = write_results("roar_kar", {**content, "masks_times_faster": faster, "rates": rates, "met": verdicts})
        print(f"Written to {path.relative_to(path.parents[2])}.")


def _report(steps: dict[str, Any], masks: dict[str, Any], rates: dict[str, float], faster: float) -> None:
    header = ("", "images", "ms", "ratio", "low", "high", "at most")
    rows = [
        (
            what,
            arm,
            *(figures[key] for key in ("median_ms", "ratio", "ratio_low", "ratio_high")),
            STEP_TARGETS.get(arm, ""),
        )
        for what, arms in {**steps, "64 masks of 224²": masks}.items()
        for arm, figures in arms.items()
    ]
    print_table(f"Cost of masking, {machine()['threads']} threads", header, rows)
    print(f"Masks: {faster:.1f} times as fast as two argsorts (at least {MASK_TARGET:.0f}).")
    print_table(
        "The store, maps of 56² a second",
        ("", "maps/s", "at least"),
        [(name, round(rate), round(READ_TARGET) if name.startswith("read") else "") for name, rate in rates.items()],
    )


if __name__ == "__main__":
    main()
