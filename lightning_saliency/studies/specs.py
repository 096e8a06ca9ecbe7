"""Classes that a configuration names by `class_path` and `init_args`: checked, completed, built."""

from __future__ import annotations

import functools
import importlib
import inspect
import json
from collections.abc import Mapping
from pathlib import PurePath
from typing import Any

from lightning_saliency.checks import did_you_mean, without_unset

Spec = Mapping[str, Any]


#: Where a class path without a dot is looked up.
_HOME = "lightning_saliency"


def as_spec(part: Any, default: type | None = None) -> dict[str, Any]:
    """A data module or a module as plain data, ``{"class_path": ..., "init_args": ...}``.

    Args:
        part: Such a mapping; or an object that saved its arguments with ``save_hyperparameters()``; or, where there is
            a default class, a mapping of its arguments.
        default: That class.

    Raises:
        TypeError: If it is something else.
        ValueError: If an object's saved arguments are not those that it is built from.

    Example:
        >>> from lightning_saliency.classifier import ImageClassifier
        >>> as_spec({"model": "small_cnn", "num_classes": 10}, ImageClassifier)["class_path"]
        'lightning_saliency.classifier.ImageClassifier'
    """
    if isinstance(part, Mapping) and "class_path" in part:
        unknown = sorted(set(part) - {"class_path", "init_args"})
        if unknown:
            raise ValueError(
                f"Got {', '.join(unknown)} beside class_path. Allowed are class_path and init_args; put arguments into "
                "init_args."
            )
        found = class_at(str(part["class_path"]))
        return _completed(found, without_unset(found, part.get("init_args") or {}))
    if isinstance(part, Mapping) and default is not None:
        return _completed(default, dict(part))
    hyperparameters = None if isinstance(part, Mapping) else getattr(part, "hparams", None)
    if not isinstance(hyperparameters, Mapping):
        raise TypeError(
            f"Got a {type(part).__name__}. Allowed are {{'class_path': ..., 'init_args': ...}} and objects that called "
            "save_hyperparameters(): cells are computed in other processes, which build their own. Give a class path."
        )
    try:
        return _completed(type(part), dict(hyperparameters))
    except TypeError as error:
        raise ValueError(
            f"Got a {type(part).__name__} that cannot be built again from its saved arguments ({error}). Give "
            "{'class_path': ..., 'init_args': ...}."
        ) from error


def given_arguments(spec: Spec) -> dict[str, Any]:
    """The arguments of a specification that are other than the class's defaults."""
    defaults = _completed(class_at(spec["class_path"]), {}, check=False)["init_args"]
    own = spec.get("init_args") or {}
    return {name: value for name, value in own.items() if name not in defaults or defaults[name] != value}


def build(spec: Spec) -> Any:
    """The object that ``{"class_path": ..., "init_args": ...}`` describes; the arguments may contain such mappings.

    Raises:
        TypeError: If the class does not take the arguments.
        ValueError: If the class cannot be imported.

    Example:
        >>> build({"class_path": "DigitScenes", "init_args": {"train_size": 10}}).sizes["train"]
        10
    """
    found = class_at(str(spec["class_path"]))
    arguments = {key: _built(value) for key, value in without_unset(found, spec.get("init_args") or {}).items()}
    _check_arguments(found, arguments)
    return found(**arguments)


def build_data(spec: Spec) -> Any:
    """The data module of a specification; the same object each time in one process, so that data are read once."""
    return _data(json.dumps(spec, sort_keys=True))


def build_module(spec: Spec, changes: Spec | None = None) -> Any:
    """A new LightningModule of a specification, with some of its arguments changed."""
    arguments = {**(spec.get("init_args") or {}), **(changes or {})}
    return build({"class_path": spec["class_path"], "init_args": arguments})


@functools.lru_cache(maxsize=2)
def _data(text: str) -> Any:
    return build(json.loads(text))


def class_at(path: str) -> Any:
    """The class of a class path; without a dot, one of ``lightning_saliency``.

    Raises:
        ValueError: If it cannot be imported.
    """
    module, _, name = path.rpartition(".")
    try:
        return getattr(importlib.import_module(module or _HOME), name)
    except (ImportError, AttributeError) as error:
        raise ValueError(
            f"Got the class path {path!r}, which cannot be imported ({error}). Give the module and the class, such as "
            "lightning_saliency.data.DigitScenes, of a package that is installed."
        ) from error


def _check_arguments(found: Any, arguments: Mapping[str, Any]) -> None:
    try:
        inspect.signature(found).bind(**arguments)
    except TypeError as error:
        parameters = inspect.signature(found).parameters
        unknown = [name for name in arguments if name not in parameters]
        given = ", ".join(map(repr, unknown)) or str(sorted(arguments))
        meant = "".join(did_you_mean(name, parameters) for name in unknown)
        allowed = ", ".join(parameters)
        name = getattr(found, "__qualname__", str(found))
        plain = (inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY)
        required = [key for key, one in parameters.items() if one.default is one.empty and one.kind in plain]
        missing = [key for key in required if key not in arguments]
        if missing and not unknown:
            raise TypeError(
                f"Got {name} without {', '.join(missing)}. Allowed are {allowed}; give what is missing in init_args."
            ) from None
        raise TypeError(
            f"Got {given} for {name}: {error}. Allowed are {allowed}; "
            f"{'drop or rename it' if len(unknown) == 1 else 'drop or rename the others'}.{meant}"
        ) from None


def _path_as_text(value: object) -> str:
    if isinstance(value, PurePath):
        return str(value)
    raise TypeError(
        f"Got a {type(value).__name__} among the arguments of a class. Allowed are plain values, since other processes "
        "build their own objects of them; give {'class_path': ..., 'init_args': ...}."
    )


def _completed(found: Any, arguments: dict[str, Any], check: bool = True) -> dict[str, Any]:
    """A specification with the class's defaults: however it was given, it is the same."""
    if check:
        _check_arguments(found, arguments)
    for name, parameter in inspect.signature(found).parameters.items():
        if isinstance(parameter.default, (str, int, float, bool, tuple, list, type(None))):
            arguments.setdefault(name, parameter.default)
    arguments = json.loads(json.dumps(arguments, default=_path_as_text))
    return {"class_path": f"{found.__module__}.{found.__qualname__}", "init_args": arguments}


def _built(value: Any) -> Any:
    if isinstance(value, Mapping):
        if "class_path" in value:
            return build(value)
        return {key: _built(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_built(item) for item in value]
    return value
