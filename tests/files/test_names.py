"""Names of files made of names that hold anything: none leaves its folder, is too long, or is another's."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from lightning_saliency.files import safe_name, safe_names

ODD = [
    "../../etc/passwd",
    "a/b",
    "a\\b",
    "..",
    ".",
    "",
    "nul",
    "COM1.png",
    "a\0b",
    "x" * 300,
    "é" * 200,
    "猫",
    "trail. .",
]


@pytest.mark.parametrize("name", ODD)
def test_a_file_of_any_name_lies_in_its_folder(tmp_path: Path, name: str) -> None:
    for made in (safe_name(name), safe_names([name])[name]):
        file = tmp_path / f"{made}-s0.json"
        file.write_text("there")
        assert file.resolve().parent == tmp_path
        assert len(os.fsencode(file.name)) < 100
        assert not made.startswith(".")
        assert made.upper().partition(".")[0] not in ("NUL", "COM1")


@settings(max_examples=200, deadline=None)
@given(st.lists(st.text(max_size=90), unique=True, max_size=8))
@example(["a/b", "a_b", "a b", "A_B", "a_b-c14cddc0"])
@example(["lovi", "LOVI", "Lovi"])
@example(["ß", "ss", "SS", "é", "e\u0301"])
def test_no_two_names_make_one_also_where_capitals_do_not_count(names: list[str]) -> None:
    for made in (safe_names(names), {name: safe_name(name) for name in names}):
        assert list(made) == names
        assert len({name.casefold() for name in made.values()}) == len(names)
        for name in made.values():
            assert name
            assert name == os.path.basename(name)
            assert "\0" not in name
    assert safe_names(names) == dict(reversed(safe_names(names[::-1]).items()))


def test_plain_names_stay_as_they_are() -> None:
    assert safe_names(["größe"])["größe"] == "größe"
    for name in ("grad_cam", "layer1.0", "saliency", "kar-10", "猫-2"):
        assert safe_name(name) == safe_names([name])[name] == name
    assert safe_names(["ResNet-20"])["ResNet-20"] == "ResNet-20"
    assert safe_names(["torchcam:GradCAM"])["torchcam:GradCAM"] == "torchcam_GradCAM"
