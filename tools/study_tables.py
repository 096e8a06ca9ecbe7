"""The tables of a study, made anew from the raw results that stand beside a page.

    python -m tools.study_tables docs/results/coco/all.csv.gz
    python -m tools.study_tables docs/results/coco/all.csv.gz --pairs rise,sise smoe,random
    python -m tools.study_tables docs/results/sise_passes/*.csv.gz --pairs "μ = 0.5,μ = 0"

Of two explainers --pairs gives the difference, paired by image and class, with its interval: what a page says of two is
shown where that interval does not hold zero. Files of one comparison of explainers, each with some of its networks or
explainers, are put together.

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
from collections.abc import Sequence
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


def read(path: Path, *more: Path, pairs: Sequence[tuple[str, str]] = (), objects: Objects = "boxes") -> StudyResult:
    """The result of which these are the raw numbers.

    Args:
        path: A ``results.csv`` or ``results.json`` of a study, compressed or not.
        more: Further ``results.csv`` of the same comparison of explainers.
        pairs: Of a comparison of explainers the differences that are shown.
        objects: Whether it was against boxes or masks, of which the file says nothing.

    Raises:
        ValueError: If a file is of no such study, or there is no explainer of that name.
    """
    if ".csv" in path.suffixes:
        lines = [line for each in (path, *more) for line in csv.DictReader(io.StringIO(_text(each)))]
        return _comparison(lines, pairs, objects)
    if more:
        raise ValueError(f"Got {1 + len(more)} files. Allowed is one, but for the results.csv of a comparison.")
    told = json.loads(_text(path))
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


def _text(path: Path) -> str:
    content = path.read_bytes()
    return (gzip.decompress(content) if path.suffix == ".gz" else content).decode()


def _comparison(lines: list[dict[str, str]], pairs: Sequence[tuple[str, str]], objects: Objects) -> ComparisonResult:
    known = dict.fromkeys(line["explainer"] for line in lines)
    if unknown := {name for pair in pairs for name in pair} - set(known):
        raise ValueError(f"Got pairs of {', '.join(sorted(unknown))}. Allowed are {', '.join(known)}.")
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
    for network, methods in rows.items():
        if len({tuple((row["sample"], row["label"]) for row in of) for of in methods.values()}) > 1:
            raise ValueError(
                f"Got explainers on {network} with other images, or in another order. Give one comparison's."
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
    parser.add_argument("files", type=Path, nargs="+", metavar="FILE")
    parser.add_argument("--pairs", type=_pair, nargs="+", default=[], metavar="FIRST,SECOND", help="first less second")
    parser.add_argument("--masks", action="store_true", help="the explainers were compared against masks, not boxes")
    options = parser.parse_args()
    print(read(*options.files, pairs=options.pairs, objects="masks" if options.masks else "boxes"))


def _pair(text: str) -> tuple[str, str]:
    names = text.split(",")
    if len(names) != 2:
        raise argparse.ArgumentTypeError(f"Got {text}. Allowed are two explainers, as in group_cam,grad_cam.")
    return names[0], names[1]


if __name__ == "__main__":
    main()
