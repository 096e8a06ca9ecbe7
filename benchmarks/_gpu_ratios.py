"""The measurements of `benchmarks.on_gpu`: each a function that returns ratios by name.

Everything that is compared runs in turn in one process. On a CPU, in small, they show only that they run.
"""

from __future__ import annotations

import tempfile
import warnings
from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

Measurement = Callable[[], dict[str, dict[str, Any]]]

SCALES = ((64, 112), (256, 56), (512, 28), (1024, 14), (2048, 7))
#: How often a kernel runs between two looks at the clock.
REPEATS = 20


def ratios(device: str) -> dict[str, Measurement]:
    """Every measurement by name.

    Args:
        device: ``"cuda"``, or ``"cpu"`` for the same in small.
    """
    found: dict[str, Measurement] = {
        "smoe_scale beside copying": partial(_bandwidth, device),
        "explainers in forward passes": partial(_passes, device),
        "Group-CAM beside the published procedure": partial(_group_cam, device),
        "monitor on every validation batch": partial(_monitor, device),
        "augmented training steps": partial(_augmentation, device),
    }
    if device == "cuda":
        found["synchronisations of a validation batch"] = _synchronisations
    return found


def _compared(functions: dict[str, Callable[[], object]], reference: str, rounds: int) -> dict[str, dict[str, float]]:
    from lightning_saliency.studies import timing

    found = timing.ratios(timing.interleaved(functions, rounds), reference)
    return {
        name: {"value": one.ratio, "low": one.low, "high": one.high, "median_ms": 1e3 * one.seconds}
        for name, one in found.items()
    }


def _repeated(function: Callable[..., object], *given: Any) -> Callable[[], None]:
    def run() -> None:
        for _ in range(REPEATS):
            function(*given)

    return run


def _network(device: str) -> tuple[nn.Module, int, int]:
    """The network, and the batch and the size of its images."""
    from torchvision.models import resnet18, resnet50

    torch.manual_seed(0)
    if device == "cuda":
        return resnet50().eval().to(device), 64, 224
    return resnet18().eval(), 2, 64


def _bandwidth(device: str) -> dict[str, dict[str, Any]]:
    """What share of the copy's bandwidth reading the activations once has: half the copy's time is the bound."""
    from lightning_saliency.functional.statistics import smoe_scale

    batch, backend = (64, "inductor") if device == "cuda" else (1, "aot_eager")
    compiled = torch.compile(smoe_scale, backend=backend, dynamic=False)
    found = {}
    with torch.no_grad():
        for place, (channels, size) in enumerate(SCALES):
            activations = torch.randn(batch, channels, size, size, device=device).relu()
            functions = {
                "copy": _repeated(Tensor.clone, activations),
                "eager": _repeated(smoe_scale, activations),
                "compiled": _repeated(compiled, activations),
            }
            figures = _compared(functions, "copy", 10 if device == "cuda" else 1)
            for name in ("eager", "compiled"):
                one = figures[name]
                entry: dict[str, Any] = {"value": 0.5 / one["value"], "median_ms": one["median_ms"] / REPEATS}
                if name == "compiled" and place < 3:
                    entry["at_least"] = 0.6
                found[f"smoe_scale, {name}, {channels} channels of {size}², batch {batch}: share of bandwidth"] = entry
    return found


def _passes(device: str) -> dict[str, dict[str, Any]]:
    from lightning_saliency.explainers import build_explainer

    network, batch, size = _network(device)
    images = torch.rand(batch, 3, size, size, device=device)
    targets = torch.zeros(batch, dtype=torch.int64, device=device)

    def forward() -> None:
        with torch.no_grad():
            network(images)

    functions: dict[str, Callable[[], object]] = {"forward": forward}
    for name in ("smoe", "grad_cam", "grad_cam_plus_plus", "layer_cam", "fast_cam", "full_grad"):
        functions[name] = partial(build_explainer(name, network), images, targets)
    figures = _compared(functions, "forward", 8 if device == "cuda" else 1)
    bounds = {"smoe": 1.03, "grad_cam": 1.05, "grad_cam_plus_plus": 1.05}
    return {
        f"{name} in forward passes, batch {batch} of {size}²": {
            **figure,
            **({"at_most": bounds[name]} if name in bounds else {}),
        }
        for name, figure in figures.items()
        if name != "forward"
    }


def _group_cam(device: str) -> dict[str, dict[str, Any]]:
    from benchmarks.group_cam import published
    from lightning_saliency.explainers import GroupCAM

    network, _, size = _network(device)
    count, groups = (16, 32) if device == "cuda" else (1, 4)
    images = torch.rand(count, 3, size, size, device=device)
    functions = {
        "published": partial(published, network, network.layer4, images, groups),
        "exact": partial(GroupCAM(network, "layer4", groups=groups), images),
        "fast": partial(GroupCAM(network, "layer4", groups=groups, fast=True), images),
    }
    figures = _compared(functions, "published", 3 if device == "cuda" else 1)
    return {
        f"group_cam, {name}, G = {groups}, {count} images of {size}², beside the published procedure": {
            **figures[name],
            **({"at_most": 0.2} if name == "fast" else {}),
        }
        for name in ("exact", "fast")
    }


class _Batches(torch.utils.data.Dataset[dict[str, Tensor]]):
    """Batches that lie on the device already, with a box in each image."""

    def __init__(self, count: int, batch: int, size: int, device: str) -> None:
        self.images = torch.rand(2, batch, 3, size, size, device=device)
        self.labels = torch.randint(0, 1000, (batch,), device=device)
        self.boxes = torch.tensor([[size / 8, size / 8, size / 2, size / 2]], device=device).expand(batch, 1, 4)
        self.count = count

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, index: int) -> dict[str, Tensor]:
        return {"image": self.images[index % 2], "label": self.labels, "boxes": self.boxes}


def _validate(device: str, batches: int) -> Callable[[bool], float]:
    """Seconds a validation took from its second batch on, with the monitor or without."""
    import time

    import pytorch_lightning as pl
    from torch.utils.data import DataLoader

    from lightning_saliency import SaliencyMonitor

    network, batch, size = _network(device)
    loader = DataLoader(_Batches(batches, batch, size, device), batch_size=None)

    class Module(pl.LightningModule):
        def __init__(self) -> None:
            super().__init__()
            self.net = network

        def forward(self, images: Tensor) -> Tensor:
            return self.net(images)

        def validation_step(self, batch: dict[str, Tensor], index: int) -> None:
            self.log("val_loss", nn.functional.cross_entropy(self(batch["image"]), batch["label"]), batch_size=1)

    class Stopwatch(pl.Callback):
        seconds = began = 0.0

        def _now(self) -> float:
            if device == "cuda":
                torch.cuda.synchronize()
            return time.perf_counter()

        def on_validation_batch_end(self, *given: Any, **named: Any) -> None:
            if not self.began:
                self.began = self._now()

        def on_validation_end(self, *given: Any) -> None:
            self.seconds = self._now() - self.began

    module, folder = Module(), tempfile.mkdtemp()

    def run(monitored: bool) -> float:
        stopwatch = Stopwatch()
        trainer = pl.Trainer(
            accelerator="gpu" if device == "cuda" else "cpu",
            devices=1,
            callbacks=[stopwatch, *([SaliencyMonitor()] if monitored else [])],
            logger=False,
            default_root_dir=folder,
            enable_progress_bar=False,
            enable_model_summary=False,
            enable_checkpointing=False,
        )
        trainer.validate(module, loader, verbose=False)
        return stopwatch.seconds

    return run


def _monitor(device: str) -> dict[str, dict[str, Any]]:
    from lightning_saliency.studies import timing

    run = _validate(device, 100 if device == "cuda" else 3)
    times: dict[str, list[float]] = {"without": [], "with": []}
    for round_ in range(4 if device == "cuda" else 2):
        for name in ("without", "with") if round_ % 2 else ("with", "without"):
            seconds = run(name == "with")
            if round_:  # the first round warms up
                times[name].append(seconds)
    one = timing.ratios(times, "without")["with"]
    figures = {"value": one.ratio, "low": one.low, "high": one.high, "at_most": 1.02}
    return {"validation with box scalars of every batch and the film, beside without": figures}


def _synchronisations() -> dict[str, dict[str, Any]]:
    """How often a batch waits for the GPU, as torch counts it."""
    counts = {}
    for monitored in (False, True):
        both = []
        for batches in (6, 26):
            run = _validate("cuda", batches)
            torch.cuda.set_sync_debug_mode("warn")
            try:
                with warnings.catch_warnings(record=True) as caught:
                    warnings.simplefilter("always")
                    run(monitored)
            finally:
                torch.cuda.set_sync_debug_mode("default")
            both.append(sum("synchroniz" in str(one.message) for one in caught))
        counts[monitored] = (both[1] - both[0]) / 20
    return {
        "synchronisations a validation batch, without the monitor": {"value": counts[False]},
        "synchronisations a validation batch, with the monitor": {"value": counts[True], "at_most": counts[False]},
    }


def _augmentation(device: str) -> dict[str, dict[str, Any]]:
    from benchmarks import augmentation
    from lightning_saliency.studies import timing

    name, batch, size, steps, rounds = ("resnet50", 32, 224, 5, 2) if device == "cuda" else ("resnet18", 2, 32, 1, 1)
    images = torch.randn(batch, 3, size, size)
    chosen = (augmentation.PLAIN, augmentation.ECONOMY, augmentation.HIDDEN, augmentation.CURE)
    times: dict[str, list[float]] = {arm: [] for arm in chosen}
    for seed in range(rounds):
        for arm in chosen:
            times[arm].append(augmentation.step_seconds(augmentation.arms(seed)[arm], name, images, steps))
    found = timing.ratios(times, augmentation.PLAIN)
    return {
        f"training step, {arm}, beside plain": {
            "value": found[arm].ratio,
            "low": found[arm].low,
            "high": found[arm].high,
            "at_most": augmentation.STEP_TARGET,
        }
        for arm in chosen[1:]
    }
