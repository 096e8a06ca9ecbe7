"""The messages that docs/troubles.md explains are the package's own."""

from __future__ import annotations

import ast
import functools
import re

import pytest

from tests.pages.blocks import code_blocks, text_of
from tests.paths import ROOT


@functools.cache
def texts_of_the_package() -> tuple[str, ...]:
    """Each text of the source, with … for what is filled in, in single spaces."""
    texts = []
    for file in sorted((ROOT / "lightning_saliency").rglob("*.py")):
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            if isinstance(node, ast.JoinedStr):
                parts = [str(part.value) if isinstance(part, ast.Constant) else "…" for part in node.values]
                texts.append("".join(parts))
            elif isinstance(node, ast.Constant) and isinstance(node.value, str):
                texts.append(node.value)
    return tuple(" ".join(text.split()) for text in texts)


def pieces_of(message: str) -> list[str]:
    return [piece for piece in (part.strip() for part in message.split("…")) if piece.strip(" .:;,()")]


QUOTED = [" ".join(block.split()) for block in code_blocks(text_of("docs/troubles.md"), "text")]


@pytest.mark.parametrize("message", QUOTED)
def test_a_quoted_message_is_in_the_source(message):
    """The pieces between … stand in one text, in this order."""
    pieces = pieces_of(message)
    assert max(map(len, pieces)) > 15
    pattern = re.compile(".*".join(map(re.escape, pieces)))
    assert any(pattern.search(text) for text in texts_of_the_package())


def test_there_are_messages():
    assert len(QUOTED) > 20
