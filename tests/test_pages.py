"""The documentation's code runs as it stands, and what it quotes is there."""

from __future__ import annotations

import ast
import functools
import re
from pathlib import Path

import pytest

from tests.paths import ROOT

DOCS = ROOT / "docs"


def code_blocks(page: Path, language: str = "python") -> list[str]:
    """The fenced blocks of a page in one language."""
    return re.findall(rf"^```{language}\n(.*?)^```$", page.read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL)


def run_blocks(blocks: list[str], **names: object) -> dict[str, object]:
    """Run blocks one after the other as one file."""
    namespace: dict[str, object] = {"__name__": "page", **names}
    for block in blocks:
        exec(compile(block, "page", "exec"), namespace)
    return namespace


def messages_of_the_package() -> list[str]:
    """Each text of the source, with … for what is filled in; whitespace and repeated … are one."""
    texts = []
    for file in sorted((ROOT / "lightning_saliency").rglob("*.py")):
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            if isinstance(node, ast.JoinedStr):
                parts = [str(part.value) if isinstance(part, ast.Constant) else "…" for part in node.values]
                texts.append("".join(parts))
            elif isinstance(node, ast.Constant) and isinstance(node.value, str):
                texts.append(node.value)
    return [" ".join(text.split()) for text in texts]


def quoted_messages() -> list[str]:
    return [" ".join(block.split()) for block in code_blocks(DOCS / "troubles.md", "text")]


@functools.cache
def _known() -> list[str]:
    return messages_of_the_package()


@pytest.mark.parametrize("message", quoted_messages())
def test_messages_that_are_explained_are_the_packages_own(message):
    """The pieces between … stand in one text of the source, in this order."""
    pieces = [re.escape(piece.strip()) for piece in message.split("…") if piece.strip(" .:;,()")]
    assert pieces
    pattern = re.compile(r".*".join(pieces))
    assert any(pattern.search(text) for text in _known()), message
