"""What half precision does to insertion and deletion: time, and the difference to single precision.

The same maps (Grad-CAM's) of the same photographs, both curves in 100 steps, with the network and with its faster copy
(`MetricConfig.precision`).

    python -m benchmarks.curves [--quick] [--images N] [--rounds N]
"""

from __future__ import annotations

import argparse
from typing import Any

import torch
from torch import Tensor, nn

from benchmarks._shared_data import TRAINED, network, photographs
from benchmarks._timing import compare, print_table, write_results
from lightning_saliency.explainers import GradCAM
from lightning_saliency.explainers.mask_scoring.precisions import Precision
from lightning_saliency.functional.curves import auc, deletion_curve, insertion_curve
from lightning_saliency.metrics.base import scoring
from lightning_saliency.studies.timing import interleaved

ARMS: dict[str, Precision | None] = {"float32": None, "bf16": "bf16"}


def areas(
    model: nn.Module, images: Tensor, maps: Tensor, targets: Tensor, precision: Precision | None, steps: int
) -> Tensor:
    """Insertion, deletion and their difference of each image, ``[3, B]``."""
    with scoring(model, precision) as score_fn:
        insertion = auc(insertion_curve(score_fn, images, maps, targets, steps=steps))
        deletion = auc(deletion_curve(score_fn, images, maps, targets, steps=steps))
    return torch.stack([insertion, deletion, insertion - deletion])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=8, help="photographs")
    parser.add_argument("--rounds", type=int, default=1, help="timed runs of each")
    parser.add_argument("--quick", action="store_true", help="a tiny run that only shows that it works")
    options = parser.parse_args()
    count, steps = (1, 10) if options.quick else (options.images, 100)
    results: dict[str, Any] = {}
    rows = []
    for name in TRAINED:
        model, trained = network(name)
        images = photographs(count)
        if images is None or not trained:
            raise SystemExit("The photographs and trained networks of the folder beside the project are needed.")
        with torch.no_grad():
            targets = model(images).argmax(dim=1)
        maps = GradCAM(model)(images, targets)
        found: dict[str, Tensor] = {}

        def keep(arm: str, precision: Precision | None, given: Any, found: dict[str, Tensor]) -> None:
            found[arm] = areas(*given, precision=precision, steps=steps)

        given: Any = (model, images, maps, targets)
        arms = {
            arm: (lambda arm=arm, precision=precision, given=given, found=found: keep(arm, precision, given, found))
            for arm, precision in ARMS.items()
        }
        times = compare(interleaved(arms, options.rounds, warmup=0), reference="float32")
        difference = (found["bf16"] - found["float32"]).abs()
        results[name] = {
            "images": count,
            "ratio": times["bf16"]["ratio"],
            "largest": dict(zip(("insertion", "deletion", "over-all"), difference.amax(1).tolist(), strict=True)),
            "of the means": (found["bf16"].mean(1) - found["float32"].mean(1)).abs().tolist(),
        }
        rows.append((name, times["bf16"]["ratio"], *difference.amax(1).tolist(), results[name]["of the means"][2]))
    header = ("", "time", "insertion", "deletion", "over-all", "mean over-all")
    title = f"Curves in bf16: time against float32, largest difference of an image's area ({count} images)"
    print_table(title, header, rows)
    if not options.quick:
        path = write_results("curves", {"steps": steps, "networks": results})
        print(f"Written to {path.relative_to(path.parents[2])}.")


if __name__ == "__main__":
    main()
