"""``lightning-saliency evaluate``: networks × explainers × metrics over annotated images."""

from __future__ import annotations

from collections.abc import Sequence

from jsonargparse import ArgumentParser
from rich.console import Console

from lightning_saliency.cli._errors import UsageError
from lightning_saliency.cli._overrides import put, split_overrides
from lightning_saliency.scales.taps import TapError
from lightning_saliency.studies.comparison.run import ComparisonConfig, run_comparison


def run(arguments: Sequence[str]) -> int:
    """Run the comparison, print its table and write its results.

    Args:
        arguments: For example ``["--config", "configs/evaluate_coco.yaml", "--data.limit", "25"]``.

    Returns:
        0; errors in the arguments end the process with status 2, as those of the training commands do.

    Raises:
        UsageError: If a file is missing, an option cannot be carried out, or the results found are of something else.
    """
    parser = _parser()
    plain, inner = split_overrides(arguments, ["explainers"])
    given = parser.parse_args(plain)
    for path, value in inner:
        put(given.explainers, path[1:], value)
    config = ComparisonConfig(
        **{name: value for name, value in vars(parser.instantiate_classes(given)).items() if name != "config"}
    )
    console = Console()
    try:
        comparison = run_comparison(config, console)
    except (ValueError, TypeError, ImportError, FileNotFoundError, TapError) as error:
        raise UsageError(str(error)) from error
    console.print(comparison.table().rich())
    if config.pairs:
        console.print(comparison.differences().rich(marks=False))
    console.print(f"Tables, plots and all values are in {config.output}")
    return 0


def _parser() -> ArgumentParser:
    parser = ArgumentParser(
        prog="lightning-saliency evaluate",
        description=(
            "Compare explainers on images with classes and boxes, as the papers' tables do. A run that was killed goes "
            "on where it stopped when it is started again."
        ),
    )
    parser.add_argument("--config", action="config", help="YAML file with any of the options below")
    parser.add_class_arguments(ComparisonConfig)
    return parser
