"""Which action: by name, as a class with arguments, or as an object of your own."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, is_dataclass, replace
from importlib import import_module
from typing import TYPE_CHECKING, Any

from jsonargparse.typing import register_type
from torch import Tensor

from lightning_saliency.callbacks.augmentation.actions.basic import Action, Hide, Keep
from lightning_saliency.callbacks.augmentation.actions.more import Mix, Protect, Swap
from lightning_saliency.callbacks.augmentation.options import AugmentationConfigurationError, meant_for
from lightning_saliency.checks import did_you_mean, without_unset
from lightning_saliency.explainers.registry import plain_value

#: The actions that have a name.
ACTIONS: dict[str, type[Action]] = {"keep": Keep, "hide": Hide, "protect": Protect, "swap": Swap, "mix": Mix}


@dataclass(frozen=True)
class ActionSpec:
    """An action, and what it was called in a configuration.

    Args:
        name: A name of ``ACTIONS``, or a class path.
        action: The action itself: called with images, maps and a generator, see `Action`.
        init_args: The arguments that it was made with.

    Example:
        >>> spec = ActionSpec.parse({"class_path": "hide", "init_args": {"share": 0.2}})
        >>> spec.action.share, spec.written()
        (0.2, {'class_path': 'hide', 'init_args': {'share': 0.2}})
    """

    name: str
    action: Action
    init_args: Mapping[str, Any] = field(default_factory=dict)

    @classmethod
    def parse(cls, given: Any) -> ActionSpec:
        """Read an action in any of its forms.

        Args:
            given: One of

                - a name: ``"keep"``, ``"hide"``, ``"protect"``, ``"swap"`` or ``"mix"``, or the class path of a class
                  of your own;
                - ``{"class_path": name, "init_args": {...}}`` with such a name;
                - an object: an `Action`, or anything that is called like one.

        Raises:
            AugmentationConfigurationError: If it is none of them, or the arguments do not fit.
        """
        if isinstance(given, ActionSpec):
            return given
        if isinstance(given, str):
            return cls._built(given, {})
        if isinstance(given, Mapping):
            if "class_path" not in given or set(given) - {"class_path", "init_args"}:
                raise AugmentationConfigurationError(
                    f"Got an action with the keys {', '.join(sorted(map(str, given))) or '(none)'}. Allowed are "
                    "class_path and init_args; write for example {class_path: hide, init_args: {share: 0.1}}."
                )
            return cls._built(str(given["class_path"]), dict(given.get("init_args") or {}))
        if callable(given) and not isinstance(given, type):
            kinds = {kind: name for name, kind in ACTIONS.items()}
            kind = type(given)
            return cls(kinds.get(kind, f"{kind.__module__}.{kind.__qualname__}"), given, _arguments(given))
        raise AugmentationConfigurationError(
            f"Got action={given!r}. Allowed are {', '.join(ACTIONS)}, a mapping of class_path and init_args, and an "
            f"object that is called with images, maps and a generator; give one of them.{meant_for(given, 'action')}"
        )

    @classmethod
    def _built(cls, name: str, init_args: dict[str, Any]) -> ActionSpec:
        kind = ACTIONS.get(name) or _class_at(name)
        init_args = without_unset(kind, init_args)
        try:
            inspect.signature(kind).bind(**init_args)
        except TypeError as error:
            allowed = ", ".join(inspect.signature(kind).parameters) or "none"
            raise AugmentationConfigurationError(
                f"Got the options {sorted(init_args)} for the action {name}: {error}. Allowed are {allowed}; drop or "
                "rename the others."
            ) from None
        return cls(name, kind(**init_args), init_args)

    def written(self) -> str | dict[str, Any]:
        """As it stands in a YAML file: the name, or ``class_path`` and ``init_args``."""
        arguments = {key: plain_value(value) for key, value in self.init_args.items()}
        return {"class_path": self.name, "init_args": arguments} if arguments else self.name

    @property
    def changes_labels(self) -> bool:
        """Whether labels change with the pixels."""
        return bool(getattr(self.action, "changes_labels", False))

    def whole_region(self) -> Action:
        """The action where maps are zeros and ones, and all of their ones are the region, a shortcut's place.

        Raises:
            AugmentationConfigurationError: If the action was given a size of its own, or would keep the shortcut.
        """
        if isinstance(self.action, Action) and not self.action.hides:
            raise AugmentationConfigurationError(
                f"Got action={self.name!r} with maps='shortcut', whose place is a shortcut that training should not "
                "see. Allowed are 'hide' and actions of your own that hide (hides = True); take action='hide'."
            )
        size = {name: getattr(self.action, name) for name in ("share", "sigmas") if hasattr(self.action, name)}
        given = [f"{name}={value}" for name, value in size.items() if value is not None]
        if given:
            raise AugmentationConfigurationError(
                f"Got {' and '.join(given)} of the action {self.name} with maps='shortcut', whose place has a size of "
                "its own. Leave it out, or take maps='mean'."
            )
        if "sigmas" in size and is_dataclass(type(self.action)):
            whole: Action = replace(self.action, sigmas=0.0)  # type: ignore[type-var]
            return whole
        return self.action

    @property
    def fixed_share(self) -> float | None:
        """Share of the pixels that is the salient region; ``None`` where it is not fixed."""
        share: float | None = getattr(self.action, "fixed_share", None)
        return share


def _class_at(name: str) -> Callable[..., Any]:
    module, _, attribute = name.rpartition(".")
    try:
        found = getattr(import_module(module), attribute) if module else None
    except (ImportError, AttributeError) as error:
        raise AugmentationConfigurationError(
            f"Got action={name!r}, which cannot be imported ({error}). Give the class path of your own action, such as "
            "'my_package.MyAction'."
        ) from error
    if not callable(found):
        raise AugmentationConfigurationError(
            f"Got action={name!r}. Allowed are {', '.join(ACTIONS)}, and the class path "
            f"of your own; use one of them.{meant_for(name, 'action') or did_you_mean(name, ACTIONS)}"
        )
    made: Callable[..., Any] = found
    return made


def _arguments(action: Any) -> dict[str, Any]:
    """The arguments that an object's attributes of the same names say it was made with."""
    try:
        parameters = inspect.signature(type(action)).parameters.values()
    except (TypeError, ValueError):
        return {}
    return {
        each.name: getattr(action, each.name)
        for each in parameters
        if hasattr(action, each.name)
        and not isinstance(getattr(action, each.name), Tensor)
        and getattr(action, each.name) != each.default
    }


if TYPE_CHECKING:
    #: The type of an argument that takes an action in any form, from Python and from YAML.
    ActionOption = ActionSpec | Action | str | Mapping[str, Any] | Callable[..., Any]
else:
    # What jsonargparse, and so LightningCLI, sees, as for explainers.
    ActionOption = ActionSpec | str
    register_type(ActionSpec, ActionSpec.written, ActionSpec.parse, (TypeError, ValueError, ImportError))
