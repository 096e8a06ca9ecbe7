"""A comparison with a first training, an honest network and test images in groups."""

import json
from dataclasses import replace

import pytest
import torch
import yaml

from lightning_saliency.data import PlantedShortcut
from lightning_saliency.reports.tables import Estimate
from lightning_saliency.studies.augmentation import cells, grid
from lightning_saliency.studies.augmentation._beginning import begin
from lightning_saliency.studies.augmentation.arms.arm import parse_arms
from lightning_saliency.studies.augmentation.arms.batch_augmentation import BatchAugmentation
from lightning_saliency.studies.augmentation.config import AugmentationConfig
from lightning_saliency.studies.augmentation.grid import AugmentationGrid
from lightning_saliency.studies.augmentation.groups import closed_gaps, number_of
from lightning_saliency.studies.augmentation.report.results import AugmentationResult
from lightning_saliency.studies.augmentation.run import plan_augmentation, run_augmentation
from lightning_saliency.studies.engine.run import CellError
from lightning_saliency.studies.specs import build
from tests.paths import CONFIGS
from tests.studies.augmentation.small import arm


@pytest.fixture
def marked(config):
    """Three steps of a first training and two more, on images that carry a mark."""
    data = {
        "class_path": "lightning_saliency.data.PlantedShortcut",
        "init_args": {"data": config.data, "shortcut": arm("lightning_saliency.data.CornerMark", size=0.25)},
    }
    return replace(
        config,
        data=data,
        arms={"plain": None, "bound": "hide_mark"},
        controls=[],
        budgets=["steps"],
        first={"steps": 3, "learning_rate": 0.01},
        honest={"share": 0.0},
        primary={"arm": "bound", "number": "misled"},
        seeds=[0],
    )


def test_every_arm_goes_on_from_the_first_training(marked, monkeypatch, tmp_path):
    begun, loaded = [], []
    own_begin, own_load = grid.begin, cells.load_beginning

    def counted(**arguments):
        begun.append((arguments["seed"], arguments["data"]["init_args"]["share"]))
        return own_begin(**arguments)

    def noted(module, weights):
        own_load(module, weights)
        loaded.append(weights)

    monkeypatch.setattr(grid, "begin", counted)
    monkeypatch.setattr(cells, "load_beginning", noted)
    comparison = run_augmentation(marked, progress=False)
    # One first training for all arms, and one for the honest network.
    assert begun == [(0, 0.95), (0, 0.0)]
    before, honest = (str(tmp_path / "out" / "first" / f"{name}.pt") for name in sorted(_stems(tmp_path)))
    assert loaded == [before, before, honest]
    runs = comparison.runs["Net"]["steps"]
    assert list(runs) == ["before fine-tuning", "plain", "bound", "honest"]
    assert runs["before fine-tuning"][0]["steps"] == 3
    for run in (each[0] for each in runs.values()):
        assert list(run["groups"]) == ["unmarked", "misled", "marked"]
        assert run["groups"]["unmarked"]["count"] == [5, 5, 5, 5]
        assert sum(run["groups"]["unmarked"]["correct"]) / 20 == pytest.approx(run["accuracy"])
    text = str(comparison)
    assert text.startswith("- Named beforehand: bound, Net, equal steps: misled ")
    for shown in (
        "| before fine-tuning |",
        "| honest |",
        "worst group ↑",
        "validation",
        "misled, differences in points",
    ):
        assert shown in text
    written = {path.name: path for path in comparison.save()}
    stored = json.loads(written["results.json"].read_text())
    assert stored["runs"]["Net"]["steps"]["bound"]["0"]["groups"] == runs["bound"][0]["groups"]
    assert (stored["primary"], stored["number"]) == ("bound", "misled")
    # Nothing is trained again.
    run_augmentation(marked, progress=False)
    assert len(begun) == 2
    # Nor for a further arm, whose start is kept.
    run_augmentation(replace(marked, arms={**marked.arms, "mixup": None}), progress=False)
    assert len(begun) == 2


def _stems(tmp_path):
    return [path.stem for path in (tmp_path / "out" / "first").glob("*.pt")]


def test_the_first_training_is_one_of_its_own(marked, tmp_path):
    planned = AugmentationGrid(marked)
    cell = planned.beginnings()[0].cell
    assert cell.arguments["first"].learning_rate == 0.01
    assert cell.arguments["first_model"]["init_args"]["learning_rate"] == 0.01
    assert cell.arguments["model"]["init_args"]["learning_rate"] == 0.001
    (tmp_path / "out" / "first").mkdir(parents=True)
    result = begin(**cell.arguments)
    module, *_ = cells.fit_arm(
        cell.arguments["first_model"],
        cell.arguments["data"],
        parse_arms({"plain": None})["plain"],
        cell.arguments["first"],
        3,
        0,
        0,
        0,
        order=cells.FIRST_ORDER,
    )
    weights = torch.load(planned.weights_file("Net", 0), weights_only=True)
    assert all(torch.equal(weights[name], value) for name, value in module.state_dict().items())
    assert result["steps"] == 3


def test_lost_weights_are_told(marked, tmp_path):
    run_augmentation(replace(marked, honest=None), progress=False)
    [weights] = (tmp_path / "out" / "first").glob("*.pt")
    weights.unlink()
    with pytest.raises(CellError, match=r"there is no file. Delete .*before__seed0.json"):
        run_augmentation(replace(marked, honest=None, arms={**marked.arms, "mixup": None}), progress=False)


def test_without_a_first_training_the_network_before_is_the_one_that_all_arms_have(marked, monkeypatch):
    """As it begins; or as it is after the plain epochs before ``start_epoch``, and not a step later."""
    planned = AugmentationGrid(replace(marked, first=None))
    [beginning] = planned.beginnings()
    assert "weights" not in beginning.cell.arguments
    assert begin(**beginning.cell.arguments)["steps"] == 0
    alike = replace(marked, first=None, training=replace(marked.training, steps=8, start_epoch=1))
    planned = AugmentationGrid(alike)
    stopped = begin(**planned.beginnings()[0].cell.arguments)
    assert stopped["steps"] == 5
    states = {}
    for stop in (5, None):
        module, clock, *_ = cells.fit_arm(
            planned.models["Net"], planned.data[0], planned.arms["plain"], alike.training, 8, 0, 1, 0, stop=stop
        )
        states[len(clock.seconds)] = module.state_dict()
    assert sorted(states) == [5, 8]


def test_seeds_reach_the_data_inside(marked):
    config = replace(marked, seeded_data=True, seeds=[0, 3])
    spec = config.data_spec(3)["init_args"]
    assert (spec["seed"], spec["data"]["init_args"]["seed"]) == (3, 3)
    assert config.honest_data_spec(3)["init_args"]["share"] == 0.0
    assert config.honest_data_spec(3)["init_args"]["data"] == spec["data"]
    assert marked.data_spec(3) == marked.data_spec(0)


def test_the_plan_counts_the_first_training(marked):
    parts = {row.part: row for row in plan_augmentation(replace(marked, seeds=[0, 1])).rows}
    assert list(parts)[1:3] == ["before fine-tuning: 3 steps", "honest: 2 steps"]
    # Twice of each seed: honest, too.
    assert (parts["before fine-tuning: 3 steps"].cells, parts["honest: 2 steps"].cells) == (4, 2)


def test_a_perfect_map_hides_the_mark_and_nothing_else(marked, monkeypatch):
    seen = []
    own = cells.FineTunedClassifier.training_step

    def step(self, batch, batch_idx):
        seen.append({name: value.clone() for name, value in batch.items()})
        return own(self, batch, batch_idx)

    monkeypatch.setattr(cells.FineTunedClassifier, "training_step", step)
    planned = AugmentationGrid(marked)
    for name in ("plain", "bound"):
        cells.fit_arm(planned.models["Net"], planned.data[0], planned.arms[name], marked.training, 1, 0, 0, 0)
    plain, bound = seen
    mask = plain["mark"][:, None].expand_as(plain["image"])
    assert mask.any()
    assert (bound["image"][mask] == 0).all()
    assert torch.equal(bound["image"][~mask], plain["image"][~mask])
    # Data that know no mark cannot have it hidden.
    inner = marked.data["init_args"]["data"]
    with pytest.raises(ValueError, match="Allowed are dictionaries with images and mark"):
        cells.fit_arm(planned.models["Net"], inner, planned.arms["bound"], marked.training, 1, 0, 0, 0)


@pytest.mark.parametrize("name", ["image", "pixel_values"])
def test_what_is_outside_the_boxes_is_hidden(name):
    callback = parse_arms({"boxes": "hide_outside_boxes"})["boxes"].callback(0, 0)
    batch = {name: torch.ones(1, 3, 4, 6), "boxes": torch.tensor([[[1.0, 0.0, 3.0, 2.0]]])}

    class Trainer:
        current_epoch = 0

    callback.on_train_batch_start(Trainer(), None, batch, 0)
    expected = torch.zeros(4, 6)
    expected[0:2, 1:3] = 1
    assert sorted(batch) == sorted([name, "boxes"])
    assert torch.equal(batch[name], expected.expand(1, 3, 4, 6))


# Numbers


def run(unmarked, misled, marked):
    groups = {
        name: {"correct": correct, "count": [10, 10]}
        for name, correct in (("unmarked", unmarked), ("misled", misled), ("marked", marked))
    }
    return {
        "accuracy": sum(unmarked) / 20,
        "groups": groups,
        "val_best": 0.9,
        "val_last": 0.9,
        "steps": 2,
        "augmented": None,
        "kept_share": None,
    }


def test_the_worst_group_is_a_class_with_one_of_the_marks():
    one = run([1, 0], [8, 4], [10, 3])
    assert number_of(one, "accuracy") == pytest.approx(5.0)
    assert number_of(one, "misled") == pytest.approx(60.0)
    assert number_of(one, "worst_group") == pytest.approx(30.0)
    assert number_of({"accuracy": 0.5, "groups": None}, "worst_group") is None


def test_the_share_of_the_gap_by_hand():
    shares = closed_gaps({0: 40.0, 1: 5.0, 2: 9.0}, {0: 10.0, 1: 10.0, 2: 9.0}, {0: 50.0, 1: 60.0, 2: 8.0})
    assert shares == {0: 75.0, 1: -10.0}


def test_the_named_arm_comes_first_and_differences_are_of_the_named_number():
    runs = {
        "before fine-tuning": {0: run([1, 1], [0, 0], [10, 10]), 1: run([1, 1], [0, 0], [10, 10])},
        "plain": {0: run([2, 2], [1, 0], [10, 10]), 1: run([2, 2], [0, 1], [10, 10])},
        "guide": {0: run([9, 9], [8, 7], [9, 9]), 1: run([8, 9], [7, 7], [9, 9])},
        "honest": {0: run([10, 9], [10, 10], [10, 10]), 1: run([9, 9], [10, 8], [10, 9])},
    }
    once = Estimate(1.0, 1.0, 1.0, 3)
    comparison = AugmentationResult(
        {"Net": {"steps": runs}},
        {"Net": {"plain": once, "guide": once}},
        {"plain": "other", "guide": "guided"},
        "plain",
        {"guide": []},
        number="misled",
        primary="guide",
        classes=2,
    )
    keys = comparison.estimates["Net"]["steps"]["guide"]
    assert keys["difference"].value == pytest.approx((75 + 70) / 2 - 5)
    assert keys["closed misled"].value == pytest.approx((75.0 + 100 * 70 / 90) / 2)
    assert keys["closed accuracy"].value == pytest.approx((100 * 80 / 85 + 100 * 75 / 80) / 2)
    [line] = comparison.verdicts()  # the arm that was named, and it once
    assert line.startswith("Named beforehand: guide, Net, equal steps: misled 72.5 [")
    assert "closes 76.4 [" in line
    assert str(comparison).startswith(f"- {line}")
    assert "closed misled" not in comparison.estimates["Net"]["steps"]["honest"]
    assert len(comparison.figure("Net").axes) == 1
    # The honest network shows what can be reached: it is not among those compared.
    assert "| guide | **87.50** [" in str(comparison)
    assert "| honest | 92.50 [" in str(comparison)
    # Plain training at chance is what a shortcut does; an honest network at chance is worth a word.
    assert comparison.notices() == []
    runs["honest"] = {seed: run([5, 5], [10, 10], [10, 10]) for seed in (0, 1)}
    assert comparison.notices()[0].startswith("Net, honest, is at chance: 50.0 % right")


# Cures that need no map


def test_labels_are_smoothed_by_hand():
    images, labels = torch.rand(2, 3, 4, 4), torch.tensor([0, 2])
    same, weights = BatchAugmentation("label_smoothing", {"share": 0.3}, 3, seed=0)(images, labels)
    assert torch.equal(same, images)
    assert torch.allclose(weights, torch.tensor([[0.8, 0.1, 0.1], [0.1, 0.1, 0.8]]))


def test_strong_augmentation_sees_colours_and_gives_normalised_images():
    images = torch.rand(8, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    mean, std = (0.5, 0.4, 0.3), (0.2, 0.25, 0.3)
    m, s = (torch.tensor(values)[:, None, None] for values in (mean, std))
    normalised, plain = (
        BatchAugmentation("strong", {}, 3, seed=4, normalization=how)(given, torch.zeros(8))[0]
        for how, given in (((mean, std), (images - m) / s), (None, images))
    )
    assert torch.allclose(normalised * s + m, plain, atol=1e-5)
    changed = (plain - images).flatten(1).abs().amax(1) > 2 / 255
    # One of its fourteen changes is none.
    assert changed.sum() >= 4
    never, _ = BatchAugmentation("strong", {"probability": 0.0}, 3, seed=0)(images, torch.zeros(8))
    assert torch.equal(never, images)


@pytest.mark.parametrize(
    ("change", "match"),
    [
        ({"primary": {"arm": "nobody"}}, "Got primary.arm='nobody'"),
        ({"primary": {"arm": "plain", "number": "median"}}, "Got primary.number='median'"),
        ({"arms": {"plain": None, "honest": "mixup"}}, "Got arms named honest"),
    ],
)
def test_wrong_options(marked, change, match):
    with pytest.raises(ValueError, match=match):
        AugmentationConfig(**{**vars(marked), **change})


# The configurations


@pytest.mark.parametrize(
    "path", sorted([*CONFIGS.glob("shortcut_*.yaml"), CONFIGS / "few_images_digits.yaml"]), ids=lambda path: path.stem
)
def test_a_task_names_its_arm_and_the_controls_of_it(path):
    config = AugmentationConfig(**yaml.safe_load(path.read_text()))
    arms = config.parsed_arms()
    assert arms[config.primary.arm].guided
    controls = config.controls_of(config.primary.arm)
    assert {f"{config.primary.arm}, {name}" for name in ("random blobs", "untrained")} <= set(controls)
    assert all(arms[name].is_control for name in controls)
    assert config.output == f"runs/{path.stem}"
    data = build(config.honest_data_spec(0))
    assert isinstance(data, PlantedShortcut) == (config.honest is not None)
    if config.honest is not None:
        assert (data.share, build(config.data_spec(0)).share) == (0.0, 0.95)
