"""``lightning-saliency export``: a network and its map in one file, for ``torch.export``, ONNX or AOTInductor."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, get_args

import torch
from jsonargparse import ArgumentParser
from rich.console import Console

from lightning_saliency.cli.parsing.errors import UsageError
from lightning_saliency.cli.parsing.networks import add_network_arguments, image_shape, load_network
from lightning_saliency.cli.parsing.overrides import listed, scale_weights_option
from lightning_saliency.cli.parsing.parser import command_parser
from lightning_saliency.deployment import Exported, ExportError, ExportFormat, export_network
from lightning_saliency.functional.statistics import STATISTICS


def run(arguments: Sequence[str]) -> int:
    """Write the file, and say what it takes and how exact it is.

    Args:
        arguments: For example ``["--model", "resnet50", "--output", "resnet50.onnx"]``.

    Returns:
        0.

    Raises:
        UsageError: If an option is wrong, a package is missing, or torch cannot export the network.
    """
    options = _parser().parse_args(arguments)
    shape = image_shape(options)
    try:
        network = load_network(options)
        # Two images, so that the length of the batch is not taken for a constant.
        images = torch.rand(2, *shape)
        exported = export_network(
            network,
            options.output,
            images,
            format=options.format,
            statistic=options.statistic,
            weights=scale_weights_option(options.weights),
            layers="auto" if options.layers is None else listed("--layers", options.layers),
        )
    except (ValueError, TypeError, ImportError, OSError, ExportError) as error:
        raise UsageError(str(error)) from error
    Console().print(_described(exported, images), highlight=False, soft_wrap=True, markup=False)
    return 0


def _described(exported: Exported, images: torch.Tensor) -> str:
    shape = ", ".join(map(str, images.shape[1:]))
    batch = "any number of images" if exported.dynamic_batch else f"exactly {len(images)} images"
    checked = (
        "not compared, since onnxruntime is not installed"
        if exported.output_difference is None
        else f"the output by at most {exported.output_difference:.1e}, the map by {exported.map_difference:.1e}"
    )
    return (
        f"{exported.path}: {exported.format}, {exported.path.stat().st_size / 1e6:.1f} MB, "
        f"{exported.convolutions} convolutions\n"
        f"takes {batch} [{shape}]; gives the network's output and the map\n"
        f"difference from the network by itself: {checked}"
    )


def _parser() -> ArgumentParser:
    parser = command_parser(
        "export",
        "--model NAME --output FILE [OPTIONS]",
        "Write a network and its SMOE map, from one pass, to one file that runs without this package: a graph of "
        "torch.export, ONNX, or a package that AOTInductor compiled.",
    )
    parser.add_argument(
        "--model", type=str, required=True, help="torchvision's name, timm/NAME, or path/file.py:function"
    )
    add_network_arguments(parser)
    parser.add_argument("--output", type=str, required=True, help="the file: NAME.pt2 or NAME.onnx")
    parser.add_argument(
        "--format",
        choices=get_args(ExportFormat),
        help="by default onnx for .onnx, and torch for .pt2; aot_inductor: compiled for this kind of machine",
    )
    parser.add_argument("--size", type=int, nargs="+", default=[224], help="height and width of the images in pixels")
    parser.add_argument("--channels", type=int, default=3, help="number of channels of the images")
    parser.add_argument(
        "--statistic", type=str, default="smoe_scale", metavar="NAME", help=f"one of {', '.join(STATISTICS)}"
    )
    parser.add_argument(
        "--weights", type=Any, default="equal", help="of the scales: equal, prior, ramp, deep, or such as 1,2,3,4,5"
    )
    parser.add_argument("--layers", type=Any, metavar="PATH,...", help="modules to read instead of the scales found")
    return parser
