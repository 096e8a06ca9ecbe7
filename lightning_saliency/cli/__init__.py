"""The command line: ``lightning-saliency fit | validate | test | explain | evaluate | sanity-check | roar-kar | layers``."""

from lightning_saliency.cli.main import main

__all__ = ["main"]
