"""Configuration files: those that cannot be used are named, and none of the user's is overwritten."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import pytest
import pytorch_lightning as pl
from jsonargparse import ArgumentParser

from lightning_saliency.cli import main
from lightning_saliency.cli.train import SaveConfigBeside


@pytest.mark.parametrize("command", ["evaluate", "fit", "write-maps", "roar-kar"])
@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"data: [1,", "cannot be read: ParserError"),
        (b"\xff\xfe\x00", "cannot be read: UnicodeDecodeError"),
        (b"- 1\n- 2\n", "Got a list"),
        (b"", "Got nothing"),
        (None, "Is a directory"),
    ],
)
def test_a_configuration_that_cannot_be_used_is_named(tmp_path, capsys, command, content, reason) -> None:
    path = tmp_path / "mine.yaml"
    if content is None:
        path.mkdir()
    else:
        path.write_bytes(content)
    for arguments in (["--config", str(path)], [f"--config={path}"], ["--seed", "1", "--data", str(path)]):
        assert main([command, *arguments]) == 2
        said = capsys.readouterr().err
        assert str(path) in said
        assert reason in said


@pytest.mark.parametrize("there", [(), ("config.yaml",), ("config.yaml", "config_1.yaml", "other.yaml")])
def test_a_run_saves_its_configuration_beside_those_that_are_there(tmp_path: Path, there: tuple[str, ...]) -> None:
    for name in there:
        (tmp_path / name).write_text("precious: 1")
    parser = ArgumentParser()
    parser.add_argument("--seed", type=int, default=3)
    trainer = pl.Trainer(default_root_dir=tmp_path, logger=False, enable_checkpointing=False, accelerator="cpu")
    callback = SaveConfigBeside(parser, parser.get_defaults())
    callback.setup(trainer, SimpleNamespace(), "fit")  # type: ignore[arg-type]
    assert {name: (tmp_path / name).read_text() for name in there} == dict.fromkeys(there, "precious: 1")
    (new,) = {path.name for path in tmp_path.iterdir()} - set(there)
    assert new == {0: "config.yaml", 1: "config_1.yaml", 3: "config_2.yaml"}[len(there)]
    assert "seed: 3" in (tmp_path / new).read_text()
