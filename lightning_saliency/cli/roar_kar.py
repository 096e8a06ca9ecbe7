"""``lightning-saliency roar-kar`` and ``layer-masking``: retraining says whether maps point at what is needed."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from typing import Any

from jsonargparse import ArgumentParser
from rich.console import Console

from lightning_saliency.cli._errors import UsageError
from lightning_saliency.studies.engine import CellError
from lightning_saliency.studies.layer_masking import LayerMaskingConfig, plan_layer_masking, run_layer_masking
from lightning_saliency.studies.roar_kar import Plan, RoarKarConfig, plan_roar_kar, run_roar_kar

#: Options that are mappings, into which an argument may reach.
_INTO = ("--data.", "--model.", "--trainer.", "--explainers.", "--fine_tuning.")


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


def _split(arguments: Sequence[str]) -> tuple[list[str], list[tuple[list[str], Any]]]:
    """The arguments without those such as ``--data.init_args.root PATH``, which reach into an option, and these."""
    plain: list[str] = []
    inner: list[tuple[list[str], Any]] = []
    left = list(arguments)
    while left:
        name, equals, value = left.pop(0).partition("=")
        if not name.startswith(_INTO):
            plain.append(name + equals + value)
            continue
        if not equals:
            if not left:
                raise UsageError(f"{name} was given without a value: write {name} VALUE")
            value = left.pop(0)
        inner.append((name.removeprefix("--").split("."), _value(value)))
    return plain, inner


def _value(text: str) -> Any:
    try:
        return json.loads(text)
    except json.JSONDecodeError:
        return text


def _put(options: dict[str, Any], path: Sequence[str], value: Any) -> None:
    """Set one value inside nested mappings."""
    *outer, last = path
    for key in outer:
        if not isinstance(options.get(key), dict):
            options[key] = {}
        options = options[key]
    options[last] = value


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
    plain, inner = _split(arguments)
    # Classes are named here; each cell builds its own.
    given = parser.parse_args(plain).as_dict()
    for path, value in inner:
        _put(given, path, value)
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
        console.print(table.rich())
    console.print(f"{len(written)} files in {config.output}; the page is {written[0]}", highlight=False, soft_wrap=True)
    return 0
