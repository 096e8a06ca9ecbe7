"""``lightning-saliency roar-kar`` and ``layer-masking``: retraining says whether maps point at what is needed."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from jsonargparse import ArgumentParser
from rich.console import Console

from lightning_saliency.cli._errors import UsageError
from lightning_saliency.cli._overrides import put, split_overrides
from lightning_saliency.studies.engine.run import CellError
from lightning_saliency.studies.layer_masking.run import LayerMaskingConfig, plan_layer_masking, run_layer_masking
from lightning_saliency.studies.roar_kar.run import Plan, RoarKarConfig, plan_roar_kar, run_roar_kar

#: Options that are mappings, into which an argument may reach.
_INTO = ("data", "model", "trainer", "explainers", "fine_tuning")


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
    return _run(
        "roar-kar",
        "Train networks on images of which an explainer's most salient pixels are removed (ROAR) or alone are kept "
        "(KAR), for explainers x fractions x seeds. A study that was killed goes on where it stopped when it is "
        "started again.",
        RoarKarConfig,
        plan_roar_kar,
        run_roar_kar,
        arguments,
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
    return _run(
        "layer-masking",
        "In a trained network, let only those positions of one scale through that a statistic of the activation "
        "chooses, and fine-tune what comes after it: for statistics x scales x seeds. A study that was killed goes on "
        "where it stopped when it is started again.",
        LayerMaskingConfig,
        plan_layer_masking,
        run_layer_masking,
        arguments,
    )


def _run(
    command: str,
    description: str,
    configuration: type[Any],
    plan: Callable[..., Plan],
    study: Callable[..., Any],
    arguments: Sequence[str],
) -> int:
    parser = ArgumentParser(prog=f"lightning-saliency {command}", description=description)
    parser.add_argument("--config", action="config", help="YAML file with any of the options below")
    parser.add_argument("--plan", action="store_true", help="only say what would run, and for how long")
    parser.add_class_arguments(configuration)
    plain, inner = split_overrides(arguments, _INTO)
    # Classes are named here; each cell builds its own.
    given = parser.parse_args(plain).as_dict()
    for path, value in inner:
        put(given, path, value)
    planned = given.pop("plan")
    console = Console()
    try:
        config = configuration(**{name: value for name, value in given.items() if name != "config"})
        if planned:
            console.print(plan(config).rich())
            return 0
        result = study(config)
        written = result.save()
    except (ValueError, TypeError, ImportError, FileNotFoundError, CellError) as error:
        raise UsageError(str(error)) from error
    for table in result.tables():
        console.print(table.rich(marks=any(column.better for column in table.columns)))
    console.print(f"{len(written)} files in {config.output}; the page is {written[0]}", highlight=False, soft_wrap=True)
    return 0
