"""A network named on the command line."""

from __future__ import annotations

from typing import Any

from jsonargparse import ArgumentParser
from torch import nn

from lightning_saliency.checks import check_minimum
from lightning_saliency.cli.parsing.errors import UsageError
from lightning_saliency.networks import build_network, load_weights, weights_fingerprint


def add_network_arguments(parser: ArgumentParser) -> None:
    """The arguments that describe the network, besides its name."""
    parser.add_argument("--num_classes", type=int, default=1000, help="number of the network's outputs")
    parser.add_argument("--checkpoint", type=str, help="file of its weights: a state dict or a Lightning checkpoint")
    parser.add_argument(
        "--library", choices=("torchvision", "timm"), default="torchvision", help="library in which MODEL is looked up"
    )


def image_shape(options: Any) -> tuple[int, int, int]:
    """Channels, height and width of the images that ``options.channels`` and ``options.size`` ask for.

    Raises:
        UsageError: If there are more or fewer numbers, or one is out of range.
    """
    if len(options.size) not in (1, 2):
        raise UsageError(f"Got --size with {len(options.size)} numbers. Allowed are one or two, height and width.")
    try:
        check_minimum("channels", options.channels, 1)
        for side in options.size:
            check_minimum("size", side, 1)
    except ValueError as error:
        raise UsageError(str(error)) from error
    return options.channels, options.size[0], options.size[-1]


def load_network(options: Any) -> nn.Module:
    """The network named by ``options.model`` in evaluation mode, with its checkpoint's weights if one is given.

    Raises:
        FileNotFoundError: If there is no such checkpoint.
        ImportError: If its library is not installed.
        ValueError: If there is no such network, or the checkpoint does not fit.
    """
    network = build_network(options.model, options.num_classes, library=options.library)
    if options.checkpoint is not None:
        load_weights(network, options.checkpoint, advice="Check --model and --num_classes.")
    return network.eval()


def has_random_weights(options: Any, network: nn.Module) -> bool:
    """Whether a network that was built without a checkpoint has weights that are drawn anew each time it is built."""
    again = build_network(options.model, options.num_classes, library=options.library)
    return weights_fingerprint(network) != weights_fingerprint(again)
