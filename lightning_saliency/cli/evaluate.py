"""``lightning-saliency evaluate``: networks × explainers × metrics over annotated images."""

from __future__ import annotations

from collections.abc import Sequence

from lightning_saliency.cli.parsing.study import run_study
from lightning_saliency.studies.comparison.config import ComparisonConfig
from lightning_saliency.studies.comparison.run import plan_comparison, run_comparison

#: Options that are mappings, into which an argument may reach.
_INTO = ("models", "data", "explainers", "sweeps", "repeats")


def run(arguments: Sequence[str]) -> int:
    """Compare explainers, print the tables and write the results; with ``--plan`` only say what it costs.

    Args:
        arguments: For example ``["--config", "configs/evaluate_coco.yaml", "--limit", "25"]``.

    Returns:
        0; errors in the arguments end the process with status 2, as those of the training commands do.

    Raises:
        UsageError: If a file is missing, an option cannot be carried out, the results found are of something else, or
            cells failed.
    """
    return run_study(
        "evaluate",
        "Compare explainers on images with classes and boxes, as the papers' tables do. A run that was killed goes on "
        "where it stopped when it is started again.",
        ComparisonConfig,
        plan_comparison,
        run_comparison,
        arguments,
        _INTO,
    )
