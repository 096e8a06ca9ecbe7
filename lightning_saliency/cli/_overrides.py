"""Arguments that reach into an option that is a mapping: they change one value of it, and leave the others."""

from __future__ import annotations

import json
from collections.abc import MutableMapping, Sequence
from typing import Any

import yaml  # type: ignore[import-untyped]

from lightning_saliency.cli._errors import UsageError

Override = tuple[list[str], Any]


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
        if not equals:
            if not left:
                raise UsageError(f"{name} was given without a value: write {name} VALUE")
            value = left.pop(0)
        found.append((name.removeprefix("--").split("."), _value(value)))
    return plain, found


def put(options: MutableMapping[str, Any], path: Sequence[str], value: Any) -> None:
    """Set one value inside nested mappings.

    Example:
        >>> options = {"rise": {"masks": 1000, "fast": True}}
        >>> put(options, ["rise", "masks"], 500)
        >>> options
        {'rise': {'masks': 500, 'fast': True}}
    """
    *outer, last = path
    for key in outer:
        if not isinstance(options.get(key), MutableMapping):
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
