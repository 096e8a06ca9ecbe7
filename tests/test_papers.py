"""The experiments of the papers: each file says what to fill in and which command runs it, is understood, and plans."""

from __future__ import annotations

import re
from typing import Any

import pytest
import yaml

from lightning_saliency.cli import cost, explain, main
from lightning_saliency.studies.augmentation.config import AugmentationConfig
from lightning_saliency.studies.comparison.config import ComparisonConfig
from lightning_saliency.studies.layer_masking.config import LayerMaskingConfig
from lightning_saliency.studies.roar_kar.config import RoarKarConfig
from lightning_saliency.studies.sanity_check.config import SanityCheckConfig
from tests.paths import SHARED_DATA
from tests.studies.layer_masking.test_merged import made_up
from tools import papers

CONFIGS: dict[str, Any] = {
    "compare-augmentation": AugmentationConfig,
    "evaluate": ComparisonConfig,
    "layer-masking": LayerMaskingConfig,
    "roar-kar": RoarKarConfig,
    "sanity-check": SanityCheckConfig,
}
STUDIES = [name for name in papers.names() if papers.command_of(name) in papers.STUDIES]
FITS = [name for name in papers.names() if papers.command_of(name) == "fit"]
OTHERS = [name for name in papers.names() if name not in (*STUDIES, *FITS)]


@pytest.mark.parametrize("name", papers.names())
def test_the_first_lines_say_what_to_fill_in_and_what_to_run(name: str) -> None:
    text = (papers.FOLDER / f"{name}.yaml").read_text(encoding="utf-8")
    assert text.startswith("# Fill in: ")
    assert papers.command_of(name) in {*CONFIGS, "explain", "cost", "fit"}
    assert (papers.FOLDER / "small" / f"{name}.yaml").is_file()
    places = re.findall(r"(\w+): \[?(?:data|weights|images|/path/to)\b", text)
    assert [key for key in places if key not in text.splitlines()[0]] == []


@pytest.mark.parametrize("name", [name for name in papers.names() if name not in FITS])
def test_a_small_form_has_an_output_folder_of_its_own(name: str) -> None:
    """It is emptied before each run, so that no result at full size may lie there."""
    small = yaml.safe_load((papers.FOLDER / "small" / f"{name}.yaml").read_text(encoding="utf-8"))
    assert small["output"] == f"runs/papers/small/{name}"


@pytest.mark.parametrize("name", STUDIES)
def test_a_study_is_understood_at_full_size_and_small(name: str) -> None:
    config = CONFIGS[papers.command_of(name)]
    full = yaml.safe_load((papers.FOLDER / f"{name}.yaml").read_text(encoding="utf-8"))
    config(**full)
    small = yaml.safe_load((papers.FOLDER / "small" / f"{name}.yaml").read_text(encoding="utf-8"))
    assert set(small) <= {*full, "limit", "pictures", "statistics", "cost"}


def parsed(name: str, small: bool) -> dict[str, Any]:
    """The options of a command that is no study."""
    parser = {"explain": explain, "cost": cost}[papers.command_of(name)]._parser()
    return parser.parse_args(papers.arguments(name, small, plan=False)[1:]).as_dict()


@pytest.mark.parametrize("name", OTHERS)
def test_other_commands_are_understood_and_overlaid(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(papers.ROOT)
    full, small = parsed(name, False), parsed(name, True)
    assert full["model"] in ("resnet50", "vgg16", "vgg19")
    assert small["model"] in ("resnet18", "squeezenet1_0")
    if papers.command_of(name) == "explain":
        assert full["images"] != small["images"]
        assert len(small["images"]) == 1


def printed_config(name: str, small: bool, capsys: Any) -> dict[str, Any]:
    """What a training command makes of the files: each option is known, with its type."""
    with pytest.raises(SystemExit) as ended:
        main([*papers.arguments(name, small, plan=False), "--print_config"])
    shown = capsys.readouterr()
    assert ended.value.code == 0, shown.err
    options: dict[str, Any] = yaml.safe_load(shown.out)
    return options


def test_there_is_a_training_run_among_them() -> None:
    assert FITS == ["group_cam_fig8"]


@pytest.mark.parametrize("name", FITS)
def test_a_training_run_is_understood_and_overlaid(name: str, monkeypatch: pytest.MonkeyPatch, capsys: Any) -> None:
    monkeypatch.chdir(papers.ROOT)
    full, small = (printed_config(name, form, capsys) for form in (False, True))
    for options, folder in ((full, "runs/papers"), (small, "runs/papers/small")):
        augmentation, monitor = options["trainer"]["callbacks"]
        assert augmentation["class_path"] == "lightning_saliency.callbacks.GroupCAMAugmentation"
        assert list(monitor["init_args"]["views"]) == ["group_cam"]
        assert monitor["init_args"]["log_at_start"]
        # The start and four epochs, as in the figure, of which the last frame is the run's last epoch.
        assert options["trainer"]["max_epochs"] == 4 * monitor["init_args"]["every_n_epochs"]
        logger = options["trainer"]["logger"]["init_args"]
        assert (logger["save_dir"], logger["name"]) == (folder, name)
    assert full["model"]["init_args"]["checkpoint"]
    assert small["model"]["init_args"]["checkpoint"] is None
    assert small["data"]["class_path"] == "lightning_saliency.data.DigitScenes"


def test_the_table_of_the_page_names_all_of_them() -> None:
    page = (papers.ROOT / "docs" / "papers.md").read_text(encoding="utf-8")
    rows = [line.split("|") for line in page.splitlines() if line.startswith("| `")]
    named = {name: row[3] for row in rows for name in re.findall(r"`(\w+)`", row[1])}
    assert sorted(named) == papers.names()
    assert [name for name in named if f"`{papers.command_of(name)}`" not in named[name]] == []


def test_the_merging_command_of_the_three_data_sets_has_their_folders(
    tmp_path: Any, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    """The command in the comments and on the page runs on studies that lie where their files put them."""
    text = (papers.FOLDER / "smoe_table4_imagenet.yaml").read_text(encoding="utf-8")
    shown = re.search(r"lightning-saliency (merge-layer-masking .*?--output \S+)", text, re.DOTALL)
    assert shown is not None
    command = " ".join(shown[1].replace("\\\n", " ").replace("#", " ").split())
    page = (papers.ROOT / "docs" / "papers.md").read_text(encoding="utf-8")
    assert command in " ".join(page.replace("\\\n", " ").split())
    monkeypatch.chdir(tmp_path)
    arguments: list[str] = []
    for part in command.split():
        ends = re.fullmatch(r"(.*)\{(.*)\}", part)  # as a shell does
        arguments += [part] if ends is None else [f"{ends[1]}{end}" for end in ends[2].split(",")]
    folders = [yaml.safe_load((papers.FOLDER / f"smoe_table4_{name}.yaml").read_text())["output"]
               for name in ("imagenet", "places", "cowc")]  # fmt: skip
    assert arguments[1:4] == folders
    here = [tmp_path / folder.rpartition("/")[2] for folder in folders]
    for seed, folder in enumerate(here):
        made_up(seed).save(folder)
    assert main([arguments[0], *map(str, here), *arguments[4:]]) == 0
    assert "ImageNet ↑ | Places ↑ | COWC ↑" in capsys.readouterr().out


@pytest.mark.slow
@pytest.mark.grid(every=8)
@pytest.mark.parametrize("name", STUDIES)
def test_the_small_form_plans(name: str, monkeypatch: pytest.MonkeyPatch, capsys: Any) -> None:
    if papers.needs_shared(name) and not SHARED_DATA.is_dir():
        pytest.skip("real images and weights are not here")
    monkeypatch.chdir(papers.ROOT)
    assert main(papers.arguments(name, small=True, plan=True)) == 0, capsys.readouterr().err


@pytest.fixture
def ran(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What would have been run; `sise_table7` fails, and nothing is removed."""
    names: list[str] = []

    def run(given: list[str], kept: bool) -> tuple[int, str]:
        names.append(given[2].removeprefix("configs/papers/").removesuffix(".yaml"))
        return int(names[-1] == "sise_table7"), "what it printed\n" if kept else ""

    monkeypatch.setattr(papers, "run", run)
    monkeypatch.setattr(papers.shutil, "rmtree", lambda *_, **__: None)
    return names


@pytest.mark.parametrize("workers", ["1", "2"])
def test_the_last_line_counts_what_was_not_run(
    workers: str, ran: list[str], tmp_path: Any, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    monkeypatch.setattr(papers, "SHARED", tmp_path / "none")
    assert papers.main(["--small", "--workers", workers, "smoe_table6", "smoe_fig3", "sise_fig4"]) == 0
    assert ran == ["smoe_table6"]
    shown = capsys.readouterr().out.splitlines()
    assert ("what it printed" in shown) == (workers == "2")
    reason = f"{tmp_path / 'none'} does not exist: smoe_fig3, sise_fig4"
    assert shown[-1].startswith(f"1 of 3 done, 0 failed, 2 NOT RUN ({reason}), ")


def test_a_failure_stops_no_other_and_is_the_exit_code(ran: list[str], capsys: Any) -> None:
    assert papers.main(["--small", "sise_table7", "smoe_table6", "group_cam_table3"]) == 1
    assert ran == ["sise_table7", "smoe_table6", "group_cam_table3"]
    shown = capsys.readouterr().out
    assert "sise_table7: FAILED in " in shown
    assert shown.splitlines()[-1].startswith("2 of 3 done, 1 failed (sise_table7), ")
    assert "NOT RUN" not in shown


def test_a_plan_names_what_has_none(ran: list[str], capsys: Any) -> None:
    assert papers.main(["--plan", "smoe_table5", "smoe_fig3"]) == 0
    assert ran == ["smoe_table5"]
    assert (
        capsys.readouterr()
        .out.splitlines()[-1]
        .startswith("1 of 2 done, 0 failed, 1 NOT RUN (explain has no plan: smoe_fig3), ")
    )


def test_what_an_earlier_run_left_is_removed_only_of_small_forms(
    tmp_path: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(papers, "ROOT", tmp_path)
    monkeypatch.setattr(papers, "run", lambda given, kept: (0, ""))
    full, small = (tmp_path / "runs" / "papers" / name / "cells.json" for name in ("smoe_table5", "small/smoe_table5"))
    for file in (full, small):
        file.parent.mkdir(parents=True)
        file.touch()
    for options in ([], ["--small", "--plan"]):
        papers.main([*options, "smoe_table5"])
        assert full.exists()
        assert small.exists()
    papers.main(["--small", "smoe_table5"])
    assert full.exists()
    assert not small.exists()


def test_a_file_without_a_command_is_refused(tmp_path: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "mine.yaml").write_text("# Fill in: nothing.\nmodel: resnet50\n")
    monkeypatch.setattr(papers, "FOLDER", tmp_path)
    with pytest.raises(ValueError, match="names no command"):
        papers.command_of("mine")
