"""Warnings of what happens while a run goes on."""

from __future__ import annotations

from pytorch_lightning.utilities import rank_zero_info, rank_zero_warn


def warn(message: str) -> None:
    """Warn on global rank zero; where warnings are errors, the message is logged: to say something ends no run."""
    try:
        rank_zero_warn(message, stacklevel=5)
    except Warning:
        rank_zero_info(message)
