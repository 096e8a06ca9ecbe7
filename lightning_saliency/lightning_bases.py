"""The base classes of callbacks, modules and data modules, which both of Lightning's packages take for their own.

``pytorch_lightning`` and ``lightning.pytorch`` are two packages with the same classes, and each one's Trainer and
LightningCLI ask for its own. The classes here are ``pytorch_lightning``'s; as soon as somebody imports
``lightning.pytorch``, before or after this package, they become subclasses of its classes, too. This package never
imports it.
"""

from __future__ import annotations

import sys
from abc import ABC
from collections.abc import Callable, Sequence
from importlib.abc import MetaPathFinder
from importlib.machinery import ModuleSpec
from importlib.util import find_spec
from types import FunctionType, ModuleType
from typing import TYPE_CHECKING, Any

import pytorch_lightning as pl
from pytorch_lightning.utilities.model_helpers import is_overridden

_OTHER = "lightning.pytorch"
_PACKAGES = ("pytorch_lightning", "lightning")


class Callback(pl.Callback):
    """A callback for the Trainer of either package."""


class LightningModule(pl.LightningModule):
    """A module for the Trainer of either package; what it inherits is that of the package whose Trainer has it."""


class LightningDataModule(pl.LightningDataModule):
    """A data module for the Trainer of either package; what it inherits is that of the package whose Trainer has it."""


if TYPE_CHECKING:
    AnyDataModule = Any
else:

    class AnyDataModule(ABC):  # noqa: B024  # nothing derives from it
        """Any ``LightningDataModule``, of either package: as a type that configurations are checked against."""

        @classmethod
        def __subclasshook__(cls, other: type) -> bool:
            return any(parent.__name__ == "LightningDataModule" and _is_theirs(parent) for parent in other.__mro__)


def lightning_parent(module: object) -> type | None:
    """The ``LightningDataModule`` or ``LightningModule`` that an object's class derives from, of either package.

    Returns:
        Of a class that derives from both packages' classes, the one of the package whose Trainer has the object.

    Example:
        >>> lightning_parent(pl.LightningDataModule()).__name__
        'LightningDataModule'
    """
    found = _parents(module)
    return found.get(_package_of(module)) or next(iter(found.values()), None)


def trainer_class(*parts: object) -> type[pl.Trainer]:
    """The ``Trainer`` that takes all these modules and data modules: ``pytorch_lightning``'s wherever it does.

    Example:
        >>> trainer_class(LightningModule(), LightningDataModule()).__module__
        'pytorch_lightning.trainer.trainer'
    """
    taken = [all(package in _parents(part) for part in parts) for package in _PACKAGES]
    if taken == [False, True]:
        other: type[pl.Trainer] = sys.modules[_OTHER].Trainer
        return other
    return pl.Trainer


def overrides(module: object, hook: str) -> bool:
    """Whether a data module or module of either package defines a hook itself."""
    parent = lightning_parent(module)
    return parent is not None and bool(is_overridden(hook, module, parent))


def is_data_module(value: object) -> bool:
    """Whether this is a ``LightningDataModule`` of either package."""
    return isinstance(value, AnyDataModule)  # type: ignore[misc]


def is_callback_class(value: object) -> bool:
    """Whether this is a class of callbacks of either package."""
    return isinstance(value, type) and any(
        parent.__name__ == "Callback" and _is_theirs(parent) for parent in value.__mro__
    )


def _is_theirs(parent: type) -> bool:
    return parent.__module__.split(".")[0] in _PACKAGES


def _parents(module: object) -> dict[str, type]:
    """By package, the ``LightningDataModule`` or ``LightningModule`` that an object's class derives from."""
    return {
        parent.__module__.split(".")[0]: parent
        for parent in reversed(type(module).__mro__)
        if parent.__name__ in ("LightningDataModule", "LightningModule") and _is_theirs(parent)
    }


def _package_of(module: object) -> str:
    """The package whose Trainer has a module or data module; before any has it, the one whose CLI makes it."""
    attached = vars(module).get("_trainer", vars(module).get("trainer"))
    try:
        trainers = () if attached is None else attached.__class__.__mro__
    except ReferenceError:  # the trainer is gone
        trainers = ()
    if any(each.__module__.split(".")[0] == "lightning" for each in trainers):
        return "lightning"
    if not trainers:
        given = getattr(sys.modules.get(f"{_OTHER}.core.mixins.hparams_mixin"), "_given_hyperparameters", None)
        if given is not None and given.get() is not None:
            return "lightning"
    return "pytorch_lightning"


class _OfItsPackage:
    """A method that is inherited from the package whose Trainer has the object.

    Lightning takes a hook as overridden where its code differs from that of its own class; the two packages' hooks do.
    """

    def __init__(self, first: FunctionType, other: FunctionType) -> None:
        self._methods = {"pytorch_lightning": first, "lightning": other}

    def __get__(self, module: object | None, owner: type | None = None) -> Callable[..., Any]:
        if module is None:
            return self._methods["pytorch_lightning"]
        bound: Callable[..., Any] = self._methods[_package_of(module)].__get__(module, owner)
        return bound


def _methods(base: type) -> dict[str, FunctionType]:
    """What a class of Lightning defines and inherits from Lightning's own classes."""
    return {
        name: value
        for parent in reversed(base.__mro__)
        if parent.__module__.startswith(("pytorch_lightning.", "lightning_fabric.", "lightning."))
        for name, value in vars(parent).items()
        if isinstance(value, FunctionType) and not name.startswith("__")
    }


def _join(other: ModuleType) -> None:
    """Make the classes subclasses of the other package's, too."""
    joined = ((Callback, other.Callback), (LightningModule, other.LightningModule))
    for own, base in (*joined, (LightningDataModule, other.LightningDataModule)):
        first = own.__bases__[0]
        own.__bases__ = (first, base)
        if own is not Callback:
            others = _methods(base)
            for name, method in _methods(first).items():
                if name in others:
                    setattr(own, name, _OfItsPackage(method, others[name]))


class _Arrival(MetaPathFinder):
    """Joins the classes when somebody imports the other package; finds nothing itself."""

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        if fullname != _OTHER:
            return None
        sys.meta_path.remove(self)
        try:
            spec = find_spec(fullname)
        finally:
            sys.meta_path.insert(0, self)
        if spec is not None and spec.loader is not None:
            execute = spec.loader.exec_module

            def execute_and_join(module: ModuleType) -> None:
                execute(module)
                if module.__name__ == _OTHER and self in sys.meta_path:
                    sys.meta_path.remove(self)
                    _join(module)

            spec.loader.exec_module = execute_and_join  # type: ignore[method-assign]
        return spec


if _OTHER in sys.modules:
    _join(sys.modules[_OTHER])
else:
    sys.meta_path.insert(0, _Arrival())
