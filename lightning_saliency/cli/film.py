"""``lightning-saliency film RUN``: the page of a run, or of two side by side; strips and moving pictures."""

from __future__ import annotations

from argparse import SUPPRESS, Namespace
from collections.abc import Mapping, Sequence
from typing import Any

from jsonargparse import ArgumentParser

from lightning_saliency.cli.parsing.errors import UsageError
from lightning_saliency.cli.parsing.overrides import listed
from lightning_saliency.cli.parsing.parser import command_parser, parse
from lightning_saliency.files import Location, write_atomically
from lightning_saliency.pictures.page import film, film_strip, moving_film
from lightning_saliency.pictures.tensors import png_bytes


def run(arguments: Sequence[str]) -> int:
    """Make the page and say where it is.

    Args:
        arguments: One or two runs, and options.

    Returns:
        0.

    Raises:
        UsageError: If there is no such run, or it has no film.
    """
    options = Namespace(**parse(_parser(), arguments, []))
    runs = getattr(options, "runs", None) or []
    if len(runs) not in (1, 2):
        raise UsageError(f"Got {len(runs)} runs. Allowed are one, or two to compare; name the folder of each.")
    pictures = [f"--{name}" for name in ("gif", "webp", "strip") if getattr(options, name) is not None]
    if len(runs) > 1 and pictures:
        raise UsageError(
            f"Got two runs and {', '.join(pictures)}. Allowed is one run for a picture, and two for a page; make a "
            "picture of each."
        )
    shown: dict[str, Any] = {"frames": options.frames, "name": options.name}
    if options.images is not None:
        shown["images"] = _numbers(options.images)
    try:
        made = [
            *(moving_film(runs[0], file, **shown) for file in (options.gif, options.webp) if file is not None),
            *([] if options.strip is None else [_strip(runs[0], options.strip, options.view, shown)]),
        ]
        if options.output is not None or not made:
            other = runs[1] if len(runs) > 1 else None
            page = film(runs[0], other, options.output, name=options.name, max_megabytes=options.max_megabytes)
            made.insert(0, page)
    except (ValueError, OSError) as error:
        raise UsageError(str(error)) from error
    for file in made:
        print(file)
    return 0


def _strip(run: str, file: str, view: str, shown: Mapping[str, Any]) -> Location:
    strip = film_strip(run, view, **{**shown, "frames": min(6, shown["frames"])})
    return write_atomically(file, png_bytes(strip))


def _numbers(given: Any) -> list[int]:
    try:
        return [int(part) for part in listed("--images", given)]
    except ValueError:
        raise UsageError(
            f"Got --images {given}. Allowed are numbers of images from 0, separated by commas; write for example "
            "--images 0,3,5."
        ) from None


def _parser() -> ArgumentParser:
    parser = command_parser(
        "film",
        "RUN [RUN] [OPTIONS]",
        "Make one HTML page of what SaliencyMonitor kept of a run, or of two runs side by side: a slider over the "
        "epochs, the images with their maps, the curves. It needs no network and no server.",
    )
    parser.add_argument("runs", type=str, nargs="*", default=SUPPRESS, metavar="RUN", help="folders of one or two runs")
    parser.add_argument("--output", type=str, metavar="FILE", help="the page, else film.html in the run's folder")
    parser.add_argument("--name", type=str, help="the monitor's name, where a run has several")
    parser.add_argument("--gif", type=str, metavar="FILE", help="instead of the page, a moving picture")
    parser.add_argument("--webp", type=str, metavar="FILE", help="the same, smaller")
    parser.add_argument(
        "--strip", type=str, metavar="FILE", help="instead of the page, a PNG with a row an image and a column an epoch"
    )
    parser.add_argument(
        "--view", type=str, default="overlay", help="of a strip: overlay, lovi, combined, 'scale 1', ..."
    )
    parser.add_argument("--frames", type=int, default=24, help="most epochs of a moving picture; a strip has up to 6")
    parser.add_argument(
        "--images", type=Any, metavar="NUMBER,...", help="images of a moving picture or strip, from 0; else the first 4"
    )
    parser.add_argument("--max_megabytes", type=float, default=20.0, help="largest size of the page")
    return parser
