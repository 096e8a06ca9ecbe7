"""``--size`` and ``--channels`` of the commands that make images of their own."""

from __future__ import annotations

import pytest

from lightning_saliency.cli.main import main


@pytest.mark.parametrize(
    ("command", "given", "said"),
    [
        (command, given, said)
        for command in (["layers", "resnet18"], ["cost", "--model", "resnet18"], ["export", "--model", "resnet18"])
        for given, said in (
            (["--size", "-3"], "Got size=-3. Allowed are whole numbers from 1"),
            (["--size", "32", "0"], "Got size=0. Allowed are whole numbers from 1"),
            (["--size", "32", "32", "32"], "Got --size with 3 numbers. Allowed are one or two"),
            (["--channels", "-1"], "Got channels=-1. Allowed are whole numbers from 1"),
        )
    ],
)
def test_shapes_that_no_image_has_are_refused(tmp_path, monkeypatch, capsys, command, given, said):
    monkeypatch.chdir(tmp_path)
    output = ["--output", "network.pt2"] if command[0] == "export" else []
    assert main([*command, *output, *given]) == 2
    assert said in capsys.readouterr().err
    assert not list(tmp_path.iterdir())
