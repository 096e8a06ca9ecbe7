"""``lightning-saliency cost --model resnet50``: what a map costs beside the forward pass."""

from __future__ import annotations

import re
from argparse import Namespace
from collections.abc import Sequence
from typing import Any

from jsonargparse import ArgumentParser
from rich.console import Console

from lightning_saliency.cli.parsing.errors import UsageError
from lightning_saliency.cli.parsing.networks import add_network_arguments, image_shape, load_network
from lightning_saliency.cli.parsing.overrides import listed
from lightning_saliency.cli.parsing.parser import command_parser, parse
from lightning_saliency.explainers import EXPLAINERS
from lightning_saliency.studies.method_costs import run_costs

_ALIAS = re.compile(r"^--methods(?=$|[.=])")


def run(arguments: Sequence[str]) -> int:
    """Print the table, and write it where asked to.

    Args:
        arguments: The model's name and options.

    Returns:
        0.

    Raises:
        UsageError: If a name or an option is wrong, or no scales are found in the network.
    """
    options = Namespace(**parse(_parser(), [_ALIAS.sub("--explainers", one) for one in arguments], ["explainers"]))
    channels, height, width = image_shape(options)
    explainers = options.explainers
    if isinstance(explainers, (str, list)):
        explainers = listed("--explainers", explainers)
    try:
        result = run_costs(
            load_network(options),
            explainers,
            name=options.model,
            size=(height, width),
            channels=channels,
            batch_size=options.batch_size,
            rounds=options.rounds,
            budget=options.budget,
            device=options.device,
        )
        written = [] if options.output is None else result.save(options.output)
    except (ValueError, TypeError, ImportError, OSError, RuntimeError) as error:
        raise UsageError(str(error)) from error
    console = Console()
    console.print(result.table().rich(marks=False), highlight=False)
    for line in (*result.by_the_paper(), *map(str, written)):
        console.print(line, highlight=False, markup=False, soft_wrap=True)
    return 0


def _parser() -> ArgumentParser:
    parser = command_parser(
        "cost",
        "--model NAME [OPTIONS]",
        "Count and measure what a map costs by each explainer: passes, FLOPs, seconds, memory, beside the forward "
        "pass of the network.",
    )
    parser.add_argument(
        "--model", type=str, required=True, help="torchvision's name, timm/NAME, or path/file.py:function"
    )
    add_network_arguments(parser)
    parser.add_argument(
        "--explainers",
        type=Any,
        metavar="NAME,...",
        default="smoe,fast_cam,grad_cam,group_cam",
        help=f"names separated by commas, from {', '.join(EXPLAINERS)}, torchcam:METHOD, or a class path; arguments of "
        "one as in --explainers.group_cam.init_args.fast true. --methods is the same",
    )
    parser.add_argument("--size", type=int, nargs="+", default=[224], help="height and width of the images in pixels")
    parser.add_argument("--channels", type=int, default=3, help="number of channels of the images")
    parser.add_argument("--batch_size", type=int, default=8, help="number of images")
    parser.add_argument("--rounds", type=int, default=10, help="timed calls of each")
    parser.add_argument(
        "--budget",
        type=float,
        default=10.0,
        help="seconds that an explainer's maps of the batch may take in each round; one that takes longer is timed "
        "over some of its masked images",
    )
    parser.add_argument("--device", type=str, default="auto", help="auto, cpu, cuda, ...")
    parser.add_argument("--output", type=str, metavar="DIR", help="folder for cost.md and cost.json")
    return parser
