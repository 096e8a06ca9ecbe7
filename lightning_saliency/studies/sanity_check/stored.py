"""A finished sanity check, read from what it wrote: its comparisons, of which the verdicts are made anew."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields
from typing import Any

from lightning_saliency.studies.sanity_check.checks import ExplainerCheck, SimilarityStep
from lightning_saliency.studies.sanity_check.results import SanityCheckResult


def result_of(told: Mapping[str, Any]) -> SanityCheckResult:
    """The result that a check stored.

    Args:
        told: What ``SanityCheckResult.as_dict`` gave. It holds no pictures.

    Returns:
        The result, whose verdicts are by the rule of this version.

    Raises:
        KeyError: If a part is missing.
        ValueError: If it is of a version that did not measure Pearson's correlation, without which there is no verdict.
    """
    if any("pearson" not in check["random"] for check in told["checks"]):
        raise ValueError(
            "Got a sanity check without Pearson's correlation, of an earlier version. Run it again for its verdicts."
        )
    return SanityCheckResult(
        layers=tuple(told["layers"]),
        targets=tuple(told["targets"]),
        checks=tuple(_check(check) for check in told["checks"]),
        facts=tuple(told["facts"].items()),
    )


def _check(told: Mapping[str, Any]) -> ExplainerCheck:
    own = {field.name: told[field.name] for field in fields(ExplainerCheck) if field.name != "pictures"}
    own["compared"] = tuple(own["compared"])
    for mode in ("cascading", "independent"):
        own[mode] = tuple(
            SimilarityStep(
                step["layers"],
                {measure: tuple(values) for measure, values in step["similarity"].items()},
                step["constant"],
                step["change"],
            )
            for step in own[mode]
        )
    for kind in ("random", "level"):
        own[kind] = {measure: tuple(map(tuple, rows)) for measure, rows in own[kind].items()}
    return ExplainerCheck(**own)
