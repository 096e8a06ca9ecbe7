"""The tables of a comparison of augmentations, made anew from the raw results that stand beside a page.

    python -m tools.comparison_tables docs/results/shortcut/watermark_digits.json.gz

Several files are parts of one comparison, whose arms were run at different times: each has to hold the same networks
before the arms part, to the last count, so that what comes after can be set against each other. ``--out`` keeps them
as one. A step's cost is told of the first file alone, the others having been timed on another day.

    python -m tools.comparison_tables FIRST.json.gz LATER.json --out TOGETHER.json.gz
"""

from __future__ import annotations

import argparse
import gzip
import json
import math
from pathlib import Path
from typing import Any

from lightning_saliency.reports.tables import Estimate
from lightning_saliency.studies.augmentation.config import BEFORE
from lightning_saliency.studies.augmentation.report.results import AugmentationResult
from lightning_saliency.studies.engine.files import as_json

#: What of a run is told of its images, and not of the machine.
MEASURED = ("accuracy", "groups", "val")


class NotTheSameError(ValueError):
    """Two files are not parts of one comparison."""


def read(path: Path) -> dict[str, Any]:
    """The ``results.json`` of a comparison, compressed or not."""
    content = path.read_bytes()
    found: dict[str, Any] = json.loads(gzip.decompress(content) if path.suffix == ".gz" else content)
    for budgets in found["runs"].values():
        for arms in budgets.values():
            for run in (run for seeds in arms.values() for run in seeds.values()):
                if "mask_fraction" in run:  # its name until November 2026
                    run["kept_share"] = run.pop("mask_fraction")
    return found


def joined(first: dict[str, Any], later: dict[str, Any]) -> dict[str, Any]:
    """The first comparison with the arms of a later one that it does not have.

    Raises:
        NotTheSameError: If the networks differ from which the arms go on, or the seeds.
    """
    merged: dict[str, Any] = json.loads(json.dumps(first))
    for model, budgets in later["runs"].items():
        for budget, arms in budgets.items():
            own = merged["runs"][model][budget]
            for arm in sorted(set(own) & set(arms)):
                ours, theirs = ({seed: _measured(run) for seed, run in each[arm].items()} for each in (own, arms))
                if ours != theirs:
                    raise NotTheSameError(
                        f"Got two files that hold other results of {arm}, {model}. Allowed are parts of one "
                        "comparison: the same data, seeds and kind of processor; run both parts on one machine."
                    )
            if BEFORE not in set(own) & set(arms):
                raise NotTheSameError(
                    f"Got two files of which one does not hold {BEFORE!r}. Allowed are those with it."
                )
            merged["runs"][model][budget] = own | {arm: runs for arm, runs in arms.items() if arm not in own}
    merged["roles"] = first["roles"] | {arm: role for arm, role in later["roles"].items() if arm not in first["roles"]}
    merged["controls"] = first["controls"] | {
        arm: controls for arm, controls in later["controls"].items() if arm not in first["controls"]
    }
    return merged


def result(raw: dict[str, Any], controls: dict[str, list[str]] | None = None) -> AugmentationResult:
    """The comparison of which these are the raw results."""
    costs: dict[str, dict[str, Estimate]] = {}
    for model, budgets in raw["results"].items():
        for arms in budgets.values():
            costs[model] = {arm: _estimate(keys["cost"]) for arm, keys in arms.items() if keys.get("cost")}
    runs = {
        model: {
            budget: {arm: {int(seed): run for seed, run in seeds.items()} for arm, seeds in arms.items()}
            for budget, arms in budgets.items()
        }
        for model, budgets in raw["runs"].items()
    }
    kept = {
        arm: [name for name in names if name in raw["roles"]]
        for arm, names in (raw["controls"] | (controls or {})).items()
    }
    return AugmentationResult(
        runs=runs,
        costs=costs,
        roles=raw["roles"],
        reference=raw["reference"],
        controls=kept,
        confidence=raw["confidence"],
        number=raw["number"],
        primary=raw["primary"],
        caption=raw["caption"],
    )


def training_minutes(raw: dict[str, Any]) -> float:
    """How long the arms' training steps took together; without the training before fine-tuning, timings and tests."""
    runs = [
        run
        for budgets in raw["runs"].values()
        for arms in budgets.values()
        for seeds in arms.values()
        for run in seeds.values()
    ]
    return sum(run["steps"] * run["seconds_per_step"] for run in runs if run["seconds_per_step"] is not None) / 60


def _measured(run: dict[str, Any]) -> dict[str, Any]:
    return {name: run.get(name) for name in MEASURED}


def _estimate(told: dict[str, Any]) -> Estimate:
    """A number, of which an end that is ``None`` is infinite."""
    low, high = (told[end] if told[end] is not None else sign * math.inf for end, sign in (("low", -1), ("high", 1)))
    return Estimate(told["value"], low, high, told["count"])


def main() -> None:
    """Print the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("files", type=Path, nargs="+")
    parser.add_argument("--out", type=Path, help="where to keep the parts as one, compressed")
    parser.add_argument("--controls", type=json.loads, help='of arms, such as {"mean": ["mean, random blobs"]}')
    options = parser.parse_args()
    raw = read(options.files[0])
    for path in options.files[1:]:
        raw = joined(raw, read(path))
    found = result(raw, options.controls)
    print(found)
    print(f"\nThe arms' training steps took {training_minutes(raw):.0f} minutes together.")
    if options.out:
        # Without a name and a time in it, so that the same results are the same file.
        with options.out.open("wb") as file, gzip.GzipFile("", "wb", 9, file, 0) as packed:
            packed.write(as_json(found.as_dict()).encode())


if __name__ == "__main__":
    main()
