"""The command line, ``lightning-saliency COMMAND``."""

from lightning_saliency.cli.main import main

__all__ = ["main"]
