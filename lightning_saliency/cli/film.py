"""``lightning-saliency film RUN``: the page of a run, or of two side by side."""

from __future__ import annotations

from argparse import SUPPRESS
from collections.abc import Sequence

from jsonargparse import ArgumentParser

from lightning_saliency.cli._errors import UsageError
from lightning_saliency.cli._parser import command_parser, parse
from lightning_saliency.pictures.page import film


def run(arguments: Sequence[str]) -> int:
    """Make the page and say where it is.

    Args:
        arguments: One or two runs, and options.

    Returns:
        0.

    Raises:
        UsageError: If there is no such run, or it has no film.
    """
    options = parse(_parser(), arguments, [])
    runs = options.get("runs") or []
    if len(runs) not in (1, 2):
        raise UsageError(f"Got {len(runs)} runs. Allowed are one, or two to compare; name the folder of each.")
    try:
        page = film(
            runs[0],
            runs[1] if len(runs) > 1 else None,
            options["output"],
            name=options["name"],
            max_megabytes=options["max_megabytes"],
        )
    except (ValueError, OSError) as error:
        raise UsageError(str(error)) from error
    print(page)
    return 0


def _parser() -> ArgumentParser:
    parser = command_parser(
        "film",
        "RUN [RUN] [OPTIONS]",
        "Make one HTML page of what SaliencyMonitor kept of a run, or of two runs side by side: a slider over the "
        "epochs, the images with their maps, the curves. It needs no network and no server.",
    )
    parser.add_argument("runs", type=str, nargs="*", default=SUPPRESS, metavar="RUN", help="folders of one or two runs")
    parser.add_argument("--output", type=str, metavar="FILE", help="the page, else film.html in the run's folder")
    parser.add_argument("--name", type=str, help="the monitor's name, where a run has several")
    parser.add_argument("--max_megabytes", type=float, default=20.0, help="largest size of the page")
    return parser
