"""A data module round another one: what it does not do itself, that one does."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import Any, ClassVar

import torch

from lightning_saliency.lightning_bases import AnyDataModule, LightningDataModule, lightning_parent, overrides

AFTER_TRANSFER = "on_after_batch_transfer"
#: The hooks through which a batch goes on its way to the device, in their order.
TRANSFER_HOOKS = ("on_before_batch_transfer", "transfer_batch_to_device", AFTER_TRANSFER)
#: The hooks that return loaders, by stage.
LOADER_HOOKS = {stage: f"{stage}_dataloader" for stage in ("train", "val", "test", "predict")}


class WrappingDataModule(LightningDataModule):
    """A data module that changes something of another one, its base, and passes everything else on.

    The base's hooks are called, its state is saved and restored, it gets the trainer, and its attributes are seen. What
    the base does not define, neither does this one in Lightning's eyes: no stage without loaders is run, and a hook of
    the module that is trained is called where the base has none.

    A subclass returns the loaders, and calls `_hide_what_the_base_lacks` at the end of its ``__init__``.

    Args:
        base: Any ``LightningDataModule``; only its ``trainer`` is changed.

    Attributes:
        base: What was given.
    """

    #: Hooks that return loaders, and that of the base without which there are none.
    _loaders_of: ClassVar[Mapping[str, str]] = {hook: hook for hook in LOADER_HOOKS.values()}

    def __init__(self, base: AnyDataModule) -> None:
        super().__init__()
        self.base = base
        self.prepare_data_per_node = base.prepare_data_per_node
        self.allow_zero_length_dataloader_with_multiple_devices = (
            base.allow_zero_length_dataloader_with_multiple_devices
        )

    def __getattr__(self, name: str) -> Any:
        # Only what is not found here: the base's classes, transforms, data sets.
        if name.startswith("_") or "base" not in vars(self):
            raise AttributeError(f"{type(self).__name__!r} object has no attribute {name!r}")
        return getattr(self.base, name)

    def __setattr__(self, name: str, value: Any) -> None:
        super().__setattr__(name, value)
        if name == "trainer" and "base" in vars(self):
            self.base.trainer = value
            self._hide_what_the_base_lacks()

    def prepare_data(self) -> None:
        """Call the base's `prepare_data`."""
        self.base.prepare_data()

    def setup(self, stage: str | None = None) -> None:
        """Call the base's `setup`."""
        self.base.setup(stage)

    def teardown(self, stage: str | None = None) -> None:
        """Call the base's `teardown`."""
        self.base.teardown(stage)

    def on_exception(self, exception: BaseException) -> None:
        """Call the base's `on_exception`."""
        self.base.on_exception(exception)

    def state_dict(self) -> dict[str, Any]:
        """The base's state."""
        state: dict[str, Any] = self.base.state_dict()
        return state

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restore the base's state."""
        self.base.load_state_dict(state_dict)

    def on_before_batch_transfer(self, batch: Any, dataloader_idx: int) -> Any:
        """Call the base's `on_before_batch_transfer`."""
        return self.base.on_before_batch_transfer(batch, dataloader_idx)

    def transfer_batch_to_device(self, batch: Any, device: torch.device, dataloader_idx: int) -> Any:
        """Call the base's `transfer_batch_to_device`."""
        return self.base.transfer_batch_to_device(batch, device, dataloader_idx)

    def on_after_batch_transfer(self, batch: Any, dataloader_idx: int) -> Any:
        """Call the base's `on_after_batch_transfer`."""
        return self.base.on_after_batch_transfer(batch, dataloader_idx)

    def _adds(self, hook: str) -> bool:
        """Whether a hook does something of its own, though the base may not define it."""
        return False

    def _hide_what_the_base_lacks(self) -> None:
        """Show Lightning that the base lacks a loader or hook, by returning the default of Lightning's own class."""
        default = lightning_parent(self)
        passed_on = {hook: hook for hook in ("prepare_data", *TRANSFER_HOOKS)}
        for hook, needed in {**passed_on, **self._loaders_of}.items():
            if not overrides(self.base, needed) and not self._adds(hook):
                setattr(self, hook, partial(getattr(default, hook), self))
