"""``lightning-saliency explain``: LOVI and combined pictures for image files."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

import torch
from PIL import Image
from rich.console import Console
from rich.progress import track
from torch import Tensor

from lightning_saliency.cli._errors import UsageError
from lightning_saliency.cli._networks import (
    add_network_arguments,
    class_names,
    image_files,
    load_network,
    normalized,
    read_image,
)
from lightning_saliency.functional.fusion import scale_weights
from lightning_saliency.functional.statistics import STATISTICS
from lightning_saliency.maps import ScaleMaps
from lightning_saliency.pictures import Picture, sheet, to_uint8
from lightning_saliency.scales import NoScalesError, find_scales, named_scales
from lightning_saliency.taps import ScaleTaps


def run(arguments: Sequence[str]) -> int:
    """Write the pictures.

    Args:
        arguments: Options and image files or folders.

    Returns:
        0.
    """
    options = _parser().parse_args(arguments)
    files = image_files(options.images)
    network = load_network(options.model, options)
    names = class_names(options.class_names)
    first = read_image(files[0], options.resize, options.crop)
    example = normalized(first[None], options.normalize)
    try:
        scales = named_scales(network, options.layers, example) if options.layers else find_scales(network, example)
        weights = _weights(options.weights)
        scale_weights(weights, len(scales))
        taps = ScaleTaps(network, scales, options.statistic)
    except (NoScalesError, ValueError, RuntimeError) as error:
        raise UsageError(str(error)) from error
    options.output.mkdir(parents=True, exist_ok=True)
    with taps:
        for file in track(files, "Explaining", disable=len(files) < 4):
            shown = read_image(file, options.resize, options.crop)[None]
            taps.start()
            with torch.inference_mode():
                logits = network(normalized(shown, options.normalize))
            maps = ScaleMaps.from_statistics(
                taps.take(), [scale.module for scale in scales], weights, size=(shown.shape[-2], shown.shape[-1])
            )
            _write(options.output, file, shown, maps, _prediction(logits, names))
    Console().print(f"{len(files)} images explained, pictures in {options.output}")
    return 0


def _write(folder: Path, file: Path, shown: Tensor, maps: ScaleMaps, caption: str) -> None:
    lovi, combined = maps.lovi()[0], maps.overlay(shown)[0]
    tile = max(shown.shape[-2:])
    side_by_side = sheet([[shown[0], lovi, combined]], [caption, "LOVI", "combined"], tile)
    pictures: dict[str, Picture] = {"lovi": to_uint8(lovi), "combined": to_uint8(combined), "sheet": side_by_side}
    for kind, picture in pictures.items():
        Image.fromarray(picture).save(folder / f"{file.stem}_{kind}.png")


def _prediction(logits: object, names: Sequence[str] | None) -> str:
    if not isinstance(logits, Tensor) or logits.ndim != 2:
        return "image"
    confidence, index = logits.softmax(1).max(1)
    label = names[int(index)] if names is not None and int(index) < len(names) else f"class {int(index)}"
    return f"{label} {float(confidence):.0%}"


def _weights(given: str) -> str | list[float]:
    try:
        return [float(part) for part in given.split(",")]
    except ValueError:
        return given


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        "lightning-saliency explain",
        description="Write, for each image, all scales in one LOVI picture, the combined SMOE map over the image, and both beside it.",
    )
    parser.add_argument("images", type=Path, nargs="+", metavar="IMAGE", help="image files, or folders of them")
    parser.add_argument("--model", required=True, help="a torchvision network, or timm/NAME")
    add_network_arguments(parser)
    parser.add_argument("--output", type=Path, default=Path("explained"), help="folder of the pictures (default: explained)")
    parser.add_argument("--class-names", type=Path, help="CSV with a column 'name', or a text file with a name a line")
    parser.add_argument("--statistic", choices=sorted(STATISTICS), default="smoe_scale")
    parser.add_argument("--weights", default="equal", help="equal, prior, ramp, or numbers such as 1,2,3,4,5")
    parser.add_argument("--layers", nargs="+", metavar="PATH", help="modules to read instead of the scales found")
    parser.add_argument("--resize", type=int, default=256, help="shorter side in pixels (default: 256)")
    parser.add_argument("--crop", type=int, default=224, help="side of the centre crop, 0 for the whole image (default: 224)")
    parser.add_argument("--normalize", choices=("imagenet", "half", "none"), default="imagenet")
    return parser
