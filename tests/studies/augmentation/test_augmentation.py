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
from lightning_saliency.studies import CellError, StaleResultsError
from lightning_saliency.studies.augmentation import (
    AugmentationConfig,
    AugmentationResult,
    CostConfig,
    FineTuningConfig,
    cells,
    plan_augmentation,
    run_augmentation,
)
from lightning_saliency.studies.augmentation import grid as planning
from lightning_saliency.studies.augmentation.arms import Arm, BatchAugmentation, parse_arms
from lightning_saliency.studies.augmentation.costs import StepCost, affordable_steps
from lightning_saliency.studies.augmentation.grid import AugmentationGrid
from lightning_saliency.studies.estimates import mean_interval, paired_difference, student_cdf, student_quantile
from lightning_saliency.studies.isolation import OwnRandomness, SeededBatches


def arm(kind, **options):
    return {"class_path": kind, "init_args": options}


ARMS = {
    "plain": None,
    "random_erasing": arm("random_erasing", probability=1.0),
    "cutmix": arm("cutmix", alpha=1.0),
    "mixup": arm("mixup", alpha=0.4),
    "group_cam": arm("group_cam", groups=2),
    "group_cam gradients": arm("group_cam", groups=2, gradients=True),
    "group_cam soft": arm("group_cam", groups=2, soft=True),
    "grad_cam": arm("saliency", explainer="grad_cam"),
    "fast_cam": arm("saliency", explainer="fast_cam"),
    "random mask": arm("group_cam", groups=2, control="random_blobs"),
    "other image": arm("group_cam", groups=2, control="other_image"),
    "cheap": arm("saliency", explainer="random_blobs"),
}


def changed(given, **options):
    return {**given, "init_args": {**given["init_args"], **options}}


@pytest.fixture
def config(tmp_path):
    """Two steps of a tiny network on 16-pixel images of four colours."""
    generator = np.random.default_rng(0)
    arrays = {}
    for split, count in (("train", 40), ("val", 8), ("test", 20)):
        labels = np.arange(count) % 4
        images = generator.integers(0, 120, (count, 16, 16, 3))
        images[..., 0] += 40 * labels[:, None, None]
        arrays |= {f"x_{split}": images.astype(np.uint8), f"y_{split}": labels}
    np.savez(tmp_path / "images.npz", **arrays)
    return AugmentationConfig(
        models={"Net": {"model": "small_cnn", "model_options": {"width": 4}}},
        data={
            "class_path": "lightning_saliency.data.ArrayImagesDataModule",
            "init_args": {"path": str(tmp_path / "images.npz"), "batch_size": 8, "padding": 2},
        },
        arms={name: ARMS[name] for name in ("plain", "mixup", "grad_cam", "random mask")},
        training=FineTuningConfig(steps=2, validations=1, accelerator="cpu"),
        cost=CostConfig(steps=1, rounds=1),
        seeds=[0, 1],
        controls=["random mask"],
        output=str(tmp_path / "out"),
    )


def fixed_costs(monkeypatch, ratios, calls=None):
    """Steps that cost what is said, in place of the clock's reading."""

    def measured(model, data, arms, training, steps, rounds, seed, threads):
        if calls is not None:
            calls.append(list(arms))
        seconds = {name: [0.5 * ratios.get(name, 1.0)] * rounds for name in arms}
        return {"seconds": seconds, "evaluation": 0.25, "epoch": 5}

    monkeypatch.setattr(planning, "measure_steps", measured)


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
    guided = [name for name, each in arms.items() if each.guided]
    assert guided == ["group_cam", "group_cam gradients", "group_cam soft", "grad_cam", "fast_cam"]
    assert [name for name, each in arms.items() if each.is_control] == ["random mask", "other image", "cheap"]


@pytest.mark.parametrize(
    ("arms", "match"),
    [
        ({"grid_mask": {}}, "kind 'grid_mask'"),
        ({"grid_mask": {"probability": 1.0}}, "Allowed are a kind"),
        ({"plain": arm("plain", probability=1.0)}, "plain arm"),
        ({"mixup": arm("mixup", beta=1.0)}, "beta"),
        ({"cutmix": arm("cutmix", probability=2.0)}, "probability"),
        ({"saliency": arm("saliency", explainer="magic")}, "magic"),
        ({"saliency": arm("saliency", colour=1)}, "colour"),
        ({"mine": arm("nowhere.Mine")}, "cannot be imported"),
    ],
)
def test_wrong_arms(arms, match):
    with pytest.raises(ValueError, match=match):
        parse_arms(arms)


@pytest.mark.parametrize("name", list(ARMS))
def test_every_arm_trains(config, name):
    own = parse_arms(ARMS)[name]
    planner = AugmentationGrid(replace(config, arms={"plain": None}, controls=[]))
    result = cells.train_arm(config.models["Net"], planner.data, own, config.training, 2, 0)
    assert 0 <= result["accuracy"] <= 1
    assert list(result["val"]) == ["2"]
    assert (result["mask_fraction"] is not None) == (own.guided or own.is_control)
    if own.guided and "soft" not in name:
        assert 0.05 < result["mask_fraction"] < 0.95
        # An untrained network has no map of some images.
        assert result["augmented"] > 0.4
    assert json.loads(json.dumps(result)) == result


def losses(config, given, monkeypatch):
    """The loss and the labels of each training step."""
    found = []
    own = cells.FineTuning.training_step

    def step(self, batch, batch_idx):
        loss = own(self, batch, batch_idx)
        found.append((loss.item(), batch[1].tolist()))
        return loss

    planner = AugmentationGrid(replace(config, arms={"plain": None}, controls=[]))
    with monkeypatch.context() as patch:
        patch.setattr(cells.FineTuning, "training_step", step)
        cells.train_arm(config.models["Net"], planner.data, parse_arms({"arm": given})["arm"], config.training, 7, 3)
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
    for given in ("mixup", ARMS["grad_cam"]):
        other = losses(config, given, monkeypatch)
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
    planner = AugmentationGrid(config)
    for frozen in (True, False):
        model = replace(config.models["Net"], freeze_batch_norm=frozen)
        module, *_ = cells._fit(model, planner.data, planner.arms["plain"], config.training, 2, 0, 0, 1)
        moved = [bool((buffer != 0).any()) for name, buffer in module.named_buffers() if name.endswith("running_mean")]
        assert moved == [not frozen] * 7


def test_modules_may_be_left_out(config):
    planner = AugmentationGrid(config)
    model = replace(config.models["Net"], without=["stage4.2", "pool1"])
    built = cells.build_fine_tuning(model, config.training, 4, planner.arms["plain"], 0, 0).model
    assert [type(built.get_submodule(name)).__name__ for name in ("stage4.2", "pool1", "pool2")] == [
        *("Identity", "Identity", "MaxPool2d")
    ]
    with pytest.raises(ValueError, match=r"stage9"):
        AugmentationGrid(replace(config, models={"Net": replace(config.models["Net"], without=["stage9"])}))


def test_a_network_may_have_an_optimiser_of_its_own(config):
    planner = AugmentationGrid(config)
    training = replace(config.training, nesterov=True)
    for own, used in (({}, ("adamw", 1e-3, False)), ({"optimizer": "sgd", "learning_rate": 0.5}, ("sgd", 0.5, True))):
        model = replace(config.models["Net"], **own)
        options = cells.build_fine_tuning(model, training, 4, planner.arms["plain"], 0, 0).hparams
        assert (options["optimizer"], options["learning_rate"], options["nesterov"]) == used


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
        ({"every_n_steps": 2}, {}, [1.0, 0.0, 1.0] * 4, 7 / 3),
        ({"every_n_steps": 8}, {}, [1.0, 0.0, 0.0] * 4, 5 / 3),
        ({"probability": 0.2}, {}, [1.0] * 12, 3.0),  # timed as it is
        ({"probability": 0.0}, {}, [0.0] * 12, 1.0),
        ({"probability": [[0, 0.0], [2, 0.5]]}, {}, [0.0] * 3 + [0.5] * 3 + [1.0] * 6, 1 + 2 * 7.5 / 12),
        ({"probability": [[0, 0.0], [8, 0.8]]}, {}, [step // 3 / 8 for step in range(12)], 1 + 2 * 2.25 / 12),
    ],
)
def test_an_arm_pays_for_what_it_does(options, training, duties, ratio):
    own = Arm("arm", "saliency", {"explainer": "random_blobs", **options})
    assert own.duties(12, 3, training.get("start_epoch", 0)) == pytest.approx(duties)
    seconds = measured({"plain": [2.0], "arm": [6.0]}, epoch=3)
    cost = StepCost.measured(seconds, own, PLAIN, FineTuningConfig(steps=12, **training))
    assert cost.seconds == pytest.approx([2 + 4 * duty for duty in duties])
    assert cost.ratio.value == pytest.approx(ratio)


def test_other_augmentations_pay_for_what_they_do():
    arms = parse_arms(
        {
            "plain": None,
            "random_erasing": arm("random_erasing", probability=0.1),
            "mixup": arm("mixup", probability=0.25),
        }
    )
    assert [each.duties(4, 2, 1) for each in arms.values()] == [[0.0] * 4, [0.0, 0.0, 1.0, 1.0], [0.0, 0.0, 0.25, 0.25]]
    full = [each.at_full_duty().options.get("probability") for each in arms.values()]
    assert full == [None, 0.1, 1.0]


def test_what_is_timed_is_a_step_at_full_duty(config):
    given = {"probability": [[0, 0.0], [5, 0.5]], "every_n_steps": 8, "start_epoch": 3, "reuse_epochs": 2}
    arms = {
        "plain": None,
        "late": changed(ARMS["grad_cam"], **given),
        "economic": arm("group_cam", economy=True),
    }
    planner = AugmentationGrid(replace(config, arms=arms, controls=[], budgets=["steps"]))
    timed = {name: planner._cost_cell("Net", name).arguments["arms"][name] for name in arms}
    late = timed["late"].callback(0, 7)
    assert [late.probability(epoch) for epoch in (0, 9)] == [0.5, 0.5]
    assert (late.every_n_steps, late.start_epoch, late.reuse_epochs) == (1, 0, 1)
    assert timed["economic"].callback(0, 0).probability(0) == ECONOMY["probability"]
    # It is timed once for all that differ in their duties alone.
    for probability, same in ((0.5, True), ([[0, 0.1], [3, 0.5]], True), (0.25, False)):
        other = {"plain": None, "late": changed(ARMS["grad_cam"], probability=probability)}
        cells_of = (
            each._cost_cell("Net", "late")
            for each in (planner, AugmentationGrid(replace(config, arms=other, controls=[])))
        )
        first, second = (cell.fingerprint for cell in cells_of)
        assert (first == second) is same


def test_costs_are_those_of_a_machine(config):
    [network] = config.models
    own = AugmentationGrid(config)._cost_cell(network, "mixup").fingerprint["cost"]
    assert own == {"steps": 1, "rounds": 1, "threads": torch.get_num_threads(), "device": "cpu", "engine": "local"}
    ray = AugmentationGrid(replace(config, engine="ray", cpus_per_cell=3))._cost_cell(network, "mixup")
    assert (ray.fingerprint["cost"]["engine"], ray.arguments["threads"]) == ("ray", 3)


def test_a_reference_that_is_not_plain(config):
    planner = AugmentationGrid(replace(config, reference="mixup"))
    timed = planner._cost_cell("Net", "grad_cam").arguments["arms"]
    assert [each.kind for each in timed.values()] == ["plain", "mixup", "saliency"]
    seconds = dict(zip(timed, ([2.0], [3.0], [6.0]), strict=True))
    training = FineTuningConfig(steps=10, start_epoch=1)
    cost = StepCost.measured(measured(seconds), planner.arms["grad_cam"], planner.arms["mixup"], training)
    assert (cost.seconds, cost.reference) == ([2.0] * 5 + [6.0] * 5, [2.0] * 5 + [3.0] * 5)
    assert cost.ratio.value == pytest.approx(2.0)
    assert StepCost.measured(measured(seconds), *[planner.arms["mixup"]] * 2, training).ratio.value == 1


def test_maps_used_again_have_no_price(config):
    arms = {"plain": None, "kept": changed(ARMS["grad_cam"], reuse_epochs=3)}
    with pytest.raises(ValueError, match="'time' with kept, which uses maps again"):
        AugmentationGrid(replace(config, arms=arms, controls=[]))
    AugmentationGrid(replace(config, arms=arms, controls=[], budgets=["steps"]))


def test_the_clock_counts_the_steps_behind_the_first(config):
    planner = AugmentationGrid(config)
    arms = {name: planner.arms[name] for name in ("plain", "random mask")}
    found = cells.measure_steps(config.models["Net"], planner.data, arms, config.training, 2, 2, seed=0, threads=1)
    assert {name: len(values) for name, values in found["seconds"].items()} == {"plain": 2, "random mask": 2}
    assert all(seconds > 0 for values in found["seconds"].values() for seconds in values)
    assert found["epoch"] == 5
    assert found["evaluation"] > 0


def test_costs_are_measured_once_and_decide_the_steps(config, monkeypatch):
    config = replace(config, training=replace(config.training, steps=8))
    calls = []
    fixed_costs(monkeypatch, {"mixup": 1.01, "grad_cam": 2.0, "random mask": 4.0}, calls)
    planner = AugmentationGrid(config)
    costs = planner.costs(progress=False)
    assert calls == [["plain"], ["plain", "mixup"], ["plain", "grad_cam"], ["plain", "random mask"]]

    def steps_of(costs):
        return {(run.arm, run.budgets): run.steps for run in planner.runs(costs) if run.seed == 0}

    steps = steps_of(costs)
    assert steps == {
        ("plain", ("steps", "time")): 8,
        ("mixup", ("steps", "time")): 8,
        ("grad_cam", ("steps",)): 8,
        ("grad_cam", ("time",)): 4,
        ("random mask", ("steps",)): 8,
        ("random mask", ("time",)): 2,
    }
    # Two seeds, half a second a plain step, a validation and test of a quarter of a second for each of six runs.
    plan = plan_augmentation(config)
    assert (plan.cells, plan.done) == (12, 0)
    assert plan.seconds == pytest.approx(2 * (0.5 * (8 + 8.08 + 16 + 8 + 32 + 8) + 0.25 * 6))
    # Measured otherwise now, but what is on the disk decides.
    fixed_costs(monkeypatch, {}, calls)
    assert steps_of(AugmentationGrid(config).costs(progress=False)) == steps
    assert len(calls) == 4


def test_time_is_counted_from_the_start_epoch(config, monkeypatch):
    config = replace(config, training=replace(config.training, steps=12, start_epoch=2))
    fixed_costs(monkeypatch, {"grad_cam": 2.0})
    planner = AugmentationGrid(config)
    runs = planner.runs(planner.costs(progress=False))
    steps = {run.budgets: run.steps for run in runs if run.arm == "grad_cam"}
    # Two epochs of five batches are plain; of the two steps behind them one is affordable.
    assert steps == {("steps",): 12, ("time",): 11}


def test_the_plan_times_each_kind_of_step_once(config, monkeypatch, tmp_path):
    timed = []
    own = planning.time_steps

    def counted(model, data, arm, training, seed):
        timed.append((arm.kind, arm.options.get("explainer"), arm.options.get("control")))
        return own(model, data, arm, training, seed)

    monkeypatch.setattr(planning, "time_steps", counted)
    arms = {**{name: ARMS[name] for name in ("plain", "mixup", "cutmix", "group_cam", "random mask", "grad_cam")}}
    config = replace(config, arms=arms, controls=["random mask"])
    plan = plan_augmentation(config)
    assert timed == [("plain", None, None), ("group_cam", None, None), ("saliency", "grad_cam", None)]
    assert plan.cells >= 12
    assert plan.seconds > 0
    assert "cost of a step" in str(plan)
    again = plan_augmentation(config)
    assert len(timed) == 3
    assert str(again) == str(plan)
    assert not (tmp_path / "out" / "runs").exists()


# All of it


def test_each_guide_has_its_own_controls(config, monkeypatch):
    fixed_costs(monkeypatch, {})
    blobs = {"control": "random_blobs"}
    arms = {
        **{name: ARMS[name] for name in ("plain", "mixup", "grad_cam", "fast_cam", "group_cam")},
        "grad_cam, random mask": changed(ARMS["grad_cam"], **blobs),
        "group_cam, random mask": changed(ARMS["group_cam"], **blobs),
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
    assert comparison.as_dict()["controls"] == comparison.controls
    # A list is for all of them.
    assert replace(config, controls=["grad_cam, random mask"]).controls_of("fast_cam") == ["grad_cam, random mask"]


def test_a_control_has_as_many_steps_as_its_guide(config, monkeypatch):
    """It tells what the map is worth, and not what it takes to make a control's."""
    fixed_costs(monkeypatch, {"grad_cam": 2.0, "random mask": 4.0})
    config = replace(config, training=replace(config.training, steps=8), seeds=[0], budgets=["time"])
    config = replace(config, controls={"grad_cam": ["random mask"]})
    planner = AugmentationGrid(config)
    steps = {run.arm: run.steps for run in planner.runs(planner.costs(progress=False))}
    assert steps == {"plain": 8, "mixup": 8, "grad_cam": 4, "random mask": 4}


def test_a_comparison_is_written_and_resumed(config, monkeypatch, tmp_path):
    fixed_costs(monkeypatch, {"grad_cam": 2.0, "random mask": 2.0})
    trained = []
    own = planning.train_arm

    def counted(model, data, arm, training, steps, seed):
        trained.append((arm.name, steps, seed))
        return own(model, data, arm, training, steps, seed)

    monkeypatch.setattr(planning, "train_arm", counted)
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
    assert comparison.save()[0] == out / "report.html"
    assert {path.name for path in out.iterdir() if path.is_file()} == {
        *("report.html", "table.md", "summary.csv", "results.csv", "results.json", "differences_Net.png")
    }
    table = (out / "table.md").read_text()
    assert "### Net, equal steps: test accuracy in %" in table
    assert "2 seeds" in table
    assert "2 steps; within equal wall time" in table
    assert len(comparison.verdicts()) == 2
    assert len((out / "results.csv").read_text().splitlines()) == 1 + 2 * 4 * 2
    assert json.loads((out / "results.json").read_text())["roles"] == comparison.roles
    # One result is lost: it alone is computed again, and all comes out as before.
    lost = next((out / "runs").glob("Net__grad_cam__steps1__seed1.json"))
    lost.unlink()
    trained.clear()
    again = run_augmentation(config, progress=False)
    assert trained == [("grad_cam", 1, 1)]
    assert again.estimates == comparison.estimates
    # A further arm and a further seed leave what there is alone.
    trained.clear()
    run_augmentation(replace(config, seeds=[0, 1, 2], arms={**config.arms, "cutmix": None}), progress=False)
    assert sorted({name for name, _, seed in trained if seed < 2}) == ["cutmix"]
    assert len(trained) == 2 + 7
    with pytest.raises(StaleResultsError, match="training"):
        run_augmentation(replace(config, training=replace(config.training, learning_rate=0.5)), progress=False)


def test_other_data_are_noticed(config, monkeypatch, tmp_path):
    fixed_costs(monkeypatch, {})
    config = replace(config, arms={"plain": None, "mixup": None}, controls=[], seeds=[0], budgets=["steps"])
    comparison = run_augmentation(config, progress=False)
    assert comparison.as_dict()["results"]["Net"]["steps"]["mixup"]["difference"]["low"] is None
    content = dict(np.load(tmp_path / "images.npz"))
    content["x_test"] = 255 - content["x_test"]
    np.savez(tmp_path / "images.npz", **content)
    cells._built.cache_clear()
    with pytest.raises(StaleResultsError, match="data"):
        run_augmentation(config, progress=False)


def test_each_seed_may_have_data_of_its_own(config):
    data = AugmentationGrid(config).data
    own = {**data.spec["init_args"], "train_size": 20, "seed": 5}
    seeded = replace(data, spec={**data.spec, "init_args": own}, seeded=True)
    ids = [cells.study_data(seeded, seed).datasets["train"].labels.tolist() for seed in (0, 1)]
    assert ids[0] != ids[1]
    assert cells.study_data(data, 0) is cells.study_data(data, 1)


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
    ],
)
def test_wrong_configurations(config, change, match):
    with pytest.raises(ValueError, match=match):
        replace(config, **change)


def test_only_guided_arms_have_controls(config):
    with pytest.raises(ValueError, match=r"Got controls of mixup.* Allowed are grad_cam"):
        AugmentationGrid(replace(config, controls={"mixup": ["random mask"]}))


@pytest.mark.parametrize(
    ("change", "error", "match"),
    [
        ({"class_path": "lightning_saliency.data.Nothing"}, ValueError, "cannot be imported"),
        ({"class_path": "pathlib.Path", "init_args": {}}, ValueError, "no LightningDataModule"),
        ({"init_args": {"colour": 1}}, TypeError, "colour"),
    ],
)
def test_wrong_data(config, change, error, match):
    with pytest.raises(error, match=match):
        AugmentationGrid(replace(config, data={**config.data, **change}))


def test_verdicts_say_what_the_intervals_say():
    def runs(*accuracies):
        return {
            seed: {"accuracy": value, "val_best": value, "steps": 9, "mask_fraction": None, "augmented": None}
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
    assert "against control, not told apart" in good
    assert "2.50 plain ones" in good
    assert bad.count("worse") == 2
