"""How well `position_bias` and other numbers tell networks that learned a planted mark from honest ones.

For each task (`benchmarks._shortcut_networks`) networks with and without marks are trained, one cell after another; a
cell that lies in the folder is not trained again. Each candidate's area under the ROC curve is over networks, at the
last epoch; alerts are those that `SaliencyMonitor` would raise at its defaults, frame by frame.

    python -m benchmarks.position_bias [--tasks corner centred] [--networks 10] [--folder runs/position_bias] [--quick]
"""

from __future__ import annotations

import argparse
import gzip
import json
import logging
import tempfile
import warnings
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torchmetrics.functional.classification import binary_auroc

from benchmarks._shortcut_networks import TASKS, Trained, has_data, train
from benchmarks._timing import machine, print_table
from lightning_saliency.callbacks.monitor.shortcuts.alert import AlertState, ShortcutAlert
from lightning_saliency.files import write_atomically
from lightning_saliency.functional.masking import top_fraction
from lightning_saliency.functional.position_bias import position_bias

RESULTS = Path(__file__).parents[1] / "docs" / "results" / "position_bias" / "networks.json.gz"
ARMS = ("honest", "shortcut")


def candidates(maps: Tensor, labels: Tensor, images: Tensor) -> dict[str, float]:
    """The numbers that might tell a shortcut.

    Args:
        maps: ``[N, 16, 16]``.
        labels: ``[N]``.
        images: ``[N, 3, H, W]``.

    Returns:
        By name: ``position_bias`` and ``content_bias``; the same place's share of images alone (``share``); the issue's
        first: the share of images with the most common cell among their top 5 % (``common_cell``), the correlation of a
        map with the mean of the others (``correlation``), the peak of the mean map over its mean (``peak``); the common
        cell's share in each class for itself, averaged (``class_cell``).
    """
    flat = maps.flatten(1)
    found = position_bias(maps, labels, images)
    top = top_fraction(maps, 0.05).flatten(1).float()
    centred = flat - flat.mean(1, keepdim=True)
    centred = centred / centred.norm(dim=1, keepdim=True).clamp_min(1e-9)
    others = centred.sum(0) - centred
    return {
        "position_bias": found.bias,
        "content_bias": found.content,
        "share": found.share,
        "common_cell": float(top.mean(0).max()),
        "class_cell": float(torch.stack([top[labels == each].mean(0).max() for each in labels.unique()]).mean()),
        "correlation": float(torch.cosine_similarity(centred, others).mean()),
        "peak": float(flat.mean(0).max() / flat.mean()),
    }


def alerts(trained: Trained) -> dict[str, bool]:
    """Whether the monitor would have warned: with the network before training, and without."""
    raised = {}
    for name in ("with start", "without start"):
        state = AlertState(ShortcutAlert())
        for epoch, maps in sorted(trained.frames.items()):
            found = position_bias(maps.float(), trained.labels, trained.images)
            if epoch < 0:
                if name == "with start":
                    state.begin(found, "saliency")
            else:
                state.see(found, "saliency")
        raised[name] = state.raised
    return raised


def area(shortcut: Sequence[float], honest: Sequence[float]) -> float:
    """Area under the ROC curve."""
    values = torch.tensor([*shortcut, *honest]).sigmoid()
    truth = torch.tensor([1] * len(shortcut) + [0] * len(honest))
    return float(binary_auroc(values.double(), truth))


def measured(trained: Trained) -> dict[str, Any]:
    """The raw values of a network, as the results keep them."""
    frames = {epoch: candidates(maps.float(), trained.labels, trained.images) for epoch, maps in trained.frames.items()}
    last = trained.accuracy[max(trained.accuracy)]
    return {"validation": last, "unmarked": trained.test, "alerts": alerts(trained), "frames": frames}


def _cell(folder: Path, task: str, arm: Any, seed: int, quick: bool) -> Trained:
    path = folder / f"{task}-{arm}-{seed}.pt"
    if not path.is_file():
        trained = train(task, arm, seed, quick)
        torch.save(asdict(trained), path.with_suffix(".tmp"))
        path.with_suffix(".tmp").replace(path)
        print(f"{path.name}: {trained.accuracy[max(trained.accuracy)]:.2f}, unmarked {trained.test:.2f}", flush=True)
    return Trained(**torch.load(path, weights_only=True))


def _rows(results: dict[str, dict[str, list[dict[str, Any]]]]) -> list[tuple[Any, ...]]:
    rows: list[tuple[Any, ...]] = []
    for task, arms in results.items():
        last, start = (
            {arm: [run["frames"][epoch(run["frames"])] for run in runs] for arm, runs in arms.items()}
            for epoch in (max, min)
        )
        for name in last["honest"][0]:
            values = {arm: [frame[name] for frame in last[arm]] for arm in ARMS}
            grown = {arm: [a[name] - b[name] for a, b in zip(last[arm], start[arm], strict=True)] for arm in ARMS}
            spans = (f"{min(each):.2f}-{max(each):.2f}" for each in (values["shortcut"], values["honest"]))
            before = [frame[name] for frame in start["honest"]]
            areas = (area(each["shortcut"], each["honest"]) for each in (values, grown))
            rows.append((f"{task}: {name}", *spans, f"{min(before):.2f}-{max(before):.2f}", *areas))
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tasks", nargs="+", default=list(TASKS), choices=TASKS)
    parser.add_argument("--networks", type=int, default=10, help="of each arm")
    parser.add_argument("--folder", type=Path, default=Path("runs/position_bias"), help="where the maps are kept")
    parser.add_argument("--quick", action="store_true", help="a tiny run that only shows that it works")
    parser.add_argument("--trained", action="store_true", help="evaluate what lies in the folder, train nothing")
    options = parser.parse_args()
    torch.set_num_threads(1)
    logging.getLogger("pytorch_lightning.utilities.rank_zero").setLevel(logging.ERROR)
    warnings.filterwarnings("ignore")
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary) if options.quick else options.folder
        folder.mkdir(parents=True, exist_ok=True)
        results: dict[str, dict[str, list[dict[str, Any]]]] = {}
        for seed in range(2 if options.quick else options.networks):
            for task in filter(has_data, options.tasks):
                paths = [folder / f"{task}-{arm}-{seed}.pt" for arm in ARMS]
                if options.trained and not all(path.is_file() for path in paths):
                    continue
                for arm in ARMS:
                    runs = results.setdefault(task, {each: [] for each in ARMS})[arm]
                    runs.append({"seed": seed, **measured(_cell(folder, task, arm, seed, options.quick))})
    header = ("", "shortcut", "honest", "untrained", "ROC AUC", "of growth")
    print_table("Networks at their last epoch", header, _rows(results))
    counts = [
        (
            f"{task}, {arm}",
            len(runs),
            sum(run["validation"] for run in runs) / len(runs),
            sum(run["unmarked"] for run in runs) / len(runs),
            *(sum(run["alerts"][way] for run in runs) for way in ("with start", "without start")),
        )
        for task, arms in results.items()
        for arm, runs in arms.items()
    ]
    header = ("", "networks", "validation", "unmarked", "alerts", "without start")
    print_table("Alerts at the defaults", header, counts)
    if not options.quick:
        RESULTS.parent.mkdir(parents=True, exist_ok=True)
        text = json.dumps({"machine": machine(), "tasks": results})
        write_atomically(RESULTS, gzip.compress(text.encode(), mtime=0))


if __name__ == "__main__":
    main()
