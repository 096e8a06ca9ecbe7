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
from tools import papers

CONFIGS: dict[str, Any] = {
    "compare-augmentation": AugmentationConfig,
    "evaluate": ComparisonConfig,
    "layer-masking": LayerMaskingConfig,
    "roar-kar": RoarKarConfig,
    "sanity-check": SanityCheckConfig,
}
STUDIES = [name for name in papers.names() if papers.command_of(name) in papers.STUDIES]
OTHERS = [name for name in papers.names() if name not in STUDIES]


@pytest.mark.parametrize("name", papers.names())
def test_the_first_lines_say_what_to_fill_in_and_what_to_run(name: str) -> None:
    text = (papers.FOLDER / f"{name}.yaml").read_text(encoding="utf-8")
    assert text.startswith("# Fill in: ")
    assert papers.command_of(name) in {*CONFIGS, "explain", "cost"}
    assert (papers.FOLDER / "small" / f"{name}.yaml").is_file()
    places = re.findall(r"(\w+): \[?(?:data|weights|images|/path/to)\b", text)
    assert [key for key in places if key not in text.splitlines()[0]] == []


@pytest.mark.parametrize("name", STUDIES)
def test_a_study_is_understood_at_full_size_and_small(name: str) -> None:
    config = CONFIGS[papers.command_of(name)]
    full = yaml.safe_load((papers.FOLDER / f"{name}.yaml").read_text(encoding="utf-8"))
    config(**full)
    small = yaml.safe_load((papers.FOLDER / "small" / f"{name}.yaml").read_text(encoding="utf-8"))
    assert set(small) <= {*full, "limit", "pictures", "statistics", "cost"}
    assert small["output"].startswith("runs/papers/")


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


@pytest.mark.slow
@pytest.mark.grid(every=8)
@pytest.mark.parametrize("name", STUDIES)
def test_the_small_form_plans(name: str, monkeypatch: pytest.MonkeyPatch, capsys: Any) -> None:
    if papers.needs_shared(name) and not SHARED_DATA.is_dir():
        pytest.skip("real images and weights are not here")
    monkeypatch.chdir(papers.ROOT)
    assert main(papers.arguments(name, small=True, plan=True)) == 0, capsys.readouterr().err


def test_a_file_without_a_command_is_refused(tmp_path: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "mine.yaml").write_text("# Fill in: nothing.\nmodel: resnet50\n")
    monkeypatch.setattr(papers, "FOLDER", tmp_path)
    with pytest.raises(ValueError, match="names no command"):
        papers.command_of("mine")
