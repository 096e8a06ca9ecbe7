"""``lightning-saliency compare-augmentation``: augmentations guided by saliency maps, others, and controls."""

from __future__ import annotations

from collections.abc import Sequence

from lightning_saliency.cli.parsing.study import run_study
from lightning_saliency.studies.augmentation import AugmentationConfig, plan_augmentation, run_augmentation

#: Options that are mappings, into which an argument may reach.
_INTO = ("models", "data", "arms")


def run(arguments: Sequence[str]) -> int:
    """Run the comparison, print its table and verdicts, and write its results; with ``--plan`` only say what would run.

    Args:
        arguments: For example ``["--config", "configs/compare_augmentation_digits.yaml", "--workers", "2"]``.

    Returns:
        0; errors in the arguments end the process with status 2, as those of the training commands do.

    Raises:
        UsageError: If a file is missing, an option cannot be carried out, the results found are of something else, or
            runs failed.
    """
    return run_study(
        "compare-augmentation",
        "Fine-tune networks with augmentations that saliency maps guide, with others, with none, and with masks of no "
        "meaning as a control, for equal steps and for equal wall time. A run that was killed goes on where it stopped "
        "when it is started again.",
        AugmentationConfig,
        plan_augmentation,
        run_augmentation,
        arguments,
        _INTO,
    )
