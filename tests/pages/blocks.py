"""The code in a page of the documentation."""

from __future__ import annotations

import re
from typing import Any

from tests.paths import ROOT

DOCS = ROOT / "docs"


def text_of(page: str) -> str:
    """What stands in ``README.md`` or ``docs/….md``."""
    return (ROOT / page).read_text(encoding="utf-8")


def section(text: str, heading: str) -> str:
    """What stands under a heading of the second level."""
    assert f"\n## {heading}\n" in text
    return text.partition(f"\n## {heading}\n")[2].partition("\n## ")[0]


def code_blocks(text: str, language: str = "python") -> list[str]:
    """The fenced blocks of a text in one language."""
    return re.findall(rf"^```{language}\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)


def run_blocks(blocks: list[str], **names: Any) -> dict[str, Any]:
    """Run blocks one after the other, as one file; returns what they define."""
    namespace = {"__name__": "page", **names}
    for block in blocks:
        exec(compile(block, "page", "exec"), namespace)
    return namespace
