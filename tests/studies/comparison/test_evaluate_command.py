"""``lightning-saliency evaluate``: a YAML file, overrides, a table."""

from __future__ import annotations

import json
import re
from datetime import date

import pytest
import torch
import yaml
from PIL import Image
from torch import nn

from lightning_saliency.cli import main
from lightning_saliency.cli.evaluate import run
from lightning_saliency.cli.parsing.errors import UsageError
from lightning_saliency.explainers import CONTROL_MAPS, EXPLAINERS, RISE
from lightning_saliency.studies import ComparisonConfig
from lightning_saliency.studies.comparison.results import ComparisonResult
from lightning_saliency.studies.engine.cell import computing_seconds
from lightning_saliency.studies.samples import OwnImages
from tests.paths import CONFIGS


@pytest.fixture
def config(tmp_path):
    lines = ["file,class_name,xmin,ymin,xmax,ymax"]
    for number in range(4):
        pixels = torch.randint(0, 255, (20, 24, 3), dtype=torch.uint8, generator=torch.Generator().manual_seed(number))
        Image.fromarray(pixels.numpy()).save(tmp_path / f"{number}.png")
        lines.append(f"{number}.png,{'cat' if number % 2 else 'dog'},4,4,12,16")
    (tmp_path / "boxes.csv").write_text("\n".join(lines))
    (tmp_path / "classes.json").write_text('{"cat": [0, 1], "dog": 2}')
    torch.manual_seed(0)
    content = {
        "models": {"tiny": {"model": "small_cnn", "num_classes": 3, "checkpoint": str(tmp_path / "weights.pth")}},
        "data": {
            "class_path": "lightning_saliency.data.AnnotatedImages",
            "init_args": {
                "annotations": str(tmp_path / "boxes.csv"),
                "classes": str(tmp_path / "classes.json"),
                "resize": 18,
                "crop": 16,
            },
        },
        "explainers": {"random": None, "short": {"class_path": "rise", "init_args": {"masks": 4, "grid": 2}}},
        "metrics": {"steps": 4, "names": ["ebpg", "pointing_game", "overall"]},
        "output": str(tmp_path / "out"),
        "resamples": 30,
    }
    from lightning_saliency.networks import build_network

    torch.save(build_network("small_cnn", 3).state_dict(), tmp_path / "weights.pth")
    path = tmp_path / "config.yaml"
    path.write_text(yaml.safe_dump(content))
    return path


def test_runs_prints_and_goes_on(config, capsys):
    arguments = ["--config", str(config), "--limit", "3"]
    assert run(arguments) == 0
    shown = capsys.readouterr().out
    assert "EBPG" in shown
    assert "short" in shown
    assert "3 images, chosen from 4 with seed 0" in " ".join(shown.split())
    assert "short (rise: grid=2, masks=4)" in " ".join(shown.split())
    # What was not measured is not explained.
    assert "Insertion and deletion: 4 steps" in " ".join(shown.split())
    assert "Drop and increase" not in shown
    table = (config.parent / "out" / "table.md").read_text()
    assert run(arguments) == 0
    assert (config.parent / "out" / "table.md").read_text() == table
    with pytest.raises(UsageError, match="other data"):
        run(["--config", str(config), "--limit", "2"])


def test_the_page_tells_how_it_was_made_and_what_cannot_be_relied_on(config, capsys):
    arguments = ["evaluate", "--config", str(config), "--limit", "3", "--explainers", "random"]
    assert main(arguments) == 0
    shown = capsys.readouterr().out
    page = (config.parent / "out" / "report.html").read_text()
    for told in (shown, page):
        assert "Too few images for intervals: 3." in told
    assert f"lightning-saliency evaluate --config {config} --limit 3" in page
    assert f"<dt>date</dt><dd>{date.today().isoformat()}</dd>" in page
    duration = re.search(r"<dt>duration</dt><dd>([^<]*)</dd>", page)[1]
    assert re.fullmatch(r"\d+ s of computing, all parts together", duration)
    assert computing_seconds(config.parent / "out") > 0
    # Those that were there count as well.
    assert main(arguments) == 0
    assert (config.parent / "out" / "report.html").read_text() == page


@pytest.mark.parametrize("right", [True, False])
def test_a_network_at_chance_is_told(config, right):
    rows = [{"sample": number, "right": right, "classes": 3, "scores": {}, "label": "a"} for number in range(30)]
    samples = OwnImages(torch.rand(30, 3, 8, 8))
    result = ComparisonResult({"tiny": {"random": rows}, "old": {"random": [{"sample": 0}]}}, [], "", samples)
    told = result.notices()
    assert [line.partition(":")[0] for line in told] == ([] if right else ["tiny is at chance"])


def test_explainers_and_their_pairs_can_be_left_out(config, capsys):
    arguments = ["--config", str(config), "--limit", "1", "--pairs", '[["short", "random"]]']
    assert run([*arguments, "--without", '["short"]']) == 0
    assert "short" not in capsys.readouterr().out
    assert "| random |" in (config.parent / "out" / "table.md").read_text()
    assert run(arguments) == 0
    assert "| short − random |" in (config.parent / "out" / "table.md").read_text()
    with pytest.raises(UsageError, match="leave out long"):
        run([*arguments, "--without", '["long"]'])
    with pytest.raises(UsageError, match=r"leave out Short\. Did you mean 'short'\?"):
        run([*arguments, "--without", '["Short"]'])


def test_an_override_leaves_the_other_options(config, capsys):
    arguments = ["--config", str(config), "--limit", "1", "--explainers.short.init_args.masks", "5"]
    assert run([*arguments, "--explainers.random.class_path=random", "--explainers.random.init_args.seed=3"]) == 0
    shown = " ".join(capsys.readouterr().out.split())
    assert "short (rise: grid=2, masks=5)" in shown
    assert "random (random: seed=3)" in shown
    with pytest.raises(UsageError, match="without a value"):
        run([*arguments, "--explainers.short.init_args.grid"])


def test_nothing_is_computed_that_could_not_be_kept(config, monkeypatch):
    plain = yaml.safe_load(config.read_text())
    del plain["output"]
    config.write_text(yaml.safe_dump(plain))
    monkeypatch.setattr("lightning_saliency.cli.evaluate.run_comparison", lambda *_: pytest.fail("computed"))
    with pytest.raises(UsageError, match="Got output=None"):
        run(["--config", str(config)])


def test_a_folder_that_is_a_file_is_said(config):
    (config.parent / "afile").write_text("mine")
    with pytest.raises(UsageError, match="afile"):
        run(["--config", str(config), "--output", str(config.parent / "afile")])


def test_names_and_paths_are_shown_as_they_are(config, capsys):
    content = yaml.safe_load(config.read_text())
    content["models"] = {"[b]tiny": content["models"]["tiny"]}
    content["explainers"] = {"random [red]": {"class_path": "random"}}
    config.write_text(yaml.safe_dump(content))
    folder = config.parent / "runs [v2]"
    assert run(["--config", str(config), "--output", str(folder)]) == 0
    shown = capsys.readouterr().out
    assert "runs [v2]" in "".join(shown.splitlines())
    assert "[b]tiny" in shown
    assert "random [red]" in shown


def test_what_cannot_be_carried_out_is_said(config):
    with pytest.raises(UsageError, match=r"nowhere\.csv as annotations, where there is no file"):
        run(["--config", str(config), "--data.init_args.annotations", "nowhere.csv"])
    with pytest.raises(UsageError, match=r"Allowed are smoe, .*random, center_gaussian"):
        run(["--config", str(config), "--explainers", '{"grandcam": {}}'])
    with pytest.raises(SystemExit) as error:
        run(["--config", str(config), "--limits", "2"])
    assert error.value.code == 2


@pytest.mark.parametrize("name", ["evaluate_coco.yaml", "evaluate_imagenet.yaml"])
def test_the_configurations_of_the_project_are_understood(name):
    config = ComparisonConfig(**yaml.safe_load((CONFIGS / name).read_text()))
    assert {spec.name for spec in config.explainers.values()} <= set(EXPLAINERS) | set(CONTROL_MAPS)
    assert config.limit is None
    assert set(config.models) == {"SqueezeNet", "MobileNetV2"}
    assert config.metrics.precision == "native"


def test_options_are_looked_at_before_files(config, capsys):
    """A network that is not there hides no mistake in an option."""
    path = config.parent / "needy.yaml"
    path.write_text("# Needs weights: give --models.tiny.checkpoint.\n" + config.read_text())
    (config.parent / "weights.pth").unlink()
    arguments = ["evaluate", "--config", str(path), "--plan"]
    assert main(arguments) == 2
    assert "Needs weights" in capsys.readouterr().err
    assert main([*arguments, "--without", '["shorts"]']) == 2
    assert "Did you mean 'short'?" in capsys.readouterr().err
    for more in (["--limit", "few"], ["--limits", "2"]):
        with pytest.raises(SystemExit):
            main([*arguments, *more])
        said = capsys.readouterr().err
        assert "limit" in said
        assert "Needs weights" not in said
    assert not (config.parent / "out").exists()


def test_a_configuration_of_another_command_is_told(capsys):
    path = CONFIGS / "sanity_check_digits.yaml"
    with pytest.raises(SystemExit):
        main(["evaluate", "--config", str(path), "--plan"])
    said = " ".join(capsys.readouterr().err.split())
    assert f"is not accepted. The configuration {path} is for lightning-saliency sanity-check." in said
    with pytest.raises(SystemExit):
        main(["sanity-check", "--config", str(path), "--plans"])
    assert "The configuration" not in capsys.readouterr().err


def test_without_any_network_the_configuration_is_asked_for(capsys):
    assert main(["evaluate", "--plan"]) == 2
    said = capsys.readouterr().err
    assert "--config FILE" in said
    assert "--models.NAME.model" in said
    with pytest.raises(ValueError, match="chunk=0"):
        ComparisonConfig(models={"a": {"model": "small_cnn"}}, data=torch.rand(1, 3, 8, 8), chunk=0)


class Own(RISE):
    """An explainer of somebody's package, with an argument that has no default."""

    def __init__(self, network: nn.Module, masks: int, grid: int = 2) -> None:
        super().__init__(network, masks=masks, grid=grid)


def test_classes_named_by_their_path_get_the_arguments_given_and_no_others(config, capsys):
    rows = {
        "own": {"class_path": f"{__name__}.Own", "init_args": {"masks": 3}},
        "ours": {"class_path": "lightning_saliency.explainers.RISE", "init_args": {"masks": 2, "grid": 3}},
    }
    arguments = ["--config", str(config), "--limit", "2"]
    assert run([*arguments, "--explainers", json.dumps(rows), "--metrics.names", "[ebpg]"]) == 0
    shown = " ".join(capsys.readouterr().out.split())
    assert f"own ({__name__}.Own: masks=3); ours (lightning_saliency.explainers.RISE: grid=3, masks=2)" in shown
    rows["own"]["init_args"] = {"grid": 3}
    with pytest.raises(UsageError, match=r"'own' cannot be used.*missing a required argument: 'masks'"):
        run([*arguments, "--explainers", json.dumps(rows)])
    content = yaml.safe_load(config.read_text())
    del content["data"]["init_args"]["annotations"]
    config.write_text(yaml.safe_dump(content))
    with pytest.raises(UsageError, match="Got AnnotatedImages without annotations"):
        run(arguments)


def test_the_page_says_what_each_measure_asks_and_its_footnote_once(config):
    assert main(["evaluate", "--config", str(config), "--limit", "2"]) == 0
    page = (config.parent / "out" / "report.html").read_text()
    assert page.count("2 images, chosen from 4 with seed 0, 2 pairs of image and class. Scores in %.") == 1
    for line in ("EBPG</b>: how much", "Pointing, Pointing 15 px</b>: how often", "Over-all</b>: insertion less"):
        assert page.count(f"<li><b>{line}") == 1
    assert "<b>mIoU</b>" not in page
    assert re.search(r"<dt>accuracy</dt><dd>tiny \d+\.0 % of 2 images</dd>", page)
