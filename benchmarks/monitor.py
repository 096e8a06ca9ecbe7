"""What the monitor costs: an epoch with it against one without, and validation with maps of every batch.

Each pair runs in turn in one process (A B A B …), so that the ratio holds while the machine's speed drifts.

    python -m benchmarks.monitor [--quick]
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch
from torch.utils.data import DataLoader, TensorDataset

from benchmarks._timing import interleaved, machine, print_table, write_results
from lightning_saliency import DigitScenes, ImageClassifier, SaliencyMonitor


def _trainer(callbacks: list[pl.Callback], folder: str, **options: Any) -> pl.Trainer:
    return pl.Trainer(
        default_root_dir=folder,
        callbacks=callbacks,
        accelerator="cpu",
        enable_progress_bar=False,
        enable_model_summary=False,
        enable_checkpointing=False,
        log_every_n_steps=50,
        **options,
    )
