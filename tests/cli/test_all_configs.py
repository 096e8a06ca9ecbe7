"""Every file under configs/: it runs in a plain clone, or says in its first line which files to give, and fails so."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import yaml

from lightning_saliency.cli import main
from lightning_saliency.cli.parsing.configs import check_needs
from lightning_saliency.cli.parsing.errors import UsageError
from tests.paths import CONFIGS, ROOT

NEEDS = "# Needs "
#: Those of the papers' experiments are tested in ``tests/test_papers.py``.
FILES = {
    path.relative_to(CONFIGS).as_posix(): path
    for path in sorted(CONFIGS.rglob("*.yaml"))
    if path.relative_to(CONFIGS).parts[0] != "papers"
}
NEEDY = [name for name, path in FILES.items() if path.read_text().startswith(NEEDS)]
WHOLE = [name for name in FILES if name not in NEEDY]

#: What makes a run of a command short.
SMALL = {
    "fit": [
        *("--trainer.max_epochs", "1", "--trainer.limit_train_batches", "1", "--trainer.limit_val_batches", "1"),
        *("--trainer.num_sanity_val_steps", "0"),
    ],
    "evaluate": ["--plan", "--limit", "2"],
    "sanity-check": ["--plan", "--limit", "2", "--max_steps", "2"],
    "compare-augmentation": ["--plan", "--cost", '{"steps": 1, "rounds": 1}'],
    "roar-kar": ["--plan"],
    "layer-masking": ["--plan"],
    "write-maps": [],
}


def command_of(path: Path) -> str:
    """The command that a configuration names for itself."""
    place = re.escape(path.relative_to(ROOT).as_posix())
    (command,) = set(re.findall(rf"lightning-saliency ([\w-]+) --config {place}(?!\S)", path.read_text()))
    return command


def small_data(content: dict, prefix: str = "--data") -> list[str]:
    """Arguments for data of a few images, wherever the digit scenes are."""
    data = content["data"]
    for key in prefix.removeprefix("--data").split(".")[1:]:
        data = data[key]
    arguments = data["init_args"]
    if "data" in arguments:
        return small_data(content, f"{prefix}.init_args.data")
    sizes = {"train_size": "64", "val_size": "20", "test_size": "20", "size": "32"}
    return [part for name, size in sizes.items() for part in (f"{prefix}.init_args.{name}", size)]


def options_of(path: Path) -> list[str]:
    return re.findall(r"--([\w-]+(?:\.[\w-]+)+)", path.read_text().partition("\n")[0])


@pytest.mark.parametrize("name", NEEDY)
def test_a_configuration_that_needs_files_says_which_before_anything_is_written(name, tmp_path, monkeypatch, capsys):
    path = FILES[name]
    monkeypatch.chdir(tmp_path)
    sentence = path.read_text().partition("\n")[0].removeprefix("# ")
    assert main([command_of(path), "--config", str(path)]) == 2
    assert f": {sentence} Got --{options_of(path)[0]} " in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("name", NEEDY)
def test_the_sentence_names_all_files_that_the_configuration_reads(name, tmp_path):
    """With these given, nothing in it points to a path that a clone does not have."""
    path, options = FILES[name], options_of(FILES[name])
    content = yaml.safe_load(path.read_text())
    for option in options:
        place, keys = content, option.split(".")
        for key in keys[:-1]:
            place = place[key]
        assert place[keys[-1]], f"{option} is not in {name}"
        place[keys[-1]] = ""
    del content["output" if "output" in content else "trainer"]
    assert not re.search(r"\.\./|/path/|fill in", yaml.safe_dump(content))
    assert not re.search(r"root: [^'\s]|_dir: [^'\s]|path: [\w./]*/", yaml.safe_dump(content))
    check_needs(["--config", str(path), *(part for option in options for part in (f"--{option}", str(tmp_path)))])
    with pytest.raises(UsageError, match="where there is nothing"):
        check_needs(["--config", str(path), f"--{options[-1]}={tmp_path}/none"])


def test_files_may_be_given_in_other_ways(tmp_path):
    path = ["--config", str(CONFIGS / "image_folder.yaml")]
    more = tmp_path / "more.yaml"
    more.write_text(yaml.safe_dump({"data": {"init_args": {"root": str(tmp_path)}}}))
    for given in (
        ["--data.init_args.root", str(tmp_path)],
        [f"--data.root={tmp_path}"],
        ["--data.init_args.root", "s3://bucket/images"],
        ["--data", "DigitScenes"],
        ["--config", str(more)],
        ["--help"],
    ):
        check_needs([*path, *given])
    several = ["--config", str(CONFIGS / "evaluate_imagenet.yaml")]
    with pytest.raises(UsageError, match=re.escape(f"--data.init_args.annotations {tmp_path}/b, where")):
        check_needs([*several, "--data.init_args.annotations", f'["{tmp_path}", "{tmp_path}/b"]'])


@pytest.mark.slow
@pytest.mark.grid(every=3)
@pytest.mark.parametrize("name", WHOLE)
def test_a_configuration_runs_in_a_plain_clone(name, tmp_path, monkeypatch, capsys):
    pytest.importorskip("sklearn")
    pytest.importorskip("skimage")
    path = FILES[name]
    command, content = command_of(path), yaml.safe_load(path.read_text())
    monkeypatch.chdir(ROOT)
    where = "--trainer.logger.init_args.save_dir" if command == "fit" else "--output"
    arguments = [*SMALL[command], *small_data(content), where, str(tmp_path)]
    assert main([command, "--config", str(path), *arguments]) == 0, capsys.readouterr().err
    shown = capsys.readouterr().out
    assert "nothing has been run" in shown or list(tmp_path.rglob("*.ckpt")) or list(tmp_path.glob("*.npy"))
