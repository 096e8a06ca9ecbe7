"""mkdocs: show doctests as code, under `Example:` and without any heading, as griffe does under `Examples:` alone."""

import re
import textwrap
from typing import Any

import griffe


class Examples(griffe.Extension):
    """Gives the doctests of each docstring the heading that griffe knows."""

    def on_instance(self, *, obj: griffe.Object, **_: Any) -> None:
        """Called with each object once it has been read."""
        if obj.docstring:
            text = re.sub(r"(?m)^( *)Example:$", r"\1Examples:", obj.docstring.value)
            bare = re.search(r"(?m)^>>> ", text)
            if bare:
                start = bare.start()
                text = f"{text[:start]}Examples:\n{textwrap.indent(text[start:], '    ')}"
            obj.docstring.value = text
