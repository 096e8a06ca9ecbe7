"""What each lever of the augmentation's economy does to the time of a training step, and to the maps.

Time: a training step (SGD, cross-entropy) under a `Trainer`, with the callback and without, as a ratio; one batch an
epoch, the arms in turn. Maps: on the photographs and trained networks of the folder beside the project, the Spearman
correlation of a lever's maps with those of the full form, and the overlap (intersection over union) of their masks.

    python -m benchmarks.augmentation [--quick] [--rounds N] [--batch N] [--networks NAME ...] [--arms NAME ...]
"""

from __future__ import annotations

import argparse
import copy
import logging
import time
import warnings
from typing import Any

import pytorch_lightning as pl
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset

from benchmarks._shared_data import TRAINED, network, photographs
from benchmarks._timing import compare, print_table, write_results
from lightning_saliency.callbacks import GroupCAMAugmentation, SaliencyAugmentation
from lightning_saliency.callbacks.augmentation.cache import MapCache
from lightning_saliency.explainers.mask_scoring.fast_forward import FastCopy, lay_out
from lightning_saliency.functional.similarity import spearman

PLAIN, FULL, ECONOMY = "plain fine-tuning", "full: G = 16, every image", "economy=True"
HIDDEN = "hide: SMOE's top tenth"
CURE = "hide, the first network's maps, kept"
SHARP = "hide, sharp images beside"
#: These do to fewer images what the full form does to all.
SAME_MAPS = ("half of the images", "a quarter of the images")
STEP_TARGET = 1.5
REUSED = 4
#: Times as many steps are timed where images are drawn: how many are drawn is chance.
DRAWN_STEPS = 5


class _ChannelsLast(FastCopy):
    """A copy that is channels last and nothing else."""

    def _updated(self, images: Tensor | None) -> nn.Module:
        if self._network is None:
            self._network = copy.deepcopy(self.model).eval()
            lay_out(self._network, torch.channels_last)
        with torch.no_grad():
            for own, now in zip(self._network.state_dict().values(), self.model.state_dict().values(), strict=True):
                own.copy_(now)
        return self._network


class _CopyAugmentation(GroupCAMAugmentation):
    """Queries a copy in single precision: the part of `fast` that is not due to bfloat16. No option of the callback."""

    def __init__(self, kind: type[FastCopy], **settings: Any) -> None:
        super().__init__(**settings)
        self.kind = kind

    def setup(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        super().setup(trainer, pl_module, stage)
        self.prepare()

    def prepare(self) -> None:
        explainer: Any = self.guide._explainer(False)
        explainer.fast, explainer._copy = True, self.kind(explainer.model, None)


def arms(seed: int = 0) -> dict[str, SaliencyAugmentation | None]:
    """Each lever alone, then the other guides, then the preset."""
    settings: dict[str, Any] = {"film": False, "seed": seed}
    return {
        PLAIN: None,
        FULL: GroupCAMAugmentation(**settings),
        "half of the images": GroupCAMAugmentation(probability=0.5, **settings),
        "a quarter of the images": GroupCAMAugmentation(probability=0.25, **settings),
        "channels last": _CopyAugmentation(_ChannelsLast, **settings),
        "folded BatchNorm, channels last": _CopyAugmentation(FastCopy, **settings),
        "fast: both, in the device's own precision": GroupCAMAugmentation(fast=True, **settings),
        "fast and compiled": GroupCAMAugmentation(fast="compiled", **settings),
        "8 groups": GroupCAMAugmentation(groups=8, **settings),
        "4 groups": GroupCAMAugmentation(groups=4, **settings),
        f"maps used for {REUSED} epochs": GroupCAMAugmentation(reuse_epochs=REUSED, **settings),
        "with gradients and de-noising": GroupCAMAugmentation(gradients=True, theta=70.0, **settings),
        "guide: Grad-CAM": SaliencyAugmentation("grad_cam", **settings),
        "guide: Fast-CAM": SaliencyAugmentation("fast_cam", **settings),
        "guide: random blobs": SaliencyAugmentation("random_blobs", **settings),
        HIDDEN: SaliencyAugmentation("smoe", action="hide", **settings),
        CURE: SaliencyAugmentation("smoe", action="hide", guide_network="start", reuse_epochs="all", **settings),
        SHARP: SaliencyAugmentation("smoe", action="hide", keep_original=True, batch_norm="original", **settings),
        ECONOMY: GroupCAMAugmentation(economy=True, **settings),
    }


class _Module(pl.LightningModule):
    def __init__(self, name: str) -> None:
        super().__init__()
        self.net = network(name)[0].train()

    def training_step(self, batch: dict[str, Tensor], batch_idx: int) -> Tensor:
        return nn.functional.cross_entropy(self.net(batch["image"]), batch["label"])

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=1e-3, momentum=0.9, weight_decay=1e-4)


class _Images(Dataset[dict[str, Tensor]]):
    def __init__(self, images: Tensor) -> None:
        self.images = images

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> dict[str, Tensor]:
        return {"image": self.images[index], "label": torch.tensor(index % 1000), "index": torch.tensor(index)}


class _Stopwatch(pl.Callback):
    """Seconds of each step, from before the augmentation to behind the optimiser.

    Of one thread the processor's time is taken, which other processes on the machine do not disturb.
    """

    def __init__(self) -> None:
        self.seconds: list[float] = []
        alone = torch.get_num_threads() == 1 and not torch.cuda.is_available()
        self._clock = time.process_time if alone else time.perf_counter
        self._start = 0.0

    def on_train_batch_start(self, trainer: pl.Trainer, module: Any, batch: Any, batch_idx: int) -> None:
        self._start = self._clock()

    def on_train_batch_end(self, trainer: pl.Trainer, module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
        if torch.cuda.is_available():
            torch.cuda.synchronize()
        self.seconds.append(self._clock() - self._start)


def step_seconds(augmentation: SaliencyAugmentation | None, name: str, images: Tensor, steps: int) -> float:
    """Mean time of a step over `steps` batches, the first of the run left out (it finds the scales)."""
    stopwatch = _Stopwatch()
    data = DataLoader(_Images(images), batch_size=len(images))
    # Maps that are kept are made in the first epoch: it is part of what they cost.
    reused = getattr(augmentation, "reuse_epochs", 1) or REUSED
    trainer = pl.Trainer(
        max_epochs=reused + 1 if reused > 1 else steps + 1,
        accelerator="auto",
        devices=1,
        callbacks=[stopwatch, *([] if augmentation is None else [augmentation])],
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    trainer.fit(_Module(name), data)
    # The epoch after the last use makes the maps anew: with it, each map is made once and used `reused` times. Those
    # that are kept for the whole run cost nothing behind the first step, which makes them and is left out.
    seconds = stopwatch.seconds[1:]
    return sum(seconds) / len(seconds)


def speed(name: str, chosen: list[str], options: argparse.Namespace) -> dict[str, dict[str, float]]:
    torch.manual_seed(0)
    images = torch.randn(options.batch, 3, options.size, options.size)
    times: dict[str, list[float]] = {arm: [] for arm in chosen}
    for seed in range(options.rounds):
        for arm in chosen:
            augmentation = arms(seed)[arm]
            drawn = augmentation is not None and augmentation.probability(epoch=0) < 1
            times[arm].append(step_seconds(augmentation, name, images, options.steps * (DRAWN_STEPS if drawn else 1)))
    return compare(times, PLAIN)


def fidelity(name: str, chosen: list[str], images: Tensor) -> dict[str, dict[str, float]]:
    """Each arm's maps against the full form's: mean and lowest Spearman correlation, mean overlap of the masks."""
    model = network(name)[0]
    with torch.no_grad():
        targets = torch.cat([model(part) for part in images.split(8)]).argmax(1)

    def maps(arm: str) -> Tensor:
        augmentation = arms()[arm]
        assert augmentation is not None
        augmentation.guide.bind(model)
        if isinstance(augmentation, _CopyAugmentation):
            augmentation.prepare()
        generator = torch.Generator().manual_seed(0)
        pairs = zip(images.split(8), targets.split(8), strict=True)
        return torch.cat([augmentation.guide.maps(*pair, generator) for pair in pairs])

    full = maps(FULL)
    result = {}
    for arm in chosen:
        if arm in (PLAIN, FULL, *SAME_MAPS):
            continue
        own = _kept(images, targets, full) if arm.startswith("maps used") else maps(arm)
        masks, expected = (values > values.mean((1, 2), keepdim=True) for values in (own, full))
        overlap = (masks & expected).sum((1, 2)) / (masks | expected).sum((1, 2)).clamp(min=1)
        correlations = spearman(own, full)
        result[arm] = {
            "spearman": correlations.mean().item(),
            "lowest": correlations.min().item(),
            "overlap": overlap.mean().item(),
        }
    return result


def _kept(images: Tensor, targets: Tensor, maps: Tensor) -> Tensor:
    """The maps as the cache gives them back; that the network has changed since is not part of it."""
    cache = MapCache(REUSED)
    cache.maps(images, targets, 0, lambda *_: maps)
    return cache.maps(images, targets, REUSED - 1, lambda *_: torch.full_like(maps, torch.nan))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--networks", nargs="+", default=["resnet50", *TRAINED], help="whose steps are timed")
    parser.add_argument("--arms", nargs="+", default=None, help="only these rows, by their beginnings")
    parser.add_argument("--rounds", type=int, default=3, help="runs of each arm")
    parser.add_argument("--steps", type=int, default=2, help="timed steps of a run")
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--photographs", type=int, default=32)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads(), help="torch's threads")
    parser.add_argument("--quick", action="store_true", help="a tiny setting, to see that it runs; nothing is written")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    logging.getLogger("pytorch_lightning").setLevel(logging.ERROR)
    warnings.filterwarnings("ignore")
    options.size = 224
    if options.quick:
        options.networks, options.size, options.batch, options.photographs = ["resnet18"], 64, 2, 2
        options.rounds = options.steps = 1
    chosen = [arm for arm in arms() if options.arms is None or arm == PLAIN or arm.startswith(tuple(options.arms))]
    if options.quick and options.arms is None:
        chosen.remove("fast and compiled")  # takes up to a minute to compile

    images = photographs(options.photographs, options.size)
    maps: dict[str, Any] = {}
    if images is None:
        print("The photographs and trained networks beside the project are not there: the maps are not compared.")
    else:
        maps = {name: fidelity(name, chosen, images) for name in TRAINED}
    steps = {name: speed(name, chosen, options) for name in options.networks}

    header = ["", *(f"{name}: step" for name in steps), *(f"{name}: {what}" for name in maps for what in ("ρ", "IoU"))]
    rows = []
    for arm in chosen:
        cells = [figures[arm]["ratio"] for figures in steps.values()]
        for figures in maps.values():
            cells += [figures[arm][what] if arm in figures else "" for what in ("spearman", "overlap")]
        rows.append((arm, *cells))
    print_table(f"Step time, plain = 1, batch {options.batch}, threads: {options.threads}; maps", header, rows)
    verdicts = [
        {"what": f"{arm}, {name}", "measured": figures[arm]["ratio"], "target": f"at most {STEP_TARGET}"}
        for name, figures in steps.items()
        for arm in (ECONOMY, HIDDEN, CURE)
        if arm in figures
    ]
    for verdict in verdicts:
        verdict["met"] = verdict["measured"] <= STEP_TARGET
    print_table("Targets", ("", "measured", "target", "met"), [tuple(verdict.values()) for verdict in verdicts])
    if not options.quick and options.arms is None:
        settings = {key: value for key, value in vars(options).items() if key != "arms"}
        path = write_results("augmentation", {"settings": settings, "steps": steps, "maps": maps, "targets": verdicts})
        print(f"Written to {path.relative_to(path.parents[2])}.")


if __name__ == "__main__":
    main()
