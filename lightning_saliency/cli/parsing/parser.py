"""The parser of a command: a YAML file or flags, and a help text that reads well in a terminal."""

from __future__ import annotations

import re
import sys
import textwrap
from collections.abc import Iterator, Sequence
from typing import Any, NoReturn

from jsonargparse import ArgumentParser, DefaultHelpFormatter

from lightning_saliency.checks import did_you_mean
from lightning_saliency.cli.parsing.configs import of_another_command
from lightning_saliency.cli.parsing.overrides import put, split_overrides

# How jsonargparse names options that it does not know: of the command line, and of a file.
_UNKNOWN = re.compile(r"(?:(?<=\s)--([\w.-]+)|Option '([\w.-]+)' is not accepted)")


def command_parser(command: str, arguments: str, description: str) -> ArgumentParser:
    """A parser with ``--config``.

    Args:
        command: The command's name.
        arguments: The rest of the first line of the help text.
        description: What the command does.
    """
    parser = CommandParser(
        prog=f"lightning-saliency {command}",
        usage=f"lightning-saliency {command} {arguments}",
        description=description,
        formatter_class=PlainHelp,
    )
    parser.add_argument("--config", action="config", metavar="FILE", help="YAML file with any of the options below")
    return parser


def parse(parser: ArgumentParser, arguments: Sequence[str], into: Sequence[str]) -> dict[str, Any]:
    """The options that arguments and their YAML file give.

    Args:
        parser: The command's parser.
        arguments: The command's arguments.
        into: Options that are mappings, into which an argument may reach: ``--explainers.rise.init_args.masks 500``.

    Returns:
        Option -> value; with ``--print_config`` they are printed, and the process ends with status 0.
    """
    plain, inner = split_overrides(arguments, into)
    # The parser itself would print what stands there before an argument has reached into a mapping.
    asked = bool(inner) and any(argument.partition("=")[0] == "--print_config" for argument in plain)
    if asked:
        plain = [argument for argument in plain if argument.partition("=")[0] != "--print_config"]
    if isinstance(parser, CommandParser):
        parser.hint = of_another_command(arguments, parser.prog.rpartition(" ")[2])
    options: dict[str, Any] = parser.parse_args(plain).as_dict()
    for path, value in inner:
        put(options, path, value)
    if asked:
        options.pop("config", None)
        sys.stdout.write(parser.dump(parser.parse_object(options)))
        raise SystemExit(0)
    return options


class CommandParser(ArgumentParser):
    """A parser whose errors say which option a mistyped one may mean.

    Attributes:
        hint: What else may be wrong, at the end of an error; with a blank before it.
    """

    hint = ""

    def error(self, message: str, ex: Exception | None = None) -> NoReturn:
        """End the process with status 2, see `jsonargparse.ArgumentParser`."""
        known = set(_options(self))
        unknown = [flag or key for flag, key in _UNKNOWN.findall(message)]
        meant = "".join(did_you_mean(name, known) for name in unknown if name not in known)
        hint = self.hint and f"{'' if (message + meant).endswith(('.', '?')) else '.'}{self.hint}"
        super().error(message + meant + hint, ex)


class PlainHelp(DefaultHelpFormatter):
    """Help texts taken from docstrings, without their markup, and headings no wider than the terminal."""

    def start_section(self, heading: str | None) -> None:
        """Begin a group of options."""
        super().start_section(heading and "\n".join(textwrap.wrap(_plain(heading), self._width - 1)))

    def _split_lines(self, text: str, width: int) -> list[str]:
        lines: list[str] = super()._split_lines(_plain(text), width)
        return lines


def _options(parser: ArgumentParser) -> Iterator[str]:
    """The options of a parser and of its subcommands, as the keys of a file."""
    for action in parser._actions:
        named = [option.removeprefix("--") for option in action.option_strings if option.startswith("--")]
        yield from named or [action.dest]
        choices = getattr(action, "choices", None)
        for inner in choices.values() if isinstance(choices, dict) else ():
            if isinstance(inner, ArgumentParser):
                yield from _options(inner)


def _plain(text: str) -> str:
    return text.replace("``", "").replace("`", "")
