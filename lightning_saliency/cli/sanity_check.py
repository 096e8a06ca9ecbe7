"""``lightning-saliency sanity-check``: do an explainer's maps depend on the weights?"""

from __future__ import annotations

from collections.abc import Sequence

from lightning_saliency.cli.parsing.study import run_study
from lightning_saliency.studies.sanity_check import SanityCheckConfig, plan_sanity_check, run_sanity_check

#: Options that are mappings, into which an argument may reach.
_INTO = ("model", "data", "explainers")


def run(arguments: Sequence[str]) -> int:
    """Run the check, print its table and verdicts, write the results; with ``--plan`` only say what it costs.

    Args:
        arguments: For example ``["--config", "configs/sanity_check_digits.yaml"]``.

    Returns:
        0, whatever the verdicts.

    Raises:
        UsageError: If a file is missing, an option cannot be carried out, the results found are of something else, or
            cells failed.
    """
    return run_study(
        "sanity-check",
        "Randomise the weights from the top layer to the bottom, all so far (cascading) and one layer at a time "
        "(independent), and compare each explainer's maps with the original ones: maps that stay as they are explain "
        "nothing that the network has learnt. An edge detector is checked as a control. A check that was killed goes "
        "on where it stopped when it is started again.",
        SanityCheckConfig,
        plan_sanity_check,
        run_sanity_check,
        arguments,
        _INTO,
    )
