"""Which of Lightning's hooks a data module or module defines itself."""

from __future__ import annotations

from typing import Any

from pytorch_lightning.utilities.model_helpers import is_overridden


def overrides(module: Any, hook: str) -> bool:
    """Whether a data module or module of either of Lightning's packages defines a hook itself."""
    parent = lightning_parent(module)
    return parent is not None and bool(is_overridden(hook, module, parent))


def lightning_parent(module: Any) -> type | None:
    """The ``LightningDataModule`` or ``LightningModule`` that an object's class derives from, of either package."""
    return next(
        (
            parent
            for parent in type(module).__mro__
            if parent.__name__ in ("LightningDataModule", "LightningModule")
            and parent.__module__.split(".")[0] in ("pytorch_lightning", "lightning")
        ),
        None,
    )
