"""``lightning-saliency layers resnet50``: the scales of a network as a table."""

from __future__ import annotations

import argparse
from collections.abc import Sequence

import torch
from rich.console import Console
from rich.table import Table

from lightning_saliency.cli._errors import UsageError
from lightning_saliency.cli._networks import add_network_arguments, load_network
from lightning_saliency.scales.find import SCALE_COLUMNS, NoScalesError, find_scales, scale_table


def run(arguments: Sequence[str]) -> int:
    """Print the table.

    Args:
        arguments: The model's name and options.

    Returns:
        0.
    """
    parser = argparse.ArgumentParser("lightning-saliency layers", description="Print the scales found in a network.")
    parser.add_argument("model", help="a torchvision network, or timm/NAME")
    parser.add_argument(
        "--size", type=int, nargs="+", default=[224], metavar="PIXELS", help="height and width of the images"
    )
    parser.add_argument("--channels", type=int, default=3, help="channels of the images")
    add_network_arguments(parser)
    options = parser.parse_args(arguments)
    height, width = options.size[0], options.size[-1]
    network = load_network(options.model, options)
    try:
        scales = find_scales(network, torch.rand(2, options.channels, height, width))
    except (NoScalesError, RuntimeError) as error:
        raise UsageError(str(error)) from error
    table = Table(*SCALE_COLUMNS, title=f"Scales of {options.model} at {height}×{width}")
    for row in scale_table(scales):
        table.add_row(*row)
    Console().print(table)
    return 0
