"""``compare-augmentation``, as a person types it; and the configurations that come with the project."""

import numpy as np
import pytest
import yaml

from lightning_saliency.cli import main
from lightning_saliency.studies.augmentation import grid
from lightning_saliency.studies.augmentation.grid import AugmentationGrid
from lightning_saliency.studies.augmentation.run import AugmentationConfig
from tests.paths import CONFIGS

COMPARISONS = sorted(CONFIGS.glob("compare_augmentation_*.yaml"))


@pytest.fixture
def config(tmp_path, monkeypatch):
    """A configuration of a tiny network and tiny images; a step of Grad-CAM costs twice a plain one's."""
    generator = np.random.default_rng(0)
    arrays = {}
    for split, count in (("train", 16), ("val", 4), ("test", 8)):
        arrays[f"x_{split}"] = generator.integers(0, 256, (count, 16, 16, 3), dtype=np.uint8)
        arrays[f"y_{split}"] = np.arange(count) % 2
    np.savez(tmp_path / "images.npz", **arrays)
    content = {
        "models": {"Net": {"model": "small_cnn", "model_options": {"width": 4}}},
        "data": {
            "class_path": "lightning_saliency.data.modules.array_images.ArrayImagesDataModule",
            "init_args": {"path": str(tmp_path / "images.npz"), "batch_size": 8},
        },
        "arms": {
            "plain": None,
            "grad_cam": {"class_path": "saliency", "init_args": {"explainer": "grad_cam"}},
            "random mask": {
                "class_path": "saliency",
                "init_args": {"explainer": "grad_cam", "control": "random_blobs"},
            },
        },
        "controls": ["random mask"],
        "training": {"steps": 2, "validations": 1, "accelerator": "cpu"},
        "seeds": [0, 1],
        "output": str(tmp_path / "out"),
    }
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(content))

    def measured(model, data, arms, training, steps, rounds, seed, threads):
        seconds = {name: [0.5 if name == "plain" else 1.0] * rounds for name in arms}
        return {"seconds": seconds, "evaluation": 0.25, "epoch": 2}

    def estimated(model, data, arm, training, seed, threads):
        return {
            "seconds": 0.5,
            "passes": 8.0,
            **({"batch": 8, "epoch": 2, "evaluated": 12} if arm.kind == "plain" else {}),
        }

    monkeypatch.setattr(grid, "measure_steps", measured)
    monkeypatch.setattr(grid, "estimating", lambda arm: estimated)
    monkeypatch.setenv("COLUMNS", "200")
    return ["--config", str(tmp_path / "config.yaml")]


def test_the_plan_trains_nothing(config, capsys, tmp_path):
    assert main(["compare-augmentation", *config, "--plan"]) == 0
    printed = capsys.readouterr().out
    for told in ("plain: 2 steps (steps and time)", "grad_cam: about 1 steps (time)", "2.00", "× plain"):
        assert told in " ".join(printed.split())
    # Three arms to be timed; two networks before fine-tuning, tested; ten runs: plain once for both budgets, the others
    # for each, from two seeds.
    assert [line.split()[1:3] for line in printed.splitlines() if line.split()[:1] == ["all"]] == [["15", "0"]]
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["costs"]


def test_the_comparison_is_printed_and_written(config, capsys, tmp_path):
    assert main(["compare-augmentation", *config]) == 0
    printed = capsys.readouterr().out
    assert "Net, equal wall time, grad_cam:" in printed
    assert "against random mask" in printed
    assert (tmp_path / "out" / "table.md").is_file()
    assert str(tmp_path / "out" / "report.html") in printed
    assert main(["compare-augmentation", *config, "--plan"]) == 0
    printed = capsys.readouterr().out
    assert [line.split()[1:3] for line in printed.splitlines() if line.split()[:1] == ["all"]] == [["15", "15"]]


def test_mistakes_are_told_without_a_traceback(config, capsys, tmp_path):
    for extra, told in (
        (["--reference", "nothing"], "nothing"),
        (["--training.steps", "0"], "steps=0"),
        (["--data.init_args.path", str(tmp_path / "elsewhere.npz")], "elsewhere"),
        (["--arms.grad_cam.init_args.colour", "1"], "colour"),
        (["--models.Net.without", "[stage9]"], "stage9"),
    ):
        assert main(["compare-augmentation", *config, *extra]) == 2
        assert told in capsys.readouterr().err


@pytest.mark.parametrize("path", COMPARISONS, ids=lambda path: path.stem)
def test_the_configurations_can_be_read(path):
    config = AugmentationConfig(**yaml.safe_load(path.read_text()))
    assert len(config.seeds) >= 3
    arms = config.parsed_arms()
    kinds = {arm.kind for arm in arms.values()}
    assert {"plain", "random_erasing", "cutmix", "mixup", "group_cam", "saliency"} <= kinds
    guides = {arm.init_args.get("explainer", arm.kind) for arm in arms.values() if arm.guided}
    assert {"group_cam", "grad_cam", "fast_cam"} <= guides
    assert "group_cam gradients" in arms
    assert {arm.init_args.get("control") for arm in arms.values() if arm.is_control} >= {"random_blobs", "other_image"}
    assert set(config.controls) - {"group_cam half", "grad_cam half"} == {"group_cam", "grad_cam"}
    for name, controls in config.controls.items():
        # The same guide, and nothing but the control is another.
        own = {**arms[name].init_args}
        kinds = ["random_blobs"] if name.endswith(" half") else ["random_blobs", "other_image"]
        assert [{**arms[control].init_args} for control in controls] == [{**own, "control": kind} for kind in kinds]
        assert {arms[control].kind for control in controls} == {arms[name].kind}


def test_there_are_configurations():
    assert len(COMPARISONS) == 3


@pytest.mark.shared
@pytest.mark.parametrize("name", ["cifar", "coco"])
def test_networks_and_data_of_the_configurations_are_there(name, shared_data, tmp_path):
    path = next(path for path in COMPARISONS if path.stem.endswith(name))
    content = yaml.safe_load(path.read_text().replace("../shared/data", str(shared_data)))
    planned = AugmentationGrid(AugmentationConfig(**{**content, "output": str(tmp_path)}))
    assert list(planned.models) == list(content["models"])
