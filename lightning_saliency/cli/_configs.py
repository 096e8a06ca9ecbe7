"""Configuration files that are named on the command line, looked at before a parser meets them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

import yaml  # type: ignore[import-untyped]

from lightning_saliency.cli._errors import UsageError
from lightning_saliency.files import read_text, reading

_ENDINGS = (".yaml", ".yml")


def check_configs(arguments: Sequence[str]) -> None:
    """Raise an error that names the file if a YAML file among the arguments cannot be used.

    Args:
        arguments: A command's arguments; the value of ``--config``, and whatever else ends like a YAML file.

    Raises:
        UsageError: If such a file is there and cannot be read, is no YAML, or holds no options.
    """
    for path in _named(arguments):
        try:
            text = read_text(path, "configuration")
            with reading(path, "configuration", "Correct it; indents and brackets are what goes wrong most."):
                content = yaml.safe_load(text)
        except (OSError, ValueError) as error:
            raise UsageError(str(error)) from error
        if not isinstance(content, dict):
            given = "nothing" if content is None else f"a {type(content).__name__}"
            raise UsageError(
                f"Got {given} in the configuration {path}. Allowed are lines of option: value; write some."
            )


def _named(arguments: Sequence[str]) -> Iterator[Path]:
    values = zip(["", *arguments], arguments, strict=False)
    for before, argument in values:
        flag, equals, value = argument.partition("=")
        if not (equals and flag.startswith("--")):
            flag, value = before, argument
        if "\n" in value or "\0" in value or len(value) > 1000:
            continue
        if (flag == "--config" or value.endswith(_ENDINGS)) and Path(value).exists():
            yield Path(value)
