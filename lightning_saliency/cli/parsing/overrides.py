"""How arguments are written: dashes or underscores, lists with commas, flags that reach into a mapping."""

from __future__ import annotations

import json
from collections.abc import MutableMapping, Sequence
from typing import Any

import yaml  # type: ignore[import-untyped]

from lightning_saliency.cli.parsing.errors import UsageError

Override = tuple[list[str], Any]

# Options whose keys are names of the user's own, such as ResNet-20, and keep their dashes.
_NAMED_ROWS = ("explainers", "models", "arms", "views")


def with_underscores(arguments: Sequence[str]) -> list[str]:
    """The arguments with their flags spelled as the keys of a YAML file: ``--num-classes`` is ``--num_classes``.

    Values keep their dashes, also behind ``=``; so do the names of rows (``--models.ResNet-20.model``), and all that
    comes after ``--``.

    Example:
        >>> with_underscores(["--num-classes", "-3", "--models.ResNet-20.num-classes=a-b", "my-images"])
        ['--num_classes', '-3', '--models.ResNet-20.num_classes=a-b', 'my-images']
    """
    found: list[str] = []
    for position, argument in enumerate(arguments):
        if argument == "--":
            return found + list(arguments[position:])
        name, equals, value = argument.partition("=")
        # A value that begins with two dashes and holds a blank is no flag.
        if name.startswith("--") and not any(letter.isspace() for letter in name):
            keys = name[2:].split(".")
            before = ["", *keys]
            keys = [
                key if owner in _NAMED_ROWS else key.replace("-", "_") for owner, key in zip(before, keys, strict=False)
            ]
            name = "--" + ".".join(keys)
        found.append(name + equals + value)
    return found


def listed(flag: str, given: Any) -> list[Any]:
    """The parts of an argument such as ``a,b``, or of a list, each once.

    Args:
        flag: The argument's name, for the message.
        given: Text with commas, a list, or one value.

    Raises:
        UsageError: If there is no part.

    Example:
        >>> listed("--targets", "3, 7,3"), listed("--targets", [3, 7]), listed("--targets", 3)
        (['3', '7'], [3, 7], [3])
    """
    if isinstance(given, str):
        given = [part.strip() for part in given.split(",") if part.strip()]
    parts = list(dict.fromkeys(given)) if isinstance(given, (list, tuple)) else [given]
    if not parts:
        raise UsageError(f"Got {flag} without a value. Allowed is at least one; leave {flag} out, or give it some.")
    return parts


def scale_weights_option(given: Any) -> Any:
    """The weights of scales: a name, or a number for each, separated by commas.

    Example:
        >>> scale_weights_option("1,1,2"), scale_weights_option([0.5, 1]), scale_weights_option("ramp")
        ([1.0, 1.0, 2.0], [0.5, 1.0], 'ramp')
    """
    parts = given.split(",") if isinstance(given, str) else given if isinstance(given, list) else [given]
    try:
        return None if given is None else [float(part) for part in parts]
    except (TypeError, ValueError):
        return given


def split_overrides(arguments: Sequence[str], into: Sequence[str]) -> tuple[list[str], list[Override]]:
    """The arguments that do not reach into a mapping, and those that do.

    Args:
        arguments: Such as ``["--seed", "1", "--explainers.rise.masks", "500"]``.
        into: Options that are mappings, such as ``["explainers", "data.options"]``.

    Returns:
        The other arguments; and for each override the path to the value, and the value.

    Raises:
        UsageError: If an override has no value.

    Example:
        >>> split_overrides(["--seed", "1", "--explainers.rise.masks", "500"], ["explainers"])
        (['--seed', '1'], [(['explainers', 'rise', 'masks'], 500)])
    """
    prefixes = tuple(f"--{name}." for name in into)
    plain: list[str] = []
    found: list[Override] = []
    left = list(arguments)
    while left:
        name, equals, value = left.pop(0).partition("=")
        if not name.startswith(prefixes):
            plain.append(name + equals + value)
            continue
        if not value:
            if equals or not left:
                raise UsageError(f"Got {name} without a value. Allowed is any value; write {name} VALUE.")
            value = left.pop(0)
        found.append((name.removeprefix("--").split("."), _value(value)))
    return plain, found


def put(options: MutableMapping[str, Any], path: Sequence[str], value: Any) -> None:
    """Set one value inside nested mappings; a list of names becomes a mapping of these names first.

    Example:
        >>> options = {"explainers": ["smoe", "rise"]}
        >>> put(options, ["explainers", "rise", "init_args", "masks"], 500)
        >>> options
        {'explainers': {'smoe': None, 'rise': {'init_args': {'masks': 500}}}}
    """
    *outer, last = path
    for key in outer:
        inner = options.get(key)
        if isinstance(inner, (str, list)) and inner and key in _NAMED_ROWS:
            options[key] = dict.fromkeys(listed(f"--{key}", inner))
        elif not isinstance(inner, MutableMapping):
            options[key] = {}
        options = options[key]
    options[last] = value


def _value(text: str) -> Any:
    for read, error in ((json.loads, json.JSONDecodeError), (yaml.safe_load, yaml.YAMLError)):
        try:
            return read(text)
        except error:
            continue
    return text
