"""The comparison of augmentations: fair arms, the price of a step, paired differences, resuming."""

import json
import math
import random
from dataclasses import replace

import numpy as np
import pytest
import torch
from scipy import stats
from torch.utils.data import DataLoader, TensorDataset

from lightning_saliency.callbacks.augmentation.presets import ECONOMY
from lightning_saliency.reports.tables import Estimate
from lightning_saliency.studies.augmentation import cells, grid
from lightning_saliency.studies.augmentation.arms.arm import Arm, parse_arms
from lightning_saliency.studies.augmentation.arms.batch_augmentation import BatchAugmentation
from lightning_saliency.studies.augmentation.costs import StepCost, affordable_steps
from lightning_saliency.studies.augmentation.grid import AugmentationGrid
from lightning_saliency.studies.augmentation.report.results import AugmentationResult
from lightning_saliency.studies.augmentation.run import (
    FineTuningConfig,
    plan_augmentation,
    run_augmentation,
)
from lightning_saliency.studies.engine.files import StaleResultsError
from lightning_saliency.studies.engine.run import CellError, run_cells
from lightning_saliency.studies.estimates import mean_interval, paired_difference, student_cdf, student_quantile
from lightning_saliency.studies.isolation import OwnRandomness, SeededBatches
from tests.studies.augmentation.small import ARMS, arm, given


def model_of(config, **changes):
    """The configuration with some of its model's arguments changed."""
    return replace(config, models={"Net": {**config.models["Net"], **changes}})


def costs_of(planned):
    """The measured costs of a comparison's steps."""
    return planned.measured_costs(run_cells(list(planned.cost_cells.values()), planned.costs_folder, progress=False))


def runs_of(config):
    """The trainings of a comparison, the costs of steps having been measured."""
    planned = AugmentationGrid(config)
    return planned.runs(costs_of(planned))


def fixed_costs(monkeypatch, ratios, calls=None):
    """Steps that cost what is said, in place of the clock's reading."""

    def measured(model, data, arms, training, steps, rounds, seed, threads):
        if calls is not None:
            calls.append(list(arms))
        seconds = {name: [0.5 * ratios.get(name, 1.0)] * rounds for name in arms}
        return {"seconds": seconds, "evaluation": 0.25, "epoch": 5}

    monkeypatch.setattr(grid, "measure_steps", measured)


# Statistics


@pytest.mark.parametrize("freedom", [1, 2, 3, 4, 5, 9, 10, 30])
def test_students_t_is_scipys(freedom):
    for value in (0.0, 0.3, 1.0, 2.5, 12.0):
        assert student_cdf(value, freedom) == pytest.approx(stats.t.cdf(value, freedom), abs=1e-12)
    for probability in (0.6, 0.95, 0.975, 0.995):
        assert student_quantile(probability, freedom) == pytest.approx(stats.t.ppf(probability, freedom), rel=1e-9)


def test_the_paired_interval_is_scipys():
    generator = np.random.default_rng(3)
    own, plain = generator.normal(80, 2, 6), generator.normal(79, 2, 6)
    found = paired_difference(dict(enumerate(own)), dict(enumerate(plain)), 0.9)
    expected = stats.ttest_rel(own, plain).confidence_interval(0.9)
    assert found.value == pytest.approx((own - plain).mean())
    assert (found.low, found.high) == pytest.approx((expected.low, expected.high))
    assert found.count == 6


def test_pairing_takes_the_seeds_that_both_have():
    found = paired_difference({0: 1.0, 1: 5.0, 7: 9.0}, {1: 4.0, 0: 3.0, 2: 8.0})
    assert (found.value, found.count) == (-0.5, 2)
    assert paired_difference({0: 1.0}, {1: 1.0}) is None


def test_a_single_seed_says_nothing_of_the_spread():
    assert mean_interval([2.0]) == Estimate(2.0, -math.inf, math.inf, 1)
    for values, confidence in (([], 0.95), ([1.0], 1.0)):
        with pytest.raises(ValueError, match="Allowed are"):
            mean_interval(values, confidence)


# Random numbers


def test_batches_come_the_same_whatever_else_draws():
    def seen(disturb):
        data = TensorDataset(torch.arange(12))
        batches = SeededBatches(DataLoader(data, batch_size=5, shuffle=True), seed=4)
        assert len(batches) == 3
        found = []
        for _ in range(2):
            for [batch] in batches:
                found.append(batch.tolist())
                if disturb:
                    torch.rand(3), np.random.rand(), random.random()  # noqa: NPY002
        return found

    assert seen(False) == seen(True)
    assert seen(False)[:3] != seen(False)[3:]


def test_own_randomness_leaves_the_shared_one_alone():
    torch.manual_seed(1), np.random.seed(1), random.seed(1)  # noqa: NPY002
    expected = torch.rand(()), np.random.rand(), random.random()  # noqa: NPY002
    torch.manual_seed(1), np.random.seed(1), random.seed(1)  # noqa: NPY002
    with OwnRandomness(9):
        inside = torch.rand(()), np.random.rand(), random.random()  # noqa: NPY002
    assert (torch.rand(()), np.random.rand(), random.random()) == expected != inside  # noqa: NPY002


# Arms


def test_erasing_is_drawn_for_each_image():
    images = torch.ones(6, 3, 16, 16)
    changed, labels = BatchAugmentation("random_erasing", {"probability": 1.0}, 4, seed=0)(images, torch.arange(6) % 4)
    holes = [tuple(torch.nonzero(image[0] == 0).flatten().tolist()) for image in changed]
    assert all(holes)
    assert len(set(holes)) > 1
    assert torch.equal(labels, torch.arange(6) % 4)


@pytest.mark.parametrize("kind", ["cutmix", "mixup"])
def test_mixing_is_as_probable_as_asked(kind):
    images, labels = torch.rand(4, 3, 8, 8), torch.tensor([0, 1, 2, 3])
    never = BatchAugmentation(kind, {"probability": 0.0}, 4, seed=0)
    assert never(images, labels)[0] is images
    mixed, targets = BatchAugmentation(kind, {}, 4, seed=0)(images, labels)
    assert not torch.equal(mixed, images)
    assert torch.allclose(targets.sum(1), torch.ones(4))
    half = BatchAugmentation(kind, {"probability": 0.5}, 4, seed=0)
    assert 20 < sum(half(images, labels)[0] is images for _ in range(60)) < 40


def test_what_is_guided_and_what_is_a_control():
    arms = parse_arms(ARMS)
    guided = [name for name, arm in arms.items() if arm.guided]
    assert guided == ["group_cam", "group_cam gradients", "group_cam soft", "grad_cam", "fast_cam"]
    assert [name for name, arm in arms.items() if arm.is_control] == ["random mask", "other image", "cheap"]


@pytest.mark.parametrize(
    ("arms", "match"),
    [
        ({"grid_mask": {}}, "kind 'grid_mask'"),
        ({"plain": arm("plain", probability=1.0)}, "plain arm"),
        ({"mixup": arm("mixup", beta=1.0)}, "beta"),
        ({"cutmix": arm("cutmix", probability=2.0)}, "probability"),
        ({"saliency": arm("saliency", explainer="magic")}, "magic"),
        ({"saliency": arm("saliency", colour=1)}, "colour"),
        ({"mine": "no_such_package.Mine"}, "no_such_package"),
    ],
)
def test_wrong_arms(arms, match):
    with pytest.raises(ValueError, match=match):
        parse_arms(arms)


@pytest.mark.parametrize("name", list(ARMS))
def test_every_arm_trains(config, name):
    arm = parse_arms(ARMS)[name]
    planned = AugmentationGrid(replace(config, arms={"plain": {}}, controls=[]))
    result = cells.train_arm(planned.models["Net"], planned.data[0], arm, config.training, 2, 0)
    assert 0 <= result["accuracy"] <= 1
    assert list(result["val"]) == ["2"]
    assert (result["kept_share"] is not None) == (arm.guided or arm.is_control)
    if arm.guided and "soft" not in name:
        assert 0.05 < result["kept_share"] < 0.95
        # An untrained network has no map of some images.
        assert result["augmented"] > 0.4
    assert json.loads(json.dumps(result)) == result


def losses(config, arm, monkeypatch):
    """The loss and the labels of each training step."""
    found = []
    own = cells.FineTunedClassifier.training_step

    def step(self, batch, batch_idx):
        loss = own(self, batch, batch_idx)
        found.append((loss.item(), batch[1].tolist()))
        return loss

    planned = AugmentationGrid(replace(config, arms={"plain": {}}, controls=[]))
    parsed = parse_arms({"arm": arm})["arm"]
    with monkeypatch.context() as patch:
        patch.setattr(cells.FineTunedClassifier, "training_step", step)
        cells.train_arm(planned.models["Net"], planned.data[0], parsed, config.training, 7, 3)
    return found


def test_all_arms_begin_alike_and_see_the_same_images(config, monkeypatch):
    plain = losses(config, "plain", monkeypatch)
    never = losses(config, arm("group_cam", groups=2, probability=0.0), monkeypatch)
    mixed = losses(config, arm("mixup", alpha=1.0), monkeypatch)
    assert plain == never
    assert [labels for _, labels in plain] == [labels for _, labels in mixed]
    assert plain[0][0] != mixed[0][0]
    # Also where the augmentation draws, but changes nothing.
    assert losses(config, arm("mixup", probability=0.0), monkeypatch) == plain


def test_the_arms_part_at_the_start_epoch(config, monkeypatch):
    config = replace(config, training=replace(config.training, start_epoch=1))
    plain = losses(config, "plain", monkeypatch)
    for each in ("mixup", arm("saliency", explainer="grad_cam")):
        other = losses(config, each, monkeypatch)
        # Five batches are an epoch.
        assert other[:5] == plain[:5]
        assert other[5][0] != plain[5][0]


def test_a_guide_that_fails_fails_its_arm(config, monkeypatch):
    from lightning_saliency.callbacks.augmentation.callback import SaliencyAugmentation

    def broken(self, *arguments, **options):
        raise RuntimeError("no map today")

    monkeypatch.setattr(SaliencyAugmentation, "_augment", broken)
    config = replace(config, arms={name: ARMS[name] for name in ("plain", "grad_cam")}, controls=[])
    with pytest.raises(CellError, match="no map today"):
        run_augmentation(config, progress=False)


def test_frozen_batch_norms_keep_their_statistics(config):
    for frozen in (True, False):
        planned = AugmentationGrid(model_of(config, freeze_batch_norm=frozen))
        plain = planned.arms["plain"]
        module, *_ = cells.fit_arm(planned.models["Net"], planned.data[0], plain, config.training, 2, 0, 0, 1)
        moved = [bool((buffer != 0).any()) for name, buffer in module.named_buffers() if name.endswith("running_mean")]
        assert moved == [not frozen] * 7


def test_modules_may_be_left_out(config):
    planned = AugmentationGrid(model_of(config, without=["stage4.2", "pool1"]))
    built = cells.initial_module(planned.models["Net"], 0).model
    assert [type(built.get_submodule(name)).__name__ for name in ("stage4.2", "pool1", "pool2")] == [
        *("Identity", "Identity", "MaxPool2d")
    ]
    with pytest.raises(ValueError, match=r"stage9"):
        AugmentationGrid(model_of(config, without=["stage9"]))


def test_a_network_may_have_an_optimiser_of_its_own(config):
    config = replace(config, training=replace(config.training, nesterov=True))
    for own, used in (({}, ("adamw", 1e-3, False)), ({"optimizer": "sgd", "learning_rate": 0.5}, ("sgd", 0.5, True))):
        options = cells.initial_module(AugmentationGrid(model_of(config, **own)).models["Net"], 0).hparams
        assert (options["optimizer"], options["learning_rate"], options["nesterov"]) == used


@pytest.mark.parametrize(
    ("change", "error", "match"),
    [
        ({"colour": 1}, TypeError, r"Got the arguments colour .* Allowed are model, num_classes"),
        ({"num_classes": 7}, ValueError, r"Got num_classes=7 for the model Net"),
        ({"checkpoint": "nowhere.pt"}, FileNotFoundError, "nowhere"),
    ],
)
def test_wrong_models(config, change, error, match):
    with pytest.raises(error, match=match):
        AugmentationGrid(model_of(config, **change))


def test_a_model_may_be_a_class_of_ones_own(config, own_classes):
    own = arm("own_classes.Backwards", model="small_cnn", model_options={"width": 4})
    planned = AugmentationGrid(replace(config, models={"Net": own}))
    assert type(cells.initial_module(planned.models["Net"], 0)).__name__ == "Backwards"
    other = arm("lightning_saliency.classifier.ImageClassifier", model="small_cnn")
    with pytest.raises(ValueError, match="Allowed are FineTunedClassifier and its subclasses"):
        AugmentationGrid(replace(config, models={"Net": other}))


OWN_CLASSES = """
import pytorch_lightning as pl

from lightning_saliency.studies.augmentation.training import FineTunedClassifier


class Backwards(FineTunedClassifier):
    pass


class Negative:
    def __init__(self, num_classes, seed, strength=1.0):
        self.num_classes, self.strength = num_classes, strength

    def __call__(self, images, labels):
        return -self.strength * images, labels


class Darker(pl.Callback):
    def __init__(self, factor=0.5, start_epoch=0):
        self.factor, self.start_epoch = factor, start_epoch

    def on_train_batch_start(self, trainer, pl_module, batch, batch_idx):
        if trainer.current_epoch >= self.start_epoch:
            batch[0].mul_(self.factor)
"""


@pytest.fixture
def own_classes(tmp_path, monkeypatch):
    folder = tmp_path / "modules"
    folder.mkdir()
    (folder / "own_classes.py").write_text(OWN_CLASSES)
    monkeypatch.syspath_prepend(str(folder))


def test_an_arm_may_be_a_class_of_ones_own(config, own_classes, monkeypatch):
    config = replace(config, training=replace(config.training, start_epoch=1))
    plain = losses(config, "plain", monkeypatch)
    for each, begin in ((arm("own_classes.Negative", strength=2.0), 5), ("own_classes.Darker", 5)):
        other = losses(config, each, monkeypatch)
        assert other[:begin] == plain[:begin]
        assert [loss for loss, _ in other[begin:]] != [loss for loss, _ in plain[begin:]]
    arms = parse_arms({"mine": arm("own_classes.Darker", start_epoch=2), "batch": "own_classes.Negative"})
    assert [(each.guided, each.is_control) for each in arms.values()] == [(False, False)] * 2
    assert [each.duties(4, 1, 1) for each in arms.values()] == [[0.0, 1.0, 1.0, 1.0]] * 2
    with pytest.raises(ValueError, match=r"colour.*Allowed are factor, start_epoch"):
        parse_arms({"mine": arm("own_classes.Darker", colour=1)})
    plan = plan_augmentation(replace(config, arms={"plain": None, "mine": "own_classes.Darker"}, controls=[]))
    assert [row.part for row in plan.rows][::2] == ["costs of steps", "plain: 2 steps (steps and time)"]


# The price of a step


@pytest.mark.parametrize(
    ("costs", "steps"),
    [
        ([2.0] * 200, 100),
        ([7.0] * 200, 29),
        ([1.0] * 60 + [7.0] * 140, 80),
        ([1.04] * 200, 200),
        ([0.9] * 200, 200),
        ([1000.0] * 3, 1),
        ([1.0] * 2 + [1000.0], 3),  # one step at least
        ([1.0] * 50, 50),
        ([1.0, 3.0] * 50, 50),
        ([1.0] * 50 + [2.0] * 25 + [1.0] * 25, 75),
    ],
)
def test_steps_for_the_same_time(costs, steps):
    assert affordable_steps(costs, [1.0] * len(costs), tolerance=0.05) == steps
    assert affordable_steps([3 * cost for cost in costs], [3.0] * len(costs), tolerance=0.05) == steps


PLAIN, GUIDED = Arm("plain", "plain"), Arm("arm", "saliency", {"explainer": "random_blobs"})


def measured(seconds, epoch=5):
    return {"seconds": seconds, "evaluation": 1, "epoch": epoch}


def test_the_ratio_is_the_median_of_the_rounds():
    seconds = measured({"plain": [1.0, 2.0, 4.0], "arm": [3.0, 4.0, 20.0]})
    cost = StepCost.measured(seconds, GUIDED, PLAIN, FineTuningConfig(steps=4))
    assert cost.ratio == Estimate(3.0, 2.0, 5.0, 3)
    assert (cost.seconds, cost.reference) == ([6.0] * 4, [2.0] * 4)


@pytest.mark.parametrize(
    ("options", "training", "duties", "ratio"),
    [
        ({}, {}, [1.0] * 12, 3.0),
        # An epoch has three steps.
        ({}, {"start_epoch": 2}, [0.0] * 6 + [1.0] * 6, 3.0),
        ({"start_epoch": 3}, {"start_epoch": 2}, [0.0] * 9 + [1.0] * 3, 2.0),
        ({"start_epoch": 1}, {"start_epoch": 2}, [0.0] * 3 + [1.0] * 9, 3.0),
        ({"start_epoch": 9}, {}, [0.0] * 12, 1.0),
        ({"probability": 0.2}, {}, [1.0] * 12, 3.0),  # timed as it is
        ({"probability": 0.0}, {}, [0.0] * 12, 1.0),
        ({"probability": [[0, 0.0], [2, 0.5]]}, {}, [0.0] * 3 + [0.5] * 3 + [1.0] * 6, 1 + 2 * 7.5 / 12),
        ({"probability": [[0, 0.0], [8, 0.8]]}, {}, [step // 3 / 8 for step in range(12)], 1 + 2 * 2.25 / 12),
    ],
)
def test_an_arm_pays_for_what_it_does(options, training, duties, ratio):
    guide = Arm("arm", "saliency", {"explainer": "random_blobs", **options})
    assert guide.duties(12, 3, training.get("start_epoch", 0)) == pytest.approx(duties)
    seconds = measured({"plain": [2.0], "arm": [6.0]}, epoch=3)
    cost = StepCost.measured(seconds, guide, PLAIN, FineTuningConfig(steps=12, **training))
    assert cost.seconds == pytest.approx([2 + 4 * duty for duty in duties])
    assert cost.ratio.value == pytest.approx(ratio)


def test_other_augmentations_pay_for_what_they_do():
    arms = parse_arms(
        {
            "plain": {},
            "random_erasing": arm("random_erasing", probability=0.1),
            "mixup": arm("mixup", probability=0.25),
        }
    )
    assert [each.duties(4, 2, 1) for each in arms.values()] == [[0.0] * 4, [0.0, 0.0, 1.0, 1.0], [0.0, 0.0, 0.25, 0.25]]
    full = [each.at_full_duty().init_args.get("probability") for each in arms.values()]
    assert full == [None, 0.1, 1.0]


def test_what_is_timed_is_a_step_at_full_duty(config):
    late = {"probability": [[0, 0.0], [5, 0.5]], "start_epoch": 3, "reuse_epochs": 2}
    arms = {"plain": {}, "late": given("grad_cam", **late), "economic": arm("group_cam", economy=True)}
    planned = AugmentationGrid(replace(config, arms=arms, controls=[], budgets=["steps"]))
    timed = {name: planned.cost_cells["Net", name].arguments["arms"][name] for name in arms}
    callback = timed["late"].callback(0, 7)
    assert [callback.probability(epoch) for epoch in (0, 9)] == [0.5, 0.5]
    assert (callback.start_epoch, callback.reuse_epochs) == (0, 1)
    assert timed["economic"].callback(0, 0).probability(0) == ECONOMY["probability"]
    # It is timed once for all that differ in their duties alone.
    for probability, same in ((0.5, True), ([[0, 0.1], [3, 0.5]], True), (0.25, False)):
        other = {"plain": {}, "late": given("grad_cam", probability=probability)}
        others = AugmentationGrid(replace(config, arms=other, controls=[]))
        first, second = (each.cost_cells["Net", "late"].fingerprint for each in (planned, others))
        assert (first == second) is same


def test_costs_are_those_of_a_machine(config):
    own = AugmentationGrid(config).cost_cells["Net", "mixup"].fingerprint["cost"]
    assert own == {"steps": 1, "rounds": 1, "threads": torch.get_num_threads(), "device": "cpu", "engine": "local"}
    ray = AugmentationGrid(replace(config, engine="ray", cpus_per_cell=3)).cost_cells["Net", "mixup"].fingerprint
    assert (ray["cost"]["engine"], ray["cost"]["threads"]) == ("ray", 3)
    assert AugmentationGrid(replace(config, workers=2)).cost_cells["Net", "mixup"].arguments["threads"] == 1


def test_a_reference_that_is_not_plain(config):
    planned = AugmentationGrid(replace(config, reference="mixup"))
    timed = planned.cost_cells["Net", "grad_cam"].arguments["arms"]
    assert [each.kind for each in timed.values()] == ["plain", "mixup", "saliency"]
    seconds = dict(zip(timed, ([2.0], [3.0], [6.0]), strict=True))
    training = FineTuningConfig(steps=10, start_epoch=1)
    cost = StepCost.measured(measured(seconds), planned.arms["grad_cam"], planned.arms["mixup"], training)
    assert (cost.seconds, cost.reference) == ([2.0] * 5 + [6.0] * 5, [2.0] * 5 + [3.0] * 5)
    assert cost.ratio.value == pytest.approx(2.0)
    assert StepCost.measured(measured(seconds), *[planned.arms["mixup"]] * 2, training).ratio.value == 1


def test_maps_used_again_have_no_price(config):
    arms = {"plain": {}, "kept": given("grad_cam", reuse_epochs=3)}
    with pytest.raises(ValueError, match="'time' with kept, which uses maps again"):
        AugmentationGrid(replace(config, arms=arms, controls=[]))
    AugmentationGrid(replace(config, arms=arms, controls=[], budgets=["steps"]))


def test_the_clock_counts_the_steps_behind_the_first(config):
    planned = AugmentationGrid(config)
    arms = {name: planned.arms[name] for name in ("plain", "random mask")}
    found = cells.measure_steps(planned.models["Net"], planned.data[0], arms, config.training, 2, 2, seed=0, threads=1)
    assert {name: len(values) for name, values in found["seconds"].items()} == {"plain": 2, "random mask": 2}
    assert all(seconds > 0 for values in found["seconds"].values() for seconds in values)
    assert found["epoch"] == 5
    assert found["evaluation"] > 0


def test_costs_are_measured_once_and_decide_the_steps(config, monkeypatch):
    config = replace(config, training=replace(config.training, steps=8))
    calls = []
    fixed_costs(monkeypatch, {"mixup": 1.01, "grad_cam": 2.0, "random mask": 4.0}, calls)
    runs = runs_of(config)
    assert calls == [["plain"], ["plain", "mixup"], ["plain", "grad_cam"], ["plain", "random mask"]]
    steps = {(run.arm, run.budgets): run.steps for run in runs if run.seed == 0}
    assert steps == {
        ("plain", ("steps", "time")): 8,
        ("mixup", ("steps", "time")): 8,
        ("grad_cam", ("steps",)): 8,
        ("grad_cam", ("time",)): 4,
        ("random mask", ("steps",)): 8,
        ("random mask", ("time",)): 2,
    }
    assert len(runs) == 12
    # Measured otherwise now, but what is on the disk decides.
    fixed_costs(monkeypatch, {}, calls)
    assert {(run.arm, run.budgets): run.steps for run in runs_of(config) if run.seed == 0} == steps
    assert len(calls) == 4


def test_time_is_counted_from_the_start_epoch(config, monkeypatch):
    config = replace(config, training=replace(config.training, steps=12, start_epoch=2))
    fixed_costs(monkeypatch, {"grad_cam": 2.0})
    steps = {run.budgets: run.steps for run in runs_of(config) if run.arm == "grad_cam"}
    # Two epochs of five batches are plain; of the two steps behind them one is affordable.
    assert steps == {("steps",): 12, ("time",): 11}


# All of it


def test_each_guide_has_its_own_controls(config, monkeypatch):
    fixed_costs(monkeypatch, {})
    blobs = {"control": "random_blobs"}
    arms = {
        **{name: ARMS[name] for name in ("plain", "mixup", "grad_cam", "fast_cam", "group_cam")},
        "grad_cam, random mask": given("grad_cam", **blobs),
        "group_cam, random mask": given("group_cam", **blobs),
    }
    controls = {name: [f"{name}, random mask"] for name in ("grad_cam", "group_cam")}
    config = replace(config, arms=arms, controls=controls, seeds=[0], budgets=["steps"])
    comparison = run_augmentation(config, progress=False)
    assert comparison.controls == {**controls, "fast_cam": []}
    assert "wall time" not in comparison.caption
    estimates = comparison.estimates["Net"]["steps"]
    for name in controls:
        own, other = (100 * comparison.runs["Net"]["steps"][arm][0]["accuracy"] for arm in (name, *controls[name]))
        assert estimates[name]["versus its random mask"].value == pytest.approx(own - other)
    assert not [key for name in ("plain", "mixup", "fast_cam") for key in estimates[name] if key.startswith("versus")]
    assert "| − its random mask ↑ |" in str(comparison)
    verdicts = {line.split(", ")[2].split(":")[0]: line for line in comparison.verdicts()}
    assert "against its random mask" in verdicts["grad_cam"]
    assert "mask" not in verdicts["fast_cam"]
    assert "one seed" in verdicts["fast_cam"]
    assert "inf" not in verdicts["fast_cam"]
    assert comparison.caption.startswith("One seed: no intervals")
    assert comparison.as_dict()["controls"] == comparison.controls
    # A list is for all of them.
    assert replace(config, controls=["grad_cam, random mask"]).controls_of("fast_cam") == ["grad_cam, random mask"]


def test_a_control_has_as_many_steps_as_its_guide(config, monkeypatch):
    """It tells what the map is worth, and not what it takes to make a control's."""
    fixed_costs(monkeypatch, {"grad_cam": 2.0, "random mask": 4.0})
    config = replace(config, training=replace(config.training, steps=8), seeds=[0], budgets=["time"])
    config = replace(config, controls={"grad_cam": ["random mask"]})
    steps = {run.arm: run.steps for run in runs_of(config)}
    assert steps == {"plain": 8, "mixup": 8, "grad_cam": 4, "random mask": 4}


def test_a_comparison_is_written_and_resumed(config, monkeypatch, tmp_path):
    fixed_costs(monkeypatch, {"grad_cam": 2.0, "random mask": 2.0})
    trained = []
    own = grid.train_arm

    def counted(model, data, arm, training, steps, seed):
        trained.append((arm.name, steps, seed))
        return own(model, data, arm, training, steps, seed)

    monkeypatch.setattr(grid, "train_arm", counted)
    comparison = run_augmentation(config, progress=False)
    assert len(trained) == len(set(trained)) == 2 * (1 + 1 + 2 + 2)
    assert comparison.roles == {"plain": "other", "mixup": "other", "grad_cam": "guided", "random mask": "control"}
    for budget, steps in (("steps", 2), ("time", 1)):
        keys = comparison.estimates["Net"][budget]["grad_cam"]
        accuracies, plain, control = (
            [100 * comparison.runs["Net"][budget][arm][seed]["accuracy"] for seed in (0, 1)]
            for arm in ("grad_cam", "plain", "random mask")
        )
        assert keys["accuracy"].value == pytest.approx(np.mean(accuracies))
        assert keys["difference"].value == pytest.approx(np.mean(accuracies) - np.mean(plain))
        assert keys["versus random mask"].value == pytest.approx(np.mean(accuracies) - np.mean(control))
        assert (keys["steps"].value, keys["cost"].value) == (steps, 2.0)
        replaced = [100 * comparison.runs["Net"][budget]["grad_cam"][seed]["augmented"] for seed in (0, 1)]
        assert keys["replaced"].value == pytest.approx(np.mean(replaced))
        assert 0 < keys["kept"].value < 100
    assert "versus random mask" not in comparison.estimates["Net"]["steps"]["mixup"]
    out = tmp_path / "out"
    assert not any(path.is_file() for path in out.iterdir())
    written = comparison.save()
    assert written[0] == out / "report.html"
    assert {path for path in out.glob("[!.]*") if path.is_file()} == set(written)
    assert {path.name for path in written} == {
        *("report.html", "table.md", "summary.csv", "results.csv", "results.json", "differences_Net.png")
    }
    page = (out / "report.html").read_text()
    for shown in ("test accuracy in %", "Net, equal steps", "data:image/png", "small_cnn", *config.arms):
        assert shown in page
    assert all(line.split(" against")[0] in page for line in comparison.verdicts())
    table = (out / "table.md").read_text()
    assert "### Net, equal steps: test accuracy in %" in table
    assert "2 seeds" in table
    assert "2 steps; for equal wall time" in table
    assert len(comparison.verdicts()) == 2
    assert len((out / "results.csv").read_text().splitlines()) == 1 + 2 * 5 * 2
    assert json.loads((out / "results.json").read_text())["roles"] == comparison.roles
    # One result is lost: it alone is computed again, and all comes out as before.
    lost = next((out / "runs").glob("Net*__grad_cam__steps1__seed1.json"))
    lost.unlink()
    trained.clear()
    again = run_augmentation(config, progress=False)
    assert trained == [("grad_cam", 1, 1)]
    assert again.estimates == comparison.estimates
    # A further arm and a further seed leave what there is alone.
    trained.clear()
    run_augmentation(replace(config, seeds=[0, 1, 2], arms={**config.arms, "cutmix": {}}), progress=False)
    assert sorted({name for name, _, seed in trained if seed < 2}) == ["cutmix"]
    assert len(trained) == 2 + 7
    with pytest.raises(StaleResultsError, match="training"):
        run_augmentation(replace(config, training=replace(config.training, learning_rate=0.5)), progress=False)


def test_a_single_arm_has_no_figure(config, monkeypatch, tmp_path):
    fixed_costs(monkeypatch, {})
    config = replace(config, arms={"plain": None}, controls=[], seeds=[0], budgets=["steps"])
    written = run_augmentation(config, progress=False).save(tmp_path / "elsewhere")
    assert [path.name for path in written] == ["report.html", "table.md", "summary.csv", "results.csv", "results.json"]
    assert "data:image/png" not in written[0].read_text()


def test_options_may_stand_beside_a_configuration(config, monkeypatch):
    fixed_costs(monkeypatch, {})
    result = run_augmentation(config, progress=False, seeds=[1], budgets=["steps"], training={"steps": 1})
    assert list(result.runs["Net"]["steps"]["plain"]) == [1]
    assert result.runs["Net"]["steps"]["plain"][1]["steps"] == 1
    with pytest.raises(TypeError, match="colour"):
        run_augmentation(colour=1)


def test_other_data_are_noticed(config, monkeypatch, tmp_path):
    fixed_costs(monkeypatch, {})
    config = replace(config, arms={"plain": {}, "mixup": {}}, controls=[], seeds=[0], budgets=["steps"])
    comparison = run_augmentation(config, progress=False)
    assert comparison.as_dict()["results"]["Net"]["steps"]["mixup"]["difference"]["low"] is None
    content = dict(np.load(tmp_path / "images.npz"))
    content["x_test"] = 255 - content["x_test"]
    np.savez(tmp_path / "images.npz", **content)
    cells._prepared.cache_clear()
    with pytest.raises(StaleResultsError, match="data"):
        run_augmentation(config)


def test_each_seed_may_have_data_of_its_own(config):
    data = {**config.data, "init_args": {**config.data["init_args"], "train_size": 20, "seed": 5}}
    planned = AugmentationGrid(replace(config, data=data, seeded_data=True))
    assert [planned.data[seed]["init_args"]["seed"] for seed in (0, 1)] == [5, 6]
    ids = [cells.prepared_data(planned.data[seed]).datasets["train"].labels.tolist() for seed in (0, 1)]
    assert ids[0] != ids[1]
    same = AugmentationGrid(config).data
    assert cells.prepared_data(same[0]) is cells.prepared_data(same[1])


@pytest.mark.parametrize(
    ("change", "match"),
    [
        ({"seeds": []}, "seeds"),
        ({"seeds": [1, 1]}, "seeds"),
        ({"reference": "none"}, "none"),
        ({"controls": ["blobs"]}, "blobs"),
        ({"controls": {"grad_cam": ["blobs"]}}, "blobs"),
        ({"controls": {"blobs": ["random mask"]}}, "blobs"),
        ({"budgets": ["flops"]}, "flops"),
        ({"models": {}}, "models"),
        ({"data": None}, "class_path"),
        ({"confidence": 1.0}, "confidence"),
    ],
)
def test_wrong_configurations(config, change, match):
    with pytest.raises(ValueError, match=match):
        replace(config, **change)


def test_only_guided_arms_have_controls(config):
    with pytest.raises(ValueError, match=r"Got controls of mixup.* Allowed are grad_cam"):
        replace(config, controls={"mixup": ["random mask"]})


@pytest.mark.parametrize(
    ("change", "error", "match"),
    [
        ({"class_path": "lightning_saliency.data.Nothing"}, ValueError, "cannot be imported"),
        ({"class_path": "fractions.Fraction", "init_args": {}}, ValueError, "no LightningDataModule"),
        ({"init_args": {"colour": 1}}, TypeError, "colour"),
    ],
)
def test_wrong_data(config, change, error, match):
    with pytest.raises(error, match=match):
        AugmentationGrid(replace(config, data={**config.data, **change}))


def test_verdicts_say_what_the_intervals_say():
    def runs(*accuracies):
        return {
            seed: {"accuracy": value, "val_best": value, "steps": 9, "kept_share": None, "augmented": None}
            for seed, value in enumerate(accuracies)
        }

    arms = {
        "plain": runs(0.5, 0.6, 0.7),
        "control": runs(0.62, 0.69, 0.81),
        "guide": runs(0.61, 0.70, 0.80),
        "bad": runs(0.31, 0.40, 0.50),
    }
    costs = {"Net": {name: Estimate(2.5, 2.0, 3.0, 3) for name in arms}}
    roles = {"plain": "other", "control": "control", "guide": "guided", "bad": "guided"}
    controls = {"guide": ["control"], "bad": ["control"]}
    comparison = AugmentationResult({"Net": {"steps": arms}}, costs, roles, "plain", controls)
    good, bad = comparison.verdicts()
    assert good.startswith("Net, equal steps, guide: +10.33 [")
    assert "against plain, better" in good
    assert "against control, not distinguishable" in good
    assert "2.50 plain ones" in good
    assert bad.count("worse") == 2
