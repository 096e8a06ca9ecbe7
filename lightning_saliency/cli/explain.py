"""``lightning-saliency explain``: LOVI and combined pictures, or any explainers' maps, for image files."""

from __future__ import annotations

import argparse
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

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
from lightning_saliency.cli._options import accepted_options, add_option_argument, check_options, explainer_options
from lightning_saliency.cli._picture_names import picture_stems
from lightning_saliency.explainers import EXPLAINERS, SMOE, Explainer, find_explainer
from lightning_saliency.explainers.base import class_logits
from lightning_saliency.functional.class_scores import class_scores
from lightning_saliency.functional.statistics import STATISTICS
from lightning_saliency.functional.visualization import heatmap, overlay
from lightning_saliency.pictures.tensors import Picture, sheet, to_uint8

# What networks, explainers and the libraries behind them raise where they are given what they cannot work with.
_FAILURES = (AssertionError, AttributeError, ImportError, LookupError, RuntimeError, TypeError, ValueError)

Builds = Mapping[str, Callable[..., Explainer]]


def run(arguments: Sequence[str]) -> int:
    """Write the pictures.

    Args:
        arguments: Options and image files or folders.

    Returns:
        0.

    Raises:
        UsageError: If a file, a name or an option is wrong, or the network cannot be explained so.
    """
    options = _parser().parse_args(arguments)
    builds = _builds(_listed("--methods", options.methods))
    given = _given_options(builds, options)
    targets = _numbers(options.target)
    if targets and not builds:
        raise UsageError(
            "Got --target without --methods. LOVI pictures are of no class; name methods, or leave it out."
        )
    files = list({os.path.abspath(file): file for file in image_files(options.images)}.values())
    stems = picture_stems(files, _kinds(list(builds), targets), options.output)
    names = class_names(options.class_names)
    network = load_network(options.model, options)
    explainers = {name: _built(name, build, network, given[name]) for name, build in builds.items()}
    smoe = None if explainers else _smoe(network, options)
    try:
        options.output.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UsageError(
            f"Got --output {options.output}, which is no folder and cannot be made one: {error}"
        ) from error
    for file, stem in track(
        list(zip(files, stems, strict=True)), "Explaining", disable=len(files) < 4 and not explainers
    ):
        shown = read_image(file, options.resize, options.crop)[None]
        images = normalized(shown, options.normalize)
        probabilities = _probabilities(network, images, file)
        if smoe is None:
            classes = _checked(targets, probabilities)
            pictures = _explained(explainers, file, shown, images, probabilities, classes, names)
        else:
            caption = _captioned(probabilities, int(probabilities.argmax()), names)
            pictures = _class_free(smoe, file, shown, images, caption)
        for kind, picture in pictures.items():
            Image.fromarray(picture).save(options.output / f"{stem}_{kind}.png")
    Console().print(
        f"{len(files)} images explained, pictures in {options.output}", highlight=False, soft_wrap=True, markup=False
    )
    return 0


def _class_free(smoe: SMOE, file: Path, shown: Tensor, images: Tensor, caption: str) -> dict[str, Picture]:
    with _told(f"LOVI of {file} failed"):
        maps = smoe.scales(images)
    lovi, combined = maps.lovi()[0], maps.overlay(shown)[0]
    side_by_side = sheet([[shown[0], lovi, combined]], [caption, "LOVI", "combined"], max(shown.shape[-2:]))
    return {"lovi": to_uint8(lovi), "combined": to_uint8(combined), "sheet": side_by_side}


def _explained(
    explainers: Mapping[str, Explainer],
    file: Path,
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
            with _told(f"{name} of {file} failed"):
                maps = explainer(images, target)
            colored = overlay(shown, heatmap(maps))[0]
            kind = _kind(name, target, len(targets))
            pictures[kind] = to_uint8(maps[0].expand(3, -1, -1))
            pictures[f"{kind}_overlay"] = to_uint8(colored)
            tiles.append(colored)
            captions.append(name)
    pictures["sheet"] = sheet([tiles], captions, max(shown.shape[-2:]), columns=1 + len(explainers))
    return pictures


def _kind(method: str, target: int, targets: int) -> str:
    """What the pictures of a method for a target are called, there being so many targets."""
    name = method.replace(":", "_")
    return f"{name}_{target}" if targets > 1 else name


def _kinds(methods: Sequence[str], targets: Sequence[int]) -> list[str]:
    """What all pictures of an image are called, whichever class is predicted."""
    if not methods:
        return ["lovi", "combined", "sheet"]
    of_targets = [_kind(method, target, len(targets)) for method in methods for target in targets or [0]]
    return [*of_targets, *(f"{kind}_overlay" for kind in of_targets), "sheet"]


def _builds(methods: Sequence[str]) -> dict[str, Callable[..., Explainer]]:
    """What builds each method. A statistic is one, too: SMOE with that statistic."""
    builds: dict[str, Callable[..., Explainer]] = {}
    for name in methods:
        try:
            builds[name] = (
                partial(SMOE, statistic=name) if name in STATISTICS else find_explainer(name, others=STATISTICS)
            )
        except (ImportError, ValueError) as error:
            raise UsageError(str(error)) from error
    return builds


def _given_options(builds: Builds, options: argparse.Namespace) -> dict[str, dict[str, Any]]:
    """Each method's options: its own, and those given for all of them.

    Raises:
        UsageError: If a method does not take one.
    """
    if options.option and not builds:
        raise UsageError(
            f"Got --option {options.option[0]} without --methods. Allowed are options of the methods asked for; name "
            "them, or give --statistic, --weights and --layers, which LOVI pictures take."
        )
    given = explainer_options(builds, options.option)
    for name, build in builds.items():
        check_options(name, build, given[name])
        # captum and torchcam want tuples, and nobody else minds them.
        given[name] = {key: tuple(value) if isinstance(value, list) else value for key, value in given[name].items()}
    for option, value in _smoe_options(options).items():
        takers = [name for name, build in builds.items() if option in accepted_options(build)]
        for name, build in builds.items():
            if name not in takers:
                others = f", or give it to others alone, as with --option {takers[0]}.{option}=VALUE" if takers else ""
                raise UsageError(
                    f"Got --{option} for {name}, which takes no {option}. Allowed for {name} are "
                    f"{', '.join(accepted_options(build))}, as --option {name}.NAME=VALUE; leave --{option} "
                    f"out{others}."
                )
            given[name].setdefault(option, value)
    return given


def _smoe_options(options: argparse.Namespace) -> dict[str, Any]:
    """Of the options that are not of one method, those given."""
    layers = tuple(_listed("--layers", options.layers))
    weights = None if options.weights is None else _weights(options.weights)
    values = {"statistic": options.statistic, "weights": weights, "layers": layers or None}
    return {name: value for name, value in values.items() if value is not None}


def _smoe(network: nn.Module, options: argparse.Namespace) -> SMOE:
    with _told("LOVI cannot be made"):
        return SMOE(network, **_smoe_options(options))


def _built(name: str, build: Callable[..., Explainer], network: nn.Module, options: Mapping[str, Any]) -> Explainer:
    given = "".join(f" {option}={value}" for option, value in options.items())
    with _told(f"{name}{given} cannot be made"):
        return build(network, **options)


def _probabilities(network: nn.Module, images: Tensor, file: Path) -> Tensor:
    """The probability of each class, ``[classes]``; a single output is that of a yes."""
    with _told(f"the network cannot be run on {file}, {images.shape[3]}×{images.shape[2]} pixels"), torch.no_grad():
        returned = network(images)
    try:
        logits = class_logits(returned, None, 1)
    except (TypeError, ValueError) as error:
        raise UsageError(
            f"Got a network without class scores [B, classes]. {error} On the command line there is no output=: give "
            "--model path/file.py:function, a function that wraps the network so that it returns them."
        ) from error
    return class_scores(logits, "softmax" if logits.shape[1] > 1 else "sigmoid")[0]


def _listed(flag: str, given: Sequence[str]) -> list[str]:
    """The parts of arguments such as ``a,b``, each once."""
    parts = dict.fromkeys(part.strip() for text in given for part in text.split(",") if part.strip())
    if given and not parts:
        raise UsageError(f"Got {flag} without a value. Allowed is at least one; leave {flag} out, or give it some.")
    return list(parts)


def _numbers(given: Sequence[str]) -> list[int]:
    parts = _listed("--target", given)
    try:
        return list(dict.fromkeys(int(part) for part in parts))
    except ValueError:
        raise UsageError(
            f"Got --target {' '.join(given)}. Allowed are numbers of classes, separated by commas; write for example "
            "--target 243,281."
        ) from None


def _checked(targets: Sequence[int], probabilities: Tensor) -> list[int]:
    """The classes to explain, by default the predicted one."""
    if not targets:
        return [int(probabilities.argmax())]
    wrong = [target for target in targets if not 0 <= target < len(probabilities)]
    if wrong:
        raise UsageError(f"--target {wrong[0]}: the network's classes are 0 to {len(probabilities) - 1}")
    return list(targets)


@contextmanager
def _told(what: str) -> Iterator[None]:
    """Failures as errors that say what failed."""
    try:
        yield
    except _FAILURES as error:
        raise UsageError(f"{what}: {str(error) or type(error).__name__}") from error


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
        help=f"explainers instead of LOVI: {', '.join(EXPLAINERS)}, torchcam:METHOD; or a statistic such as smoe_scale",
    )
    add_option_argument(parser)
    parser.add_argument(
        "--target",
        action="append",
        default=[],
        metavar="CLASS,...",
        help="numbers of the classes that the methods explain (default: the predicted one)",
    )
    parser.add_argument(
        "--statistic", choices=sorted(STATISTICS), help="of LOVI, and of methods that take one (default: smoe_scale)"
    )
    parser.add_argument(
        "--weights",
        help="of the scales, where --statistic counts: equal (the default), prior, ramp, or such as 1,2,3,4,5",
    )
    parser.add_argument(
        "--layers",
        action="append",
        default=[],
        metavar="PATH,...",
        help="modules to read instead of the scales found, by LOVI and by methods that take several",
    )
    parser.add_argument("--resize", type=int, default=256, help="shorter side in pixels (default: 256)")
    parser.add_argument(
        "--crop", type=int, default=224, help="side of the centre crop, 0 for the whole image (default: 224)"
    )
    parser.add_argument("--normalize", choices=("imagenet", "half", "none"), default="imagenet")
    return parser
