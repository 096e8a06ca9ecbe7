"""What the commands of all studies share: options from YAML and the command line, ``--plan``, tables, files."""

from __future__ import annotations

import shlex
from collections.abc import Callable, Sequence
from typing import Any

from rich.console import Console

from lightning_saliency.cli.parsing.configs import check_needs
from lightning_saliency.cli.parsing.errors import UsageError
from lightning_saliency.cli.parsing.parser import command_parser, parse
from lightning_saliency.reports.notices import Made
from lightning_saliency.scales.taps import TapError
from lightning_saliency.studies.engine.cell import CellError, computing_seconds
from lightning_saliency.studies.engine.progress import duration

# Errors of a configuration that cannot be carried out; others are defects, and keep their traceback.
_USAGE = (ValueError, TypeError, ImportError, OSError, CellError, TapError)


def run_study(
    command: str,
    description: str,
    config: type[Any],
    plan: Callable[..., Any],
    study: Callable[..., Any],
    arguments: Sequence[str],
    into: Sequence[str] = (),
) -> int:
    """Run a study, print its tables and verdicts and write its results; with ``--plan`` only say what it costs.

    Args:
        command: Its name.
        description: What it does, for ``--help``.
        config: The dataclass of its options.
        plan: Called with the options; its result's ``rich()`` is printed.
        study: Called with the options; its result has ``tables()``, ``notices()``, ``save(made=...)`` that returns the
            files it wrote, the page first, and, if there are any, ``verdicts()``.
        arguments: For example ``["--config", "configs/roar_kar_digit_scenes.yaml", "--plan"]``.
        into: Options that are mappings, into which an argument may reach: ``--explainers.rise.init_args.masks 500``.

    Returns:
        0; errors in the arguments end the process with status 2, as those of the training commands do.

    Raises:
        UsageError: If a file is missing, an option cannot be carried out, the results found are of something else, or
            cells failed.
    """
    parser = command_parser(command, "--config FILE [--plan] [OPTIONS]", description)
    parser.add_argument("--plan", action="store_true", help="only say what would run, and for how long")
    parser.add_class_arguments(config, as_group=False)
    # Classes are named here; each cell builds its own.
    given = parse(parser, arguments, into)
    planned = given.pop("plan")
    console = Console(markup=False, highlight=False)  # names and paths are shown as they are
    try:
        options = config(**{name: value for name, value in given.items() if name != "config"})
        check_needs(arguments)
        if planned:
            console.print(plan(options).rich())
            return 0
        folder = options.folder  # so that nothing is computed that could not be kept
        result = study(options)
        took = f"{duration(computing_seconds(folder))} of computing, all parts together"
        written = result.save(made=Made(shlex.join(["lightning-saliency", command, *arguments]), took))
    except _USAGE as error:
        raise UsageError(str(error)) from error
    for table in result.tables():
        console.print(table.rich(any(column.better for column in table.columns), console.width))
    for notice in result.notices():
        console.print(f"Note: {notice}", style="bold", soft_wrap=True)
    for line in result.verdicts() if hasattr(result, "verdicts") else ():
        console.print(line, soft_wrap=True)
    said = f"{len(written)} files in {options.output}; the page is {written[0]}"
    console.print(said, soft_wrap=True)
    return 0
