"""``lightning-saliency sanity-check``: do an explainer's maps depend on the weights?"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from functools import partial
from pathlib import Path

import torch
from rich.console import Console
from rich.table import Table

from lightning_saliency.cli._errors import UsageError
from lightning_saliency.cli._networks import (
    add_network_arguments,
    image_files,
    load_network,
    normalized,
    read_image,
)
from lightning_saliency.cli._options import add_option_argument, explainer_options
from lightning_saliency.explainers import EXPLAINERS, find_explainer
from lightning_saliency.scales.find import NoScalesError
from lightning_saliency.studies.sanity_check.check import Build
from lightning_saliency.studies.sanity_check.run import CONTROL, MEASURES, SanityCheckResult, sanity_check


def run(arguments: Sequence[str]) -> int:
    """Run the check, print its table and verdicts, write the results.

    Args:
        arguments: Options and image files or folders.

    Returns:
        0, whatever the verdicts.
    """
    options = _parser().parse_args(arguments)
    files = image_files(options.images)[: options.limit]
    network = load_network(options.model, options).to(options.device)
    shown = [read_image(file, options.resize, options.crop) for file in files]
    if len({image.shape for image in shown}) > 1:
        raise UsageError("the images differ in size: crop them to one with --crop PIXELS")
    images = torch.stack(shown)
    console = Console()
    try:
        explainers = _explainers(options.explainers, options.option)
        for build in explainers.values():
            build(network)
        result = sanity_check(
            network,
            normalized(images, options.normalize).to(options.device),
            explainers,
            max_steps=options.max_steps,
            random_networks=options.random_networks,
            seed=options.seed,
            batch_size=options.batch_size,
            pictures=options.sheets,
            folder=options.output,
            progress=console.is_terminal or options.progress,
        )
    except (NoScalesError, ValueError, TypeError, ImportError) as error:
        raise UsageError(str(error)) from error
    written = result.write(options.output, images)
    console.print(_table(result))
    for name, verdict in result.verdicts().items():
        console.print(f"{name}: {verdict.line}", highlight=False, soft_wrap=True, markup=False)
    console.print(f"{len(written)} files in {options.output}", highlight=False, soft_wrap=True, markup=False)
    return 0


def _table(result: SanityCheckResult) -> Table:
    count = len(result.targets)
    title = f"Random networks' maps: similarity to the original ones (above), to one another (below); {count} images"
    table = Table("explainer", *MEASURES.values(), "constant maps", title=title, show_lines=True)
    for check in result.checks:
        cells = []
        for measure in MEASURES:
            last, level = check.fully_random(measure), check.random_level(measure)
            cells.append(f"{'none' if last is None else last}\n{'none' if level is None else level}")
        table.add_row(check.name, *cells, f"{check.cascading[-1].constant} of {check.images}")
    return table


def _explainers(names: str, given: Sequence[str]) -> dict[str, Build]:
    """What builds each explainer, under its name and its options."""
    asked = [name for name in names.split(",") if name]
    if not asked:
        raise UsageError(f"--explainers {names} was given; allowed are {', '.join(EXPLAINERS)}, separated by commas")
    try:
        return {
            " ".join([name, *(f"{option}={value}" for option, value in sorted(own.items()))]): partial(
                find_explainer(name), **own
            )
            for name, own in explainer_options(asked, given).items()
        }
    except (ValueError, ImportError) as error:
        raise UsageError(f"--explainers {names} was given. {error}") from error


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        "lightning-saliency sanity-check",
        description="Randomise the weights from the top layer to the bottom, all so far (cascading) and one layer at a "
        "time (independent), and compare each explainer's maps with the original ones: maps that stay as they are "
        f"explain nothing that the network has learnt. An edge detector ({CONTROL}) is checked as a control. A "
        "repeated command goes on where the last one ended.",
    )
    parser.add_argument("images", type=Path, nargs="+", metavar="IMAGE", help="image files, or folders of them")
    parser.add_argument("--model", required=True, help="a torchvision network, or timm/NAME")
    add_network_arguments(parser)
    parser.add_argument(
        "--explainers", default="smoe,fast_cam,group_cam,sise", help="names, separated by commas (default: %(default)s)"
    )
    add_option_argument(parser)
    parser.add_argument("--limit", type=_positive, help="take the first so many images only")
    parser.add_argument("--output", type=Path, default=Path("sanity_check"), help="folder (default: %(default)s)")
    parser.add_argument(
        "--max-steps", type=_positive, default=20, help="at most so many groups of layers (default: 20)"
    )
    parser.add_argument("--random-networks", type=int, default=3, help="networks of the level, from 2 (default: 3)")
    parser.add_argument("--sheets", type=int, default=4, help="images of which maps are drawn (default: 4)")
    parser.add_argument("--seed", type=int, default=0, help="of the random weights (default: 0)")
    parser.add_argument("--batch-size", type=_positive, default=4, help="images explained at a time (default: 4)")
    parser.add_argument("--device", default="cpu", help="such as cuda (default: cpu)")
    parser.add_argument("--progress", action="store_true", help="show the progress bar also where there is no terminal")
    parser.add_argument("--resize", type=int, default=256, help="shorter side in pixels (default: 256)")
    parser.add_argument(
        "--crop", type=int, default=224, help="side of the centre crop, 0 for the whole image (default: 224)"
    )
    parser.add_argument("--normalize", choices=("imagenet", "half", "none"), default="imagenet")
    return parser


def _positive(text: str) -> int:
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError(f"expected a whole number from 1, but got {text}")
    return number
