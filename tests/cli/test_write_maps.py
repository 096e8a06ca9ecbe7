"""``lightning-saliency write-maps``: stores of whole data sets, taken up again, and never of something else."""

from __future__ import annotations

import pytest
import torch
import yaml

from lightning_saliency.cli import main
from lightning_saliency.data import DigitScenes, SaliencyStore, whole_images
from lightning_saliency.data.masked.store import rank_levels
from lightning_saliency.explainers import GradCAM
from lightning_saliency.networks import build_network
from tests.paths import CONFIGS

pytest.importorskip("sklearn")

SCENES = {"train_size": 12, "val_size": 4, "test_size": 6, "size": 32, "batch_size": 4}


@pytest.fixture
def network(tmp_path):
    torch.manual_seed(3)
    built = build_network("small_cnn", 10).eval()
    torch.save(built.state_dict(), tmp_path / "weights.pth")
    return built


@pytest.fixture
def config(tmp_path, network):
    content = {
        "model": {"model": "small_cnn", "num_classes": 10, "checkpoint": str(tmp_path / "weights.pth")},
        "data": {"class_path": "lightning_saliency.data.DigitScenes", "init_args": SCENES},
        "explainer": "grad_cam",
        "output": str(tmp_path / "maps"),
        "stages": ["train", "test"],
        "size": None,
        "trainer": {"accelerator": "cpu", "enable_progress_bar": False},
    }
    path = tmp_path / "config.yaml"
    path.write_text(yaml.safe_dump(content))
    return ["write-maps", "--config", str(path)]


def test_the_stores_hold_the_maps_of_all_images(tmp_path, network, config, capsys):
    assert main(config) == 0
    shown = capsys.readouterr().out
    assert f"{tmp_path / 'maps' / 'train.npy'}: 12 maps of 32×32 pixels" in shown
    assert f"{tmp_path / 'maps' / 'test.npy'}: 6 maps of 32×32 pixels" in shown
    data = DigitScenes(**SCENES)
    data.prepare_data()
    data.setup("test")
    whole = whole_images(data.test_dataloader().dataset, 32)
    images = torch.stack([whole[index]["image"] for index in range(4)])
    expected = rank_levels(GradCAM(network)(images)).int()
    assert ((SaliencyStore.open(tmp_path / "maps" / "test")[:4].int() - expected).abs() <= 4).all()


def test_a_run_that_was_cut_short_goes_on(tmp_path, config, capsys, monkeypatch):
    assert main([*config, "--trainer.limit-predict-batches", "1"]) == 0
    assert "incomplete: 8 of its 12 maps are missing" in capsys.readouterr().out
    calls = []
    forward = GradCAM.__call__
    monkeypatch.setattr(GradCAM, "__call__", lambda self, *given: calls.append(1) or forward(self, *given))
    assert main(config) == 0
    assert len(calls) == 2 + 1  # one batch of 4 of the 12, and one of the 6 in batches of 4 and 2, were there
    assert "12 maps" in capsys.readouterr().out
    assert main(config) == 0
    assert len(calls) == 3
    assert not SaliencyStore.open(tmp_path / "maps" / "train").missing().numel()


def test_maps_of_something_else_are_refused(config, capsys):
    assert main([*config, "--stages", "test"]) == 0
    for change in (
        ["--explainer", "smoe"],
        ["--explainer.class_path", "grad_cam", "--explainer.init_args.layer", "stage2"],
        ["--data.init_args.seed=1"],
        ["--model.checkpoint", "null"],
    ):
        assert main([*config, "--stages", "test", *change]) == 2
        assert "was begun for other" in capsys.readouterr().err


def test_random_weights_depend_on_the_seed_alone(tmp_path, config):
    given = [*config, "--model.checkpoint", "null", "--stages", "test"]
    for number, seed in enumerate((5, 5, 6)):
        torch.rand(number + 1)
        assert main([*given, "--seed", str(seed), "--output", str(tmp_path / str(number))]) == 0
    weights = [SaliencyStore.open(tmp_path / str(number) / "test").fingerprints["weights"] for number in range(3)]
    assert weights[0] == weights[1] != weights[2]


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (["--model", "null"], "Got no --model"),
        (["--explainer", "magic"], "'magic'"),
        (["--explainer", '{"class_path": "rise", "init_args": {"mask": 5}}'], "Allowed are masks"),
        (["--stages", "predict"], "Allowed are train, val, test"),
        (["--data.class_path", "lightning_saliency.data.NoScenes"], "cannot be imported"),
        (["--size", "0"], "Got size=0"),
        (["--trainer.speed", "5"], "speed"),
    ],
)
def test_what_cannot_be_carried_out_is_said(config, capsys, given, message):
    assert main([*config, *given]) == 2
    assert message in capsys.readouterr().err


def test_the_shipped_configuration(tmp_path, capsys):
    small = ["--data.init_args.train_size", "6", "--data.init_args.test_size", "4", "--output", str(tmp_path)]
    assert main(["write-maps", "--config", str(CONFIGS / "write_maps_digit_scenes.yaml"), *small]) == 0
    assert "6 maps of 32×32" in capsys.readouterr().out
