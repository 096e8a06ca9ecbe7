"""mkdocs: show the doctests under `Example:` as code, as those under `Examples:` are."""

import re
from typing import Any

import griffe


class Examples(griffe.Extension):
    """Renames the heading in each docstring, which griffe knows in the plural alone."""

    def on_instance(self, *, obj: griffe.Object, **_: Any) -> None:
        """Called with each object once it has been read."""
        if obj.docstring:
            obj.docstring.value = re.sub(r"(?m)^( *)Example:$", r"\1Examples:", obj.docstring.value)
