"""Group-CAM that stops once its map's ranking has settled: does it rank pixels, and reveal the class, as all groups do?

100 photographs with their classes (those that `configs/evaluate_imagenet.yaml` chooses with `--limit 100`), two
networks. The map of each photograph's class with all groups, exactly, is set beside that of `SETTLED`: Spearman's
correlation, the passes, and the areas under the insertion and deletion curves, in per cent, differences paired by
photograph. What lies in the file is not computed again; photographs are taken in an order that does not depend on
where they come from. They and the networks lie in the folder of real data beside the project.

    python -m benchmarks.group_cam_passes [--photographs N] [--skip N] [--settled S] [--steps N] [--file FILE]
"""

from __future__ import annotations

import argparse
import csv
import random
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from benchmarks._settled import SettledGroupCAM
from benchmarks._shared_data import SHARED_DATA, TRAINED, network
from benchmarks._timing import print_table
from lightning_saliency.data import AnnotatedImages
from lightning_saliency.explainers import GroupCAM
from lightning_saliency.functional.curves import auc, deletion_curve, insertion_curve
from lightning_saliency.functional.similarity import spearman
from lightning_saliency.metrics.base import scoring
from lightning_saliency.studies.estimates import bootstrap_mean
from lightning_saliency.studies.passes import counted_passes

EXACT, SETTLED = "exact", "settled"
CURVES = {"insertion": insertion_curve, "deletion": deletion_curve}
SCORES = (*CURVES, "overall")
FIELDS = ("network", "explainer", "image", "target", "passes", "spearman", *SCORES)
FOLDERS = ("imagenet_nips17", "imagenet_sample")


class Measuring:
    """One network's explainers, and the faster copy of it that scores the curves.

    Args:
        name: Name of a trained network.
        settled: What is compared with all groups.
        steps: Of the curves; 0: none.
        stack: Closed when all photographs are done.
    """

    def __init__(self, name: str, settled: float, steps: int, stack: ExitStack) -> None:
        self.name, self.steps = name, steps
        model: nn.Module = network(name)[0]
        self.explainers = {EXACT: GroupCAM(model), SETTLED: SettledGroupCAM(model, settled=settled, fast=True)}
        for explainer in self.explainers.values():  # finds the layer, which takes passes, once
            explainer(torch.randn(1, 3, 224, 224), 0)
        self.score_fn = stack.enter_context(scoring(model, "native"))

    def rows(self, image: Tensor, target: Tensor) -> list[dict[str, Any]]:
        """One row for each setting."""
        rows: list[dict[str, Any]] = []
        exact: Tensor | None = None
        for key, explainer in self.explainers.items():
            with counted_passes((image.shape[2], image.shape[3])) as passes:
                maps = explainer(image, target)
            exact = maps if exact is None else exact
            row = {"network": self.name, "explainer": key, "target": int(target), "passes": passes[0]}
            row["spearman"] = round(spearman(maps, exact).item(), 6)
            if not self.steps:
                rows.append(row)
                continue
            curves = [curve(self.score_fn, image, maps, target, steps=self.steps) for curve in CURVES.values()]
            insertion, deletion = (100 * auc(curve).item() for curve in curves)
            row |= {"insertion": insertion, "deletion": deletion, "overall": insertion - deletion}
            rows.append(row)
        return rows


def measure(options: argparse.Namespace) -> list[dict[str, str]]:
    """Measure what the file does not hold yet; all rows that it holds then."""
    paths = [str(SHARED_DATA / folder / "labels.csv") for folder in FOLDERS]
    images = AnnotatedImages(paths, "csv", limit=options.skip + options.photographs, seed=0)
    before = AnnotatedImages(paths, "csv", limit=options.skip, seed=0) if options.skip else []
    skipped = {sample.name for sample in before}
    file: Path = options.file
    file.parent.mkdir(parents=True, exist_ok=True)
    done = {(row["network"], row["image"]) for row in read(file)} if file.is_file() else set()
    with ExitStack() as stack:
        networks = [Measuring(name, options.settled, options.steps, stack) for name in TRAINED]
        opened = stack.enter_context(file.open("a", newline=""))
        writer = csv.DictWriter(opened, FIELDS)
        if not done:
            writer.writeheader()
        for index in random.Random(0).sample(range(len(images)), len(images)):
            sample = images[index]
            target = torch.tensor([sample.candidates[0][0]])
            for one in networks:
                if sample.name not in skipped and (one.name, sample.name) not in done:
                    writer.writerows({"image": sample.name, **row} for row in one.rows(sample.image[None], target))
                    opened.flush()
    return read(file)


def read(file: Path) -> list[dict[str, str]]:
    with file.open(newline="") as opened:
        return list(csv.DictReader(opened))


def summarized(rows: list[dict[str, str]], name: str) -> list[tuple[str, ...]]:
    """A network's table: means with 95 % bootstrap intervals over photographs, and differences to the exact maps."""
    own = [row for row in rows if row["network"] == name]
    exact = {row["image"]: row for row in own if row["explainer"] == EXACT}
    table = []
    for key in (EXACT, SETTLED):
        found = {row["image"]: row for row in own if row["explainer"] == key}
        passes, correlations = ([float(row[column]) for row in found.values()] for column in ("passes", "spearman"))
        cells = [key, f"{sum(passes) / len(passes):.1f}", interval(correlations, 3), f"{min(correlations):.3f}"]
        for column in SCORES if all(row["overall"] for row in own) else ():
            cells.append(interval([float(row[column]) for row in found.values()]))
        for column in SCORES if all(row["overall"] for row in own) else ():
            differences = [float(row[column]) - float(exact[image][column]) for image, row in found.items()]
            cells.append("–" if key == EXACT else interval(differences, 2))
        table.append(tuple(cells))
    return table


def interval(values: list[float], digits: int = 1) -> str:
    mean = bootstrap_mean(values, range(len(values)))
    return f"{mean.value:.{digits}f} [{mean.low:.{digits}f}, {mean.high:.{digits}f}]"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--photographs", type=int, default=100)
    parser.add_argument("--skip", type=int, default=0, help="leave out so many that a run with the same seed takes")
    parser.add_argument("--settled", type=float, default=0.98)
    parser.add_argument("--steps", type=int, default=20, help="steps of each curve; 0: no curves")
    parser.add_argument("--file", type=Path, default=Path("runs/group_cam_passes.csv"))
    options = parser.parse_args()
    rows = measure(options)
    header = ("", "passes", "Spearman", "lowest", *SCORES, *(f"Δ {name}" for name in SCORES))
    for name in TRAINED:
        table = summarized(rows, name)
        print_table(name, header[: len(table[0])], table)


if __name__ == "__main__":
    main()
