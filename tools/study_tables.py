"""The tables of a study, made anew from the raw results that stand beside a page.

    python -m tools.study_tables docs/results/coco/all.csv.gz

Which study it was is seen in the file: a comparison of explainers keeps a line for each map (its ``results.csv``), ROAR
and KAR and the masks at one scale, of one data set or merged, keep an accuracy for each cell and seed (their
``results.json``), and a sanity check its comparisons, of which the verdicts are made anew, too. Of a comparison of
augmentations the tables are made by ``tools.comparison_tables``.
"""

from __future__ import annotations

import argparse
import csv
import gzip
import io
import json
from pathlib import Path
from typing import Any, cast

from lightning_saliency.data.sample import Objects
from lightning_saliency.studies.comparison.measuring import MetricConfig
from lightning_saliency.studies.comparison.results import ComparisonResult
from lightning_saliency.studies.layer_masking.merged import MergedLayerMasking
from lightning_saliency.studies.layer_masking.results import LayerMaskingResult
from lightning_saliency.studies.layer_masking.stored import result_of
from lightning_saliency.studies.roar_kar.results import RoarKarResult
from lightning_saliency.studies.samples import Samples
from lightning_saliency.studies.sanity_check.results import SanityCheckResult
from lightning_saliency.studies.sanity_check.stored import result_of as sanity_check_of

StudyResult = ComparisonResult | RoarKarResult | LayerMaskingResult | MergedLayerMasking | SanityCheckResult

#: Of a line of a comparison what is no score.
_TOLD = ("network", "explainer", "image", "label", "target", "seconds", "passes")


def read(path: Path, pairs: list[tuple[str, str]] | None = None, objects: Objects = "boxes") -> StudyResult:
    """The result of which these are the raw numbers.

    Args:
        path: A ``results.csv`` or ``results.json`` of a study, compressed or not.
        pairs: Of a comparison of explainers the differences that are shown.
        objects: Whether it was against boxes or masks, of which the file says nothing.

    Raises:
        ValueError: If the file is of no such study.
    """
    content = path.read_bytes()
    text = (gzip.decompress(content) if path.suffix == ".gz" else content).decode()
    if ".csv" in path.suffixes:
        return _comparison(list(csv.DictReader(io.StringIO(text))), pairs or [], objects)
    told = json.loads(text)
    if "data_sets" in told:
        studies = {name: result_of(one) for name, one in told["data_sets"].items()}
        return MergedLayerMasking(studies, told["confidence"])
    if "scales" in told:
        return result_of(told)
    if "checks" in told:
        return sanity_check_of(told)
    if "unmasked" in told:
        return _roar_kar(told)
    raise ValueError(f"Got {path}, which holds {', '.join(sorted(told))}. Allowed are raw results of these studies.")


def _comparison(lines: list[dict[str, str]], pairs: list[tuple[str, str]], objects: Objects) -> ComparisonResult:
    scores = [name for name in lines[0] if name not in _TOLD]
    tolerances = tuple(float(name.removeprefix("pointing_")) for name in scores if name.startswith("pointing_"))
    columns = [column for column in MetricConfig(tolerances=tolerances).columns(objects) if column.key in scores]
    images = {name: place for place, name in enumerate(dict.fromkeys(line["image"] for line in lines))}
    rows: dict[str, dict[str, list[dict[str, Any]]]] = {}
    for line in lines:
        rows.setdefault(line["network"], {}).setdefault(line["explainer"], []).append(
            {
                "sample": images[line["image"]],
                "label": line["label"],
                "seconds": float(line["seconds"]),
                "passes": float(line["passes"]),
                "scores": {name: float(line[name]) for name in scores if line[name]},
                "curves": {},
            }
        )
    # The tables need no images, which only the sheets of examples show.
    return ComparisonResult(rows, columns, "", cast(Samples, None), pairs=pairs)


def _roar_kar(told: dict[str, Any]) -> RoarKarResult:
    accuracies: dict[str, dict[str, dict[float, list[float]]]] = {}
    for each in told["accuracies"]:
        modes = accuracies.setdefault(each["explainer"], {})
        modes.setdefault(each["mode"], {})[each["fraction"]] = each["accuracies"]
    first = next(iter(accuracies.values()))
    return RoarKarResult(
        network=told["network"],
        modes=tuple(first),
        fractions=tuple(next(iter(first.values()))),
        seeds=tuple(told["seeds"]),
        accuracies=accuracies,
        unmasked=told["unmasked"],
        reference=told["reference"],
    )


def main() -> None:
    """Print the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("file", type=Path)
    parser.add_argument("--pairs", type=json.loads, help='of explainers, such as [["group_cam", "grad_cam"]]')
    parser.add_argument("--masks", action="store_true", help="the explainers were compared against masks, not boxes")
    options = parser.parse_args()
    print(read(options.file, options.pairs, "masks" if options.masks else "boxes"))


if __name__ == "__main__":
    main()
