"""The parser of a command: a YAML file or flags, and a help text that reads well in a terminal."""

from __future__ import annotations

import textwrap

from jsonargparse import ArgumentParser, DefaultHelpFormatter


def command_parser(command: str, arguments: str, description: str) -> ArgumentParser:
    """A parser with ``--config``.

    Args:
        command: The command's name.
        arguments: The rest of the first line of the help text.
        description: What the command does.
    """
    parser = ArgumentParser(
        prog=f"lightning-saliency {command}",
        usage=f"lightning-saliency {command} {arguments}",
        description=description,
        formatter_class=PlainHelp,
    )
    parser.add_argument("--config", action="config", metavar="FILE", help="YAML file with any of the options below")
    return parser


class PlainHelp(DefaultHelpFormatter):
    """Help texts taken from docstrings, without their markup, and headings no wider than the terminal."""

    def start_section(self, heading: str | None) -> None:
        """Begin a group of options."""
        super().start_section(heading and "\n".join(textwrap.wrap(_plain(heading), self._width - 1)))

    def _split_lines(self, text: str, width: int) -> list[str]:
        lines: list[str] = super()._split_lines(_plain(text), width)
        return lines


def _plain(text: str) -> str:
    return text.replace("``", "").replace("`", "")
