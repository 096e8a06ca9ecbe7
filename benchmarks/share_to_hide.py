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
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

from benchmarks._cures import EPOCHS, SHOWN, Cures, hush
from benchmarks._timing import machine, print_table
from lightning_saliency import DigitScenes, MaskTune
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


def run(path: Path, mark: str, seed: int, shares: tuple[float, ...], quick: bool) -> dict[str, dict[str, float]]:
    """Train first, then on with nothing and with each share hidden."""
    sizes = (128, 120, 64) if quick else (3000, 1000, 1000)
    plant, maps, _ = MARKS[mark]
    data = PlantedShortcut(DigitScenes(*sizes, size=32, batch_size=64, seed=seed), plant(), share=0.95)
    cures = Cures(path, data, seed, 1 if quick else EPOCHS)
    for share in (0.0, *shares):
        callbacks = [MaskTune("smoe", share=share, maps=maps)] if share else []
        cures.run(str(share), lambda callbacks=callbacks: (data, callbacks))
    return cures.results


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--marks", nargs="+", default=list(MARKS), choices=MARKS)
    parser.add_argument("--seeds", nargs="+", type=int, default=[100])
    parser.add_argument("--folder", type=Path, default=Path("runs/share_to_hide"), help="where results are kept")
    parser.add_argument("--quick", action="store_true", help="a tiny run that only shows that it works")
    options = parser.parse_args()
    hush()
    results: dict[str, dict[int, Any]] = {}
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary) if options.quick else options.folder
        folder.mkdir(parents=True, exist_ok=True)
        for mark in options.marks:
            shares = MARKS[mark][2][:1] if options.quick else MARKS[mark][2]
            for seed in options.seeds:
                found = run(folder / f"{mark}-{seed}.json", mark, seed, shares, options.quick)
                results.setdefault(mark, {})[seed] = found
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
