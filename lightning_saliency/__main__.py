"""``python -m lightning_saliency COMMAND``, the same as ``lightning-saliency COMMAND``."""

import sys

from lightning_saliency.cli import main

sys.exit(main())
