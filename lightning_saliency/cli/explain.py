"""``lightning-saliency explain``: LOVI and combined pictures, or any explainers' maps, for image files."""

from __future__ import annotations

import shlex
from argparse import SUPPRESS, Namespace
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from jsonargparse import ArgumentParser
from rich.console import Console

from lightning_saliency.checks import plural
from lightning_saliency.cli.parsing.errors import UsageError
from lightning_saliency.cli.parsing.networks import add_network_arguments, has_random_weights, load_network
from lightning_saliency.cli.parsing.overrides import listed, scale_weights_option
from lightning_saliency.cli.parsing.parser import command_parser, parse
from lightning_saliency.data.image_files import Resize, picture_size
from lightning_saliency.explainers import EXPLAINERS
from lightning_saliency.functional.statistics import STATISTICS
from lightning_saliency.reports.explain import NORMALIZATIONS, explain_images
from lightning_saliency.reports.explain_pictures import PICTURES
from lightning_saliency.reports.notices import Made

_UNTRAINED = (
    "WARNING: the network is UNTRAINED. No --checkpoint was given, so its weights are random and its maps say nothing "
    "about a trained one. The sheets are stamped so; give --checkpoint FILE."
)


# Enlarged more than so, an image is noted.
_ENLARGED = 2


def run(arguments: Sequence[str]) -> int:
    """Write the pictures.

    Args:
        arguments: Options and image files or folders.

    Returns:
        0.

    Raises:
        UsageError: If a file, a name or an option is wrong, or the network cannot be explained with these options.
    """
    options = Namespace(**parse(_parser(), arguments, ["explainers"]))
    if not getattr(options, "images", None):
        raise UsageError("Got no images. Allowed are image files and folders of them; name at least one.")
    explainers = options.explainers
    if isinstance(explainers, (str, list)):
        explainers = listed("--explainers", explainers)
    try:
        network = load_network(options)
        untrained = options.checkpoint is None and has_random_weights(options, network)
        explained = explain_images(
            options.images,
            network,
            explainers,
            pictures=None if options.pictures is None else listed("--pictures", options.pictures),
            targets=_targets(options.targets),
            statistic=options.statistic,
            weights=scale_weights_option(options.weights),
            layers=None if options.layers is None else listed("--layers", options.layers),
            class_names=options.class_names,
            resize=options.resize,
            crop=options.crop,
            normalize=options.normalize,
            untrained=untrained,
            alpha=options.alpha,
            masks=options.masks,
            fractions=_fractions(options.fractions),
        )
        if untrained:
            Console(stderr=True).print(_UNTRAINED, style="bold red", highlight=False, soft_wrap=True, markup=False)
        if note := _enlarged(explained.files, options.resize, explained.crop):
            Console(stderr=True).print(note, style="bold", highlight=False, soft_wrap=True, markup=False)
        for note in explained.notices:
            Console(stderr=True).print(note, highlight=False, soft_wrap=True, markup=False)
        explained.save(options.output, made=Made(shlex.join(["lightning-saliency", "explain", *arguments])))
    except (ValueError, TypeError, ImportError, OSError) as error:
        raise UsageError(str(error)) from error
    Console().print(
        f"{plural(len(explained), 'image')} explained, pictures in {options.output}",
        highlight=False,
        soft_wrap=True,
        markup=False,
    )
    return 0


def _enlarged(files: Sequence[Path], resize: Resize, crop: int) -> str:
    """A note on the first image that is enlarged a lot, as those of networks for small images are by default."""
    if not isinstance(resize, int):
        return ""
    for file in files:
        height, width = picture_size(file)
        if resize > _ENLARGED * min(height, width):
            cut = f", and its border is cut off (--crop {crop})" if 0 < crop < resize else ""
            return (
                f"Note: {file} has {height}×{width} pixels, and is enlarged to a shorter side of {resize} (--resize)"
                f"{cut}. If the network has learnt from images so small, add --resize {min(height, width)} --crop 0, "
                "and --normalize as it was trained."
            )
    return ""


def _targets(given: Any) -> list[int]:
    try:
        return [] if given is None else [int(part) for part in listed("--targets", given)]
    except ValueError:
        raise UsageError(
            f"Got --targets {given}. Allowed are numbers of classes, separated by commas; write for example "
            "--targets 243,281."
        ) from None


def _fractions(given: Any) -> list[float]:
    try:
        return [] if given is None else [float(part) for part in listed("--fractions", given)]
    except (TypeError, ValueError):
        raise UsageError(
            f"Got --fractions {given}. Allowed are shares of the pixels in (0, 1), separated by commas; write for "
            "example --fractions 0.1,0.5."
        ) from None


def _parser() -> ArgumentParser:
    parser = command_parser(
        "explain",
        "--model NAME [OPTIONS] IMAGE ...",
        "For each image, write all scales in one LOVI picture, the combined SMOE map over the image, and a sheet with "
        "both beside it; or, with --explainers, each explainer's map, its overlay, and a sheet of all. --pictures "
        "chooses pictures of the scales.",
    )
    parser.add_argument("images", type=str, nargs="*", default=SUPPRESS, help="image files, or folders of them")
    parser.add_argument(
        "--model", type=str, required=True, help="torchvision's name, timm/NAME, or path/file.py:function"
    )
    add_network_arguments(parser)
    parser.add_argument("--output", type=str, default="explained", help="folder of the pictures")
    parser.add_argument("--class_names", type=str, help="CSV with a column 'name', or a text with one name per line")
    parser.add_argument(
        "--explainers",
        type=Any,
        metavar="NAME,...",
        help=f"instead of LOVI, names separated by commas, from {', '.join(EXPLAINERS)}, torchcam:METHOD, a class path "
        "or a statistic such as std; arguments of one as in --explainers.sise.init_args.mu 0.3",
    )
    parser.add_argument(
        "--pictures",
        type=Any,
        metavar="NAME,...",
        help=f"pictures of the scales, from {', '.join(PICTURES)}; else lovi,combined, with --explainers none",
    )
    parser.add_argument(
        "--targets",
        type=Any,
        metavar="CLASS,...",
        help="numbers of the classes to explain; else the predicted class",
    )
    parser.add_argument(
        "--statistic",
        type=str,
        metavar="NAME",
        help=f"statistic for LOVI, and for explainers that take one, from {', '.join(STATISTICS)}",
    )
    parser.add_argument(
        "--weights", type=Any, help="weights of the scales: equal, prior, ramp, deep, or such as 1,2,3,4,5"
    )
    parser.add_argument(
        "--layers",
        type=Any,
        metavar="PATH,...",
        help="modules to read instead of the scales found, for the same",
    )
    parser.add_argument(
        "--resize",
        type=int | tuple[int, int],
        default=256,
        help="shorter side in pixels; or both sides, as [224, 224], which may change the shape",
    )
    parser.add_argument(
        "--crop",
        type=int,
        help="side of the centre crop in pixels, 0: the whole image; without it 224, or --resize where that is less, "
        "or the whole image beside both sides",
    )
    parser.add_argument(
        "--normalize", choices=list(NORMALIZATIONS), default="imagenet", help="half: to [-1, 1]; none: [0, 1]"
    )
    parser.add_argument(
        "--alpha", type=float, default=0.25, help="share of the grey image in overlays, from 0 to 1; the rest is colour"
    )
    parser.add_argument(
        "--masks",
        type=int,
        metavar="N",
        help="also a sheet of the masks of each explainer that scores some (group_cam, rise, score_cam, sise), N of "
        "each block, and report.html",
    )
    parser.add_argument(
        "--fractions",
        type=Any,
        metavar="SHARE,...",
        help="also a sheet of the image with such shares of its most salient pixels kept and removed, and report.html",
    )
    return parser
