"""``lightning-saliency roar-kar`` and ``layer-masking``: a YAML file, overrides, a plan, tables, a page."""

from __future__ import annotations

import pytest
import yaml

from lightning_saliency.cli import main, roar_kar
from lightning_saliency.explainers import CONTROL_MAPS, EXPLAINERS
from lightning_saliency.studies.layer_masking.run import LayerMaskingConfig
from lightning_saliency.studies.roar_kar.run import RoarKarConfig
from tests.paths import CONFIGS

CONTENT = {
    "data": {
        "class_path": "lightning_saliency.data.DigitScenes",
        "init_args": {"train_size": 20, "val_size": 10, "test_size": 20, "size": 16, "batch_size": 10},
    },
    "model": {"model": "small_cnn", "num_classes": 10, "model_options": {"width": 4}},
    "epochs": 1,
    "seeds": [0],
    "trainer": {"accelerator": "cpu"},
}


@pytest.fixture
def write(tmp_path, monkeypatch):
    monkeypatch.setenv("COLUMNS", "160")

    def written(**options):
        path = tmp_path / "config.yaml"
        path.write_text(yaml.safe_dump({**CONTENT, "output": str(tmp_path / "out"), **options}))
        return str(path)

    return written


def test_roar_kar_plans_runs_and_goes_on(write, tmp_path, capsys):
    config = write(
        explainers={"smoe": None, "ramp": {"class_path": "smoe", "init_args": {"weights": "ramp"}}}, fractions=[0.5]
    )
    assert main(["roar-kar", "--config", config, "--plan"]) == 0
    assert "nothing has been run" in capsys.readouterr().out
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["costs"]
    arguments = ["roar-kar", "--config", config, "--modes", "[kar]", "--examples", "1"]
    assert main(arguments) == 0
    shown = " ".join(capsys.readouterr().out.split())
    assert "ramp" in shown
    assert "report.html" in shown
    page = (tmp_path / "out" / "report.html").read_text()
    assert page.count("data:image/png;base64,") == 2
    assert "smoe: smoe" not in page
    assert "ramp: smoe (weights=ramp)" in page
    assert main(arguments) == 0
    assert (tmp_path / "out" / "report.html").read_text() == page
    capsys.readouterr()
    assert main([*arguments, "--data.init_args.train_size=30"]) == 2
    assert "other training" in capsys.readouterr().err


def test_layer_masking_plans_and_runs(write, tmp_path, capsys):
    config = write(statistics=["std"], layers=["pool3:input"], fine_tuning_epochs=1)
    assert main(["layer-masking", "--config", config, "--plan"]) == 0
    assert "masks at scale 1" in " ".join(capsys.readouterr().out.split())
    assert main(["layer-masking", "--config", config]) == 0
    assert (tmp_path / "out" / "report.html").exists()
    assert "Difference" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--explainers", '{"grandcam": {}}'], "the explainer 'grandcam'"),
        (["--explainers", "smoe,grandcam"], "the explainer 'grandcam'"),
        (["--fractions", "[10]"], "the fraction 10"),
        (["--data.class_path", "lightning_saliency.data.NoScenes"], "cannot be imported"),
        (["--model.init_args.model", "small_cnn"], "Allowed are model"),
        (["--explainers.smoe.init_args.statistics", "std"], "Allowed are statistic"),
        (["--trainer.precision"], "without a value"),
        (["--model", '{"model": "resnet1"}'], "num_classes"),
    ],
)
def test_what_cannot_be_carried_out_is_said(write, capsys, arguments, message):
    assert main(["roar-kar", "--config", write(explainers={"smoe": {}}), *arguments]) == 2
    assert message in capsys.readouterr().err


def test_an_unknown_option_ends_with_status_2(write):
    with pytest.raises(SystemExit) as error:
        roar_kar.run(["--config", write(), "--fraction", "0.5"])
    assert error.value.code == 2


def test_the_configuration_of_layer_masking_is_understood():
    config = LayerMaskingConfig(**yaml.safe_load((CONFIGS / "layer_masking_digit_scenes.yaml").read_text()))
    assert len(config.statistics) == 9


@pytest.mark.parametrize(
    "name", ["roar_kar_digit_scenes", "roar_kar_cifar10", "roar_kar_cifar10_subset", "papers/smoe_table5"]
)
def test_the_configurations_of_the_project_are_understood(name):
    content = yaml.safe_load((CONFIGS / f"{name}.yaml").read_text())
    config = RoarKarConfig(**content)
    assert {"random"} < set(config.explainers)
    assert {spec.name for spec in config.explainers.values()} <= {*EXPLAINERS, *CONTROL_MAPS}
    assert config.modes == ("kar", "roar")
