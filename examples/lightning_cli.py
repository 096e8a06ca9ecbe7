"""LightningCLI with a module of one's own: the monitor's options stand in the YAML file and on the command line.

python -m examples.lightning_cli fit --trainer.max_epochs 3 --saliency.num_images 4 --saliency.views overview
"""

from __future__ import annotations

import sys

from pytorch_lightning.cli import LightningArgumentParser, LightningCLI

from examples.own_trainer import OwnModule
from lightning_saliency import DigitScenes, SaliencyMonitor


class CLI(LightningCLI):
    """As LightningCLI, with the monitor in every run."""

    def add_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        parser.add_lightning_class_args(SaliencyMonitor, "saliency")
        parser.set_defaults({"saliency.weights": "ramp"})


def main(arguments: list[str]) -> LightningCLI:
    return CLI(
        OwnModule,
        DigitScenes,
        trainer_defaults={"default_root_dir": "runs/lightning_cli", "max_epochs": 3},
        args=arguments,
    )


if __name__ == "__main__":
    main(sys.argv[1:])
