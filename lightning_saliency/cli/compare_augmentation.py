"""``lightning-saliency compare-augmentation``: augmentations guided by saliency maps, others, and controls."""

from __future__ import annotations

from collections.abc import Sequence

from jsonargparse import ArgumentParser
from rich.console import Console

from lightning_saliency.cli._errors import UsageError
from lightning_saliency.cli._overrides import put, split_overrides
from lightning_saliency.studies.augmentation.run import AugmentationConfig, plan_augmentation, run_augmentation
from lightning_saliency.studies.engine.run import CellError


def run(arguments: Sequence[str]) -> int:
    """Run the comparison, print its table and verdicts, and write its results; with ``--plan`` only say what would run.

    Args:
        arguments: For example ``["--config", "configs/compare_augmentation_cifar.yaml", "--data_root", "data"]``.

    Returns:
        0; errors in the arguments end the process with status 2, as those of the training commands do.

    Raises:
        UsageError: If a file is missing, an option cannot be carried out, or the results found are of something else.
    """
    parser = _parser()
    plain, inner = split_overrides(_dashed(arguments), ["arms"])
    parsed = parser.parse_args(plain)
    for path, value in inner:
        put(parsed.arms, path[1:], value)
    console = Console()
    try:
        given = vars(parser.instantiate_classes(parsed))
        plan_only = given.pop("plan")
        config = AugmentationConfig(**{name: value for name, value in given.items() if name != "config"})
        if plan_only:
            plan = plan_augmentation(config, console)
            console.print(plan.table())
            console.print(plan.summary(), highlight=False)
            return 0
        comparison = run_augmentation(config, console)
    except (ValueError, ImportError, FileNotFoundError, CellError) as error:
        raise UsageError(str(error)) from error
    console.print(comparison.table().rich())
    for line in comparison.verdicts():
        console.print(line, highlight=False, soft_wrap=True, markup=False)
    console.print(f"Tables, plots and all values are in {config.output}", highlight=False, soft_wrap=True)
    return 0


def _dashed(arguments: Sequence[str]) -> list[str]:
    """The arguments with ``--data-root`` as the configuration spells it."""
    return [
        f"--data_root{argument.removeprefix('--data-root')}" if argument.startswith("--data-root") else argument
        for argument in arguments
    ]


def _parser() -> ArgumentParser:
    parser = ArgumentParser(
        prog="lightning-saliency compare-augmentation",
        description=(
            "Fine-tune networks with augmentations that saliency maps guide, with others, with none, and with masks of "
            "no meaning as a control, for equal steps and for equal wall time. A run that was killed goes on where it "
            "stopped when it is started again."
        ),
    )
    parser.add_argument("--config", action="config", help="YAML file with any of the options below")
    parser.add_argument("--plan", action="store_true", help="only say what would run, and for how long")
    parser.add_class_arguments(AugmentationConfig)
    return parser
