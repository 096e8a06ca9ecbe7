"""Configuration files that are named on the command line, looked at before a parser meets them."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml  # type: ignore[import-untyped]

from lightning_saliency.cli.parsing.errors import UsageError
from lightning_saliency.files import read_text, reading

_ENDINGS = (".yaml", ".yml")
#: How the first line of a configuration begins that cannot run without files of the user's; it names their options.
_NEEDS = "# Needs "
# The commands that a configuration's comments show.
_SHOWN = re.compile(r"^#\s+lightning-saliency ([a-z][a-z-]*)\s", re.MULTILINE)
_ASKING = ("-h", "--help", "--print_config")


def check_configs(arguments: Sequence[str]) -> None:
    """Raise an error that names the file if a YAML file among the arguments cannot be used.

    Args:
        arguments: A command's arguments, flags with underscores; the value of ``--config``, and whatever else ends like
            a YAML file.

    Raises:
        UsageError: If such a file is there and cannot be read, is no YAML, or holds no options.
    """
    for _ in _contents(arguments):
        pass


def check_needs(arguments: Sequence[str]) -> None:
    """Raise an error if a YAML file among the arguments needs files that are not there.

    A first line such as ``# Needs images: give their folder with --data.init_args.root.`` names options whose files
    must be there; nothing has been computed or written before that is known.

    Args:
        arguments: As for `check_configs`.

    Raises:
        UsageError: In that case.
    """
    needs: list[str] = []
    values: dict[str, Any] = {}
    for _, text, content in _contents(arguments):
        first = text.partition("\n")[0].strip()
        needs += [first.removeprefix("# ")] if first.startswith(_NEEDS) else []
        values |= {option: found for need in needs for option in _options(need) if (found := _value(content, option))}
    if not any(argument.partition("=")[0] in _ASKING for argument in arguments):
        for need in needs:
            _check_files(need, values, arguments)


def of_another_command(arguments: Sequence[str], command: str) -> str:
    """A sentence for an error message if a YAML file's comments show other commands alone; with a blank before it.

    Args:
        arguments: As for `check_configs`.
        command: The command that was given.
    """
    for path, text, _ in _contents(arguments):
        shown = list(dict.fromkeys(_SHOWN.findall(text)))
        if shown and command not in shown:
            return f" The configuration {path} is for lightning-saliency {' and '.join(shown)}."
    return ""


def _contents(arguments: Sequence[str]) -> Iterator[tuple[Path, str, dict[str, Any]]]:
    """The YAML files among the arguments: path, text, options."""
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
        yield path, text, content


def _check_files(need: str, values: Mapping[str, Any], arguments: Sequence[str]) -> None:
    """Raise an error with that sentence if a file is missing that one of its options names.

    Raises:
        UsageError: In that case.
    """
    given = dict(zip(arguments, [*arguments[1:], ""], strict=True))
    given |= dict(argument.split("=", 1) for argument in arguments if argument.startswith("--") and "=" in argument)
    for option in _options(need):
        keys = option.split(".")
        if any(f"--{'.'.join(keys[:count])}" in given for count in range(1, len(keys))):
            continue  # a whole group of options is another one
        # LightningCLI lets init_args be left out.
        short = option.replace(".init_args", "")
        value = given.get(f"--{option}", given.get(f"--{short}", values.get(option)))
        if isinstance(value, str) and value.startswith("["):
            value = yaml.safe_load(value)
        files = value if isinstance(value, list) else [value]
        missing = ["null" if file is None else str(file) for file in files if not _is_there(file)]
        if missing:
            raise UsageError(f"{need} Got --{option} {', '.join(missing)}, where there is nothing.")


def _options(need: str) -> list[str]:
    return re.findall(r"--([\w-]+(?:\.[\w-]+)+)", need)


def _value(content: Any, option: str) -> Any:
    for key in option.split("."):
        content = content.get(key) if isinstance(content, Mapping) else None
    return content


def _is_there(file: Any) -> bool:
    """Whether a value is a path of something; what only a remote store can tell counts."""
    text = re.sub(r"(\.py):\w+$", r"\1", str(file))  # path/file.py:function
    return file is not None and ("://" in text or Path(text).expanduser().exists())


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
