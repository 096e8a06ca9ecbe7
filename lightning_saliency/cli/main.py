"""Choosing and running a command."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Sequence
from typing import NamedTuple

from lightning_saliency.checks import close_names
from lightning_saliency.cli.parsing.configs import check_configs, check_needs
from lightning_saliency.cli.parsing.errors import UsageError
from lightning_saliency.cli.parsing.overrides import with_underscores


class Command(NamedTuple):
    """A command: the module and function that run it with the arguments behind its name, and what it does.

    One that looks at its options first calls `check_needs` by itself.
    """

    module: str
    function: str
    purpose: str
    options_first: bool = False


#: Every command by name. A command's module is imported when the command runs.
COMMANDS: dict[str, Command] = {
    "fit": Command("train", "fit", "train a network, configured by a YAML file"),
    "validate": Command("train", "validate", "validate a network of a configuration, a checkpoint"),
    "test": Command("train", "test", "test a network of a configuration, a checkpoint"),
    "explain": Command("explain", "run", "draw LOVI pictures, or any explainer's maps, of images"),
    "film": Command("film", "run", "show a run, or two, epoch by epoch in one page"),
    "layers": Command("layers", "run", "print the scales that are found in a network"),
    "cost": Command("cost", "run", "measure what a map costs beside the forward pass"),
    "export": Command("export", "run", "write a network with its map to a file, for production"),
    "write-maps": Command("write_maps", "run", "store the maps of whole data sets, for masked training"),
    "evaluate": Command("evaluate", "run", "compare explainers on a data set, as the papers do", True),
    "sanity-check": Command("sanity_check", "run", "compare maps with those of randomised networks", True),
    "compare-augmentation": Command(
        "compare_augmentation", "run", "compare augmentations that maps guide with others", True
    ),
    "roar-kar": Command("roar_kar", "run", "retrain on images that are masked by saliency maps", True),
    "layer-masking": Command("roar_kar", "run_layers", "mask one scale inside a network at a time", True),
    "merge-layer-masking": Command("merge_layer_masking", "run", "one table of layer-masking studies of data sets"),
}


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command.

    Args:
        arguments: The command's name and its arguments; ``None`` takes the process's.

    Returns:
        The exit status: 0, or 2 for arguments that cannot be understood, with the reason on the error stream.
    """
    given = list(sys.argv[1:] if arguments is None else arguments)
    if given and given[0] in COMMANDS:
        command = COMMANDS[given[0]]
        run = getattr(importlib.import_module(f"lightning_saliency.cli.{command.module}"), command.function)
        try:
            spelled = with_underscores(given[1:])
            check_configs(spelled)
            if not command.options_first:
                check_needs(spelled)
            status: int = run(spelled)
        except UsageError as error:
            print(f"lightning-saliency {given[0]}: {error}", file=sys.stderr)
            return 2
        return status
    if given and given[0] == "--version":
        from lightning_saliency import __version__

        print(__version__)
        return 0
    asked = bool(given) and given[0] in ("-h", "--help")
    stream = sys.stdout if asked else sys.stderr
    if given and not asked:
        hint = "".join(f"; did you mean {name!r}?" for name in close_names(given[0], COMMANDS))
        print(f"lightning-saliency: there is no command {given[0]!r}{hint}", file=stream)
    print("usage: lightning-saliency COMMAND [--help] ...\n       lightning-saliency --version\n", file=stream)
    for name, command in COMMANDS.items():
        print(f"  {name:<20} {command.purpose}", file=stream)
    return 0 if asked else 2
