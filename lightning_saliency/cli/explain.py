"""``lightning-saliency explain``: LOVI and combined pictures, or any explainers' maps, for image files."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

import torch
from PIL import Image
from rich.console import Console
from rich.progress import track
from torch import Tensor, nn

from lightning_saliency.cli._errors import UsageError
from lightning_saliency.cli._networks import (
    add_network_arguments,
    class_names,
    image_files,
    load_network,
    normalized,
    read_image,
)
from lightning_saliency.explainers import EXPLAINERS, SMOE, Explainer, build_explainer
from lightning_saliency.functional.statistics import STATISTICS
from lightning_saliency.functional.visualization import heatmap, overlay
from lightning_saliency.pictures import Picture, sheet, to_uint8
from lightning_saliency.scales import NoScalesError


def run(arguments: Sequence[str]) -> int:
    """Write the pictures.

    Args:
        arguments: Options and image files or folders.

    Returns:
        0.

    Raises:
        UsageError: If a file, a name or an option is wrong.
    """
    options = _parser().parse_args(arguments)
    files = image_files(options.images)
    network = load_network(options.model, options)
    names = class_names(options.class_names)
    example = normalized(read_image(files[0], options.resize, options.crop)[None], options.normalize)
    try:
        smoe = SMOE(network, options.statistic, _weights(options.weights), options.layers or "auto")
        smoe.scales(example)
        explainers = {name: _explainer(name, network, smoe, options) for name in _method_names(options)}
    except (NoScalesError, ValueError, TypeError, ImportError, RuntimeError) as error:
        raise UsageError(str(error)) from error
    options.output.mkdir(parents=True, exist_ok=True)
    for file in track(files, "Explaining", disable=len(files) < 4 and not explainers):
        shown = read_image(file, options.resize, options.crop)[None]
        images = normalized(shown, options.normalize)
        probabilities = _probabilities(network, images)
        if explainers:
            targets = _targets(options.target, probabilities)
            pictures = _explained(explainers, shown, images, probabilities, targets, names)
        else:
            pictures = _class_free(smoe, shown, images, _captioned(probabilities, int(probabilities.argmax()), names))
        for kind, picture in pictures.items():
            Image.fromarray(picture).save(options.output / f"{file.stem}_{kind}.png")
    Console().print(f"{len(files)} images explained, pictures in {options.output}")
    return 0


def _class_free(smoe: SMOE, shown: Tensor, images: Tensor, caption: str) -> dict[str, Picture]:
    maps = smoe.scales(images)
    lovi, combined = maps.lovi()[0], maps.overlay(shown)[0]
    side_by_side = sheet([[shown[0], lovi, combined]], [caption, "LOVI", "combined"], max(shown.shape[-2:]))
    return {"lovi": to_uint8(lovi), "combined": to_uint8(combined), "sheet": side_by_side}


def _explained(
    explainers: dict[str, Explainer],
    shown: Tensor,
    images: Tensor,
    probabilities: Tensor,
    targets: Sequence[int],
    names: Sequence[str] | None,
) -> dict[str, Picture]:
    """Each method's map and overlay for each target, and a sheet with a column a method and a row a target."""
    pictures: dict[str, Picture] = {}
    tiles, captions = [shown[0]], [_captioned(probabilities, targets[0], names)]
    for position, target in enumerate(targets):
        if position:
            tiles.append(shown[0])
            captions.append(_captioned(probabilities, target, names))
        for name, explainer in explainers.items():
            maps = explainer(images, target)
            colored = overlay(shown, heatmap(maps))[0]
            suffix = name if len(targets) == 1 else f"{name}_{target}"
            pictures[suffix] = to_uint8(maps[0].expand(3, -1, -1))
            pictures[f"{suffix}_overlay"] = to_uint8(colored)
            tiles.append(colored)
            captions.append(name)
    pictures["sheet"] = sheet([tiles], captions, max(shown.shape[-2:]), columns=1 + len(explainers))
    return pictures


def _method_names(options: argparse.Namespace) -> list[str]:
    return [name.strip() for given in options.methods for name in given.split(",") if name.strip()]


def _explainer(name: str, network: nn.Module, smoe: SMOE, options: argparse.Namespace) -> Explainer:
    if name in STATISTICS:
        return SMOE(network, name, smoe.weights, options.layers or "auto")
    if name not in EXPLAINERS:
        raise UsageError(f"there is no method {name!r}; there are {', '.join((*EXPLAINERS, *STATISTICS))}")
    return build_explainer(name, network)


def _probabilities(network: nn.Module, images: Tensor) -> Tensor:
    with torch.inference_mode():
        logits = network(images)
    if not isinstance(logits, Tensor) or logits.ndim != 2:
        raise UsageError(
            "the network's output is not [B, classes] logits; only classifiers can be explained from the command line"
        )
    return logits.softmax(1)[0].clone()


def _targets(given: Sequence[int] | None, probabilities: Tensor) -> list[int]:
    if not given:
        return [int(probabilities.argmax())]
    wrong = [target for target in given if not 0 <= target < len(probabilities)]
    if wrong:
        raise UsageError(f"--target {wrong[0]}: the network's classes are 0 to {len(probabilities) - 1}")
    return list(given)


def _captioned(probabilities: Tensor, index: int, names: Sequence[str] | None) -> str:
    label = names[index] if names is not None and index < len(names) else f"class {index}"
    share = float(probabilities[index])
    return f"{label} {share:.0%}" if share >= 0.01 else f"{label} {share:.1g}"


def _weights(given: str) -> str | list[float]:
    try:
        return [float(part) for part in given.split(",")]
    except ValueError:
        return given


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        "lightning-saliency explain",
        description="For each image, write all scales in one LOVI picture, the combined SMOE map over the image, and a "
        "sheet with both beside it; or, with --methods, each method's map, its overlay, and a sheet of all methods.",
    )
    parser.add_argument("images", type=Path, nargs="+", metavar="IMAGE", help="image files, or folders of them")
    parser.add_argument("--model", required=True, help="a torchvision network, or timm/NAME")
    add_network_arguments(parser)
    parser.add_argument(
        "--output", type=Path, default=Path("explained"), help="folder of the pictures (default: explained)"
    )
    parser.add_argument("--class-names", type=Path, help="CSV with a column 'name', or a text file with a name a line")
    parser.add_argument(
        "--methods",
        "--method",
        action="append",
        default=[],
        metavar="NAME,...",
        help=f"explainers instead of LOVI: {', '.join(EXPLAINERS)}; or a statistic such as smoe_scale",
    )
    parser.add_argument(
        "--target", type=int, nargs="+", action="extend", help="classes to explain (default: the predicted one)"
    )
    parser.add_argument("--statistic", choices=sorted(STATISTICS), default="smoe_scale")
    parser.add_argument("--weights", default="equal", help="equal, prior, ramp, or numbers such as 1,2,3,4,5")
    parser.add_argument("--layers", nargs="+", metavar="PATH", help="modules to read instead of the scales found")
    parser.add_argument("--resize", type=int, default=256, help="shorter side in pixels (default: 256)")
    parser.add_argument(
        "--crop", type=int, default=224, help="side of the centre crop, 0 for the whole image (default: 224)"
    )
    parser.add_argument("--normalize", choices=("imagenet", "half", "none"), default="imagenet")
    return parser
