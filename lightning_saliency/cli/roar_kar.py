"""``lightning-saliency roar-kar`` and ``layer-masking``: do maps point at what a network needs."""

from __future__ import annotations

from collections.abc import Sequence

from lightning_saliency.cli.parsing.study import run_study
from lightning_saliency.studies.layer_masking.run import LayerMaskingConfig, plan_layer_masking, run_layer_masking
from lightning_saliency.studies.roar_kar.run import RoarKarConfig, plan_roar_kar, run_roar_kar

#: Options that are mappings, into which an argument may reach.
_INTO = ("data", "model", "trainer", "explainers", "fine_tuning", "rates")


def run(arguments: Sequence[str]) -> int:
    """Run a ROAR and KAR study, print its tables and write its results; with ``--plan`` only say what it costs.

    Args:
        arguments: For example ``["--config", "configs/roar_kar_digit_scenes.yaml", "--workers", "2"]``.

    Returns:
        0; errors in the arguments end the process with status 2, as those of the training commands do.

    Raises:
        UsageError: If a file is missing, an option cannot be carried out, the results found are of something else, or
            cells failed.
    """
    return run_study(
        "roar-kar",
        "Train networks on images of which an explainer's most salient pixels are removed (ROAR) or alone are kept "
        "(KAR), for explainers x fractions x seeds. A study that was killed goes on where it stopped when it is "
        "started again.",
        RoarKarConfig,
        plan_roar_kar,
        run_roar_kar,
        arguments,
        _INTO,
    )


def run_layers(arguments: Sequence[str]) -> int:
    """Run a layer-masking study, print its tables and write its results; with ``--plan`` only say what it costs.

    Args:
        arguments: For example ``["--config", "configs/layer_masking_digit_scenes.yaml", "--plan"]``.

    Returns:
        0; errors in the arguments end the process with status 2, as those of the training commands do.

    Raises:
        UsageError: As `run` does.
    """
    return run_study(
        "layer-masking",
        "In a trained network, let only those positions of one scale through that a statistic of the activation "
        "chooses, and fine-tune what comes after it: for statistics x scales x seeds. A study that was killed goes on "
        "where it stopped when it is started again.",
        LayerMaskingConfig,
        plan_layer_masking,
        run_layer_masking,
        arguments,
        _INTO,
    )
