"""``lightning-saliency merge-layer-masking RUN RUN``: the tables of finished layer-masking studies in one."""

from __future__ import annotations

import shlex
from argparse import SUPPRESS, Namespace
from collections.abc import Sequence

from jsonargparse import ArgumentParser

from lightning_saliency.cli.parsing.errors import UsageError
from lightning_saliency.cli.parsing.parser import command_parser, parse
from lightning_saliency.reports.notices import Made
from lightning_saliency.studies.layer_masking.merged import merge_layer_masking

_COMMAND = "merge-layer-masking"


def run(arguments: Sequence[str]) -> int:
    """Print the tables as Markdown, and write them where asked to.

    Args:
        arguments: The output folders of two studies and more, and options.

    Returns:
        0.

    Raises:
        UsageError: If a folder holds no results, or the studies do not fit together.
    """
    options = Namespace(**parse(_parser(), arguments, []))
    runs = getattr(options, "runs", None) or []
    names = None if options.names is None else [name.strip() for name in options.names.split(",")]
    made = Made(shlex.join(["lightning-saliency", _COMMAND, *arguments]))
    try:
        merged = merge_layer_masking(runs, names)
        written = [] if options.output is None else merged.save(options.output, made=made)
    except (ValueError, OSError) as error:
        raise UsageError(str(error)) from error
    print(merged)
    for notice in merged.notices():
        print(f"Note: {notice}")
    if written:
        print(f"{len(written)} files in {options.output}; the page is {written[0]}")
    return 0


def _parser() -> ArgumentParser:
    parser = command_parser(
        _COMMAND,
        "RUN RUN [RUN ...] [OPTIONS]",
        "Put finished layer-masking studies of several data sets into one table: the scores of each statistic by data "
        "set and their average, the accuracies, and how often a statistic ranks among the best. Nothing is trained.",
    )
    parser.add_argument("runs", type=str, nargs="*", default=SUPPRESS, metavar="RUN", help="the studies' folders")
    parser.add_argument(
        "--names", type=str, metavar="NAME,...", help="names of the data sets, in that order, else those of the folders"
    )
    parser.add_argument("--output", type=str, metavar="FOLDER", help="where tables, numbers and the page are written")
    return parser
