"""Which command runs."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence

from lightning_saliency.cli import compare_augmentation, evaluate, explain, layers, roar_kar, sanity_check, train
from lightning_saliency.cli._errors import UsageError

#: Name -> (what runs it with the arguments behind the name, what it does).
COMMANDS: dict[str, tuple[Callable[[Sequence[str]], int], str]] = {
    "fit": (
        lambda arguments: train.run("fit", arguments),
        "train a network; callbacks, data and model from a YAML file",
    ),
    "validate": (
        lambda arguments: train.run("validate", arguments),
        "run validation with a configuration and a checkpoint",
    ),
    "test": (lambda arguments: train.run("test", arguments), "run the test set with a configuration and a checkpoint"),
    "explain": (explain.run, "write LOVI and combined maps, or any explainer's, for image files"),
    "evaluate": (evaluate.run, "compare explainers on a data set, as the papers' tables do"),
    "sanity-check": (sanity_check.run, "randomise the weights from top to bottom and compare the maps"),
    "compare-augmentation": (
        compare_augmentation.run,
        "compare training on saliency-guided blends with other augmentations and controls",
    ),
    "roar-kar": (roar_kar.run, "retrain on images masked by saliency maps: do the maps point at what is needed?"),
    "layer-masking": (roar_kar.run_layers, "mask one scale inside a network at a time: which statistic tells most?"),
    "layers": (layers.run, "print the scales that are found in a network"),
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
        try:
            return COMMANDS[given[0]][0](given[1:])
        except UsageError as error:
            print(f"lightning-saliency {given[0]}: {error}", file=sys.stderr)
            return 2
    if given and given[0] == "--version":
        from lightning_saliency import __version__

        print(__version__)
        return 0
    asked = bool(given) and given[0] in ("-h", "--help")
    stream = sys.stdout if asked else sys.stderr
    if given and not asked:
        print(f"lightning-saliency: there is no command {given[0]!r}", file=stream)
    print("usage: lightning-saliency COMMAND [--help] ...\n", file=stream)
    for name, (_, purpose) in COMMANDS.items():
        print(f"  {name:<20} {purpose}", file=stream)
    return 0 if asked else 2
