"""``lightning-saliency layers resnet50``: the scales of a network as a table."""

from __future__ import annotations

from argparse import SUPPRESS
from collections.abc import Sequence

import torch
from jsonargparse import ArgumentParser
from rich.console import Console
from rich.table import Table

from lightning_saliency.cli.parsing.errors import UsageError
from lightning_saliency.cli.parsing.networks import add_network_arguments, image_shape, load_network
from lightning_saliency.cli.parsing.parser import command_parser
from lightning_saliency.scales.find import find_scales
from lightning_saliency.scales.scale import SCALE_COLUMNS, scale_table


def run(arguments: Sequence[str]) -> int:
    """Print the table.

    Args:
        arguments: The model's name and options.

    Returns:
        0.

    Raises:
        UsageError: If there is no such network, or no scales are found in it.
    """
    options = _parser().parse_args(arguments)
    if "model" not in options:
        raise UsageError(
            "Got no model. Allowed is one name, such as resnet50; write: lightning-saliency layers resnet50"
        )
    channels, height, width = image_shape(options)
    try:
        scales = find_scales(load_network(options), torch.rand(2, channels, height, width))
    except (ValueError, ImportError, FileNotFoundError, RuntimeError) as error:
        raise UsageError(str(error)) from error
    table = Table(title=f"Scales of {options.model} at {height}×{width}")
    for heading in SCALE_COLUMNS:
        table.add_column(heading, overflow="fold", no_wrap=heading != "module")
    for row in scale_table(scales):
        table.add_row(*row)
    Console(markup=False).print(table)
    return 0


def _parser() -> ArgumentParser:
    parser = command_parser("layers", "MODEL [OPTIONS]", "Print the scales found in a network.")
    parser.add_argument(
        "model", type=str, nargs="?", default=SUPPRESS, help="torchvision's name, timm/NAME, or path/file.py:function"
    )
    parser.add_argument("--size", type=int, nargs="+", default=[224], help="height and width of the images in pixels")
    parser.add_argument("--channels", type=int, default=3, help="number of channels of the images")
    add_network_arguments(parser)
    return parser
