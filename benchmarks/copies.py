"""Which lines of the package copy large tensors, and which wait for a GPU: the monitor on every batch, and Group-CAM.

Counted on a stand-in device (see `benchmarks._stand_in`), so no GPU is needed, and the counts are exact. Of the monitor
it counts what a further validation batch costs, as the difference between a long and a short run of a real
``Trainer.validate``; of Group-CAM the maps of a batch, after a first one. What the network does itself is left out.

    OMP_NUM_THREADS=1 python -m benchmarks.copies
"""

from __future__ import annotations

import argparse
import logging
import tempfile
import warnings
from collections.abc import Callable

import pytorch_lightning as pl
import torch
from pytorch_lightning.strategies import SingleDeviceStrategy
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset

from benchmarks._stand_in import DEVICE, Counts, Events
from benchmarks._timing import print_table, write_results
from lightning_saliency import SaliencyMonitor
from lightning_saliency.explainers import GroupCAM

BATCH, SIDE = 8, 64
SHORT, LONG = 3, 4
# Bytes from which a copy counts: a quarter of the batch of images in float32.
LEAST = BATCH * 3 * SIDE * SIDE


class _Scenes(Dataset[dict[str, Tensor]]):
    def __init__(self, batches: int) -> None:
        generator = torch.Generator().manual_seed(0)
        self.images = torch.rand(batches * BATCH, 3, SIDE, SIDE, generator=generator)

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> dict[str, Tensor]:
        box = torch.tensor([[8.0, 12.0, 40.0, 44.0]])
        return {"image": self.images[index], "label": torch.tensor(index % 4), "boxes": box}


class _Module(pl.LightningModule):
    def __init__(self, network: nn.Module, prepare: Callable[[Tensor, int], None] | None) -> None:
        super().__init__()
        self.net, self.prepare = network, prepare

    def forward(self, images: Tensor) -> Tensor:
        return self.net(images)

    def validation_step(self, batch: dict[str, Tensor], index: int) -> None:
        if self.prepare is not None:
            self.prepare(batch["image"], index)
        self.log("val_loss", nn.functional.cross_entropy(self(batch["image"]), batch["label"]), batch_size=BATCH)


class _OnStandIn(SingleDeviceStrategy):
    """One process on the stand-in device, which no accelerator sets up."""

    def setup_environment(self) -> None:
        pass


def network() -> nn.Module:
    from torchvision.models import resnet18

    torch.manual_seed(0)
    return resnet18(num_classes=4).eval()


def validation(
    batches: int,
    monitored: bool,
    inference: bool = True,
    device: torch.device = DEVICE,
    prepare: Callable[[Tensor, int], None] | None = None,
) -> tuple[Events, dict[str, float]]:
    """A validation: what it copies and waits for, and what it logs.

    Args:
        batches: How many batches.
        monitored: Whether the monitor reads every one of them, with the scores of their boxes.
        inference: ``Trainer(inference_mode=)``.
        device: Where it runs; on the CPU nothing is counted.
        prepare: What the step does first with the images and their batch's number.

    Raises:
        RuntimeError: If the monitor could not read something: one that reads nothing would look frugal.
    """
    callbacks: list[pl.Callback] = [SaliencyMonitor()] if monitored else []
    with (
        tempfile.TemporaryDirectory() as folder,
        Events(LEAST) as events,
        warnings.catch_warnings(record=True) as caught,
    ):
        warnings.simplefilter("always")
        trainer = pl.Trainer(
            strategy=_OnStandIn(device),
            accelerator="cpu",
            callbacks=callbacks,
            logger=False,
            default_root_dir=folder,
            enable_progress_bar=False,
            enable_model_summary=False,
            enable_checkpointing=False,
            inference_mode=inference,
        )
        loader = DataLoader(_Scenes(batches), batch_size=BATCH)
        trainer.validate(_Module(network(), prepare), loader, verbose=False)
        values = {name: float(value) for name, value in trainer.callback_metrics.items()}
    failed = [str(one.message) for one in caught if "could not" in str(one.message)]
    if failed:
        raise RuntimeError(failed[0])
    for one in caught:
        warnings.warn_explicit(one.message, one.category, one.filename, one.lineno)
    return events, values


def of_a_batch(monitored: bool, inference: bool = True) -> Counts:
    """What a further batch of a validation copies and waits for; see `validation`.

    What comes once, at the beginning and at the end, drops out: it is as often in a long run as in a short one.
    """
    long, short = (validation(batches, monitored, inference)[0].counted() for batches in (LONG, SHORT))
    return {
        event: (
            (times - short.get(event, (0, 0))[0]) / (LONG - SHORT),
            (size - short.get(event, (0, 0))[1]) / (LONG - SHORT),
        )
        for event, (times, size) in long.items()
        if times != short.get(event, (0, 0))[0]
    }


def of_group_cam(groups: int = 32) -> Counts:
    """What a batch of Group-CAM maps copies and waits for, the network's own operators left out."""
    with Events(LEAST) as events:
        explainer = GroupCAM(network().to(DEVICE), groups=groups)
        images, targets = _Scenes(1).images.to(DEVICE), torch.arange(BATCH).remainder(4).to(DEVICE)
        explainer(images, targets)  # the first one looks for the layer
        events.found.clear()
        explainer(images, targets)
        found = events.counted()
    return {event: count for event, count in found.items() if event[2] != "the network"}


def rows(counts: Counts) -> list[tuple[str, str, str, float, float]]:
    """Lines of a table: kind, operator, line, times, MB; the waits first, then the largest copies."""
    order = sorted(counts, key=lambda event: (event[0] != "wait", -counts[event][1], event))
    return [(*event, counts[event][0], round(counts[event][1] / 1e6, 3)) for event in order]


def main() -> None:
    argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter).parse_args()
    logging.getLogger("pytorch_lightning").setLevel(logging.ERROR)
    warnings.filterwarnings("ignore")
    header = ("", "operator", "line", "times", "MB")
    results = {
        "a validation batch, without the monitor": of_a_batch(monitored=False),
        "a validation batch, with the monitor": of_a_batch(monitored=True),
        "a validation batch, with the monitor, inference_mode=False": of_a_batch(True, inference=False),
        "Group-CAM of a batch": of_group_cam(),
    }
    for title, counts in results.items():
        print_table(f"{title}, {BATCH} images of {SIDE}²", header, rows(counts))
    settings = {"network": "resnet18", "batch": BATCH, "side": SIDE, "batches": [SHORT, LONG]}
    path = write_results("copies", {**settings, **{title: rows(counts) for title, counts in results.items()}})
    print(f"Written to {path.relative_to(path.parents[2])}.")


if __name__ == "__main__":
    main()
