"""The plan of a comparison: few steps timed, each once, scaled to what the study will do."""

import json
from dataclasses import replace

import pytest
import torch

from lightning_saliency.studies.augmentation import grid
from lightning_saliency.studies.augmentation.arms.arm import parse_arms
from lightning_saliency.studies.augmentation.estimates import (
    _FEW,
    _number,
    estimate_augmentation,
    estimate_step,
    estimating,
)
from lightning_saliency.studies.augmentation.grid import AugmentationGrid
from lightning_saliency.studies.augmentation.run import plan_augmentation
from lightning_saliency.studies.engine.run import run_cells
from tests.studies.augmentation.small import ARMS, arm, given

PLAIN_SECONDS, EVALUATED = 0.6, 30


@pytest.fixture
def timed(monkeypatch):
    """Timings that are said in place of the clock's: of each the arm; Grad-CAM costs as much as a step."""
    found = []

    def step(model, data, arm, training, seed, threads):
        found.append(arm.kind)
        return {"seconds": PLAIN_SECONDS, "passes": 10.0, "batch": 10, "epoch": 4, "evaluated": EVALUATED}

    def augmentation(model, data, arm, training, seed, threads):
        found.append(arm.kind)
        return {"seconds": PLAIN_SECONDS, "passes": 20.0} if arm.kind == "saliency" else {"seconds": 0.0, "passes": 0.0}

    monkeypatch.setattr(grid, "estimating", lambda arm: step if arm.kind == "plain" else augmentation)
    return found


def parts(plan):
    return {row.part: row for row in plan.rows}


def test_arms_that_do_the_same_are_timed_once(config, timed):
    changes = {
        "soft": {"action": arm("keep", soft=True)},
        "random mask": {"control": "random_blobs"},
        "other image": {"control": "other_image"},
        "half": {"probability": 0.5},
        "late": {"start_epoch": 1},
    }
    arms = {
        "plain": None,
        "grad_cam": ARMS["grad_cam"],
        **{name: given("grad_cam", **c) for name, c in changes.items()},
    }
    config = replace(config, arms={**arms, "group_cam": ARMS["group_cam"]}, controls=[], budgets=["steps"])
    plan_augmentation(config)
    assert sorted(timed) == ["group_cam", "plain", "saliency"]
    # What was timed is kept; and another argument of the guide is other work.
    plan_augmentation(config)
    assert len(timed) == 3
    other = given("group_cam", groups=3)
    plan_augmentation(replace(config, arms={**config.arms, "three": other}))
    assert timed[3:] == ["group_cam"]


def test_the_plan_says_how_long_it_will_take(config, timed):
    training = replace(config.training, steps=8, start_epoch=1)
    arms = {"plain": None, "grad_cam": ARMS["grad_cam"], "half": given("grad_cam", probability=0.5)}
    config = replace(config, arms=arms, controls=[], training=training, workers=2)
    plan = plan_augmentation(config)
    rows = parts(plan)
    # Four plain steps and four of twice the cost; in the time of eight plain ones, four and two.
    assert list(rows) == [
        *("costs of steps", "before fine-tuning: 4 steps", "plain: 8 steps (steps and time)"),
        *(
            "grad_cam: 8 steps (steps)",
            "grad_cam: about 6 steps (time)",
            "half: 8 steps (steps)",
            "half: about 7 steps (time)",
        ),
    ]
    # A pass over validation and test images costs a third of training on them.
    tests = PLAIN_SECONDS / 10 / 3 * EVALUATED
    seeds = len(config.seeds)
    for part, steps in (
        *(("plain: 8 steps (steps and time)", 8), ("grad_cam: 8 steps (steps)", 12)),
        *(("grad_cam: about 6 steps (time)", 8), ("half: 8 steps (steps)", 10), ("half: about 7 steps (time)", 8.5)),
    ):
        assert rows[part].seconds == pytest.approx(seeds * (PLAIN_SECONDS * steps + tests))
        assert (rows[part].cells, rows[part].done, rows[part].epochs) == (seeds, 0, seeds * 2)
    assert rows["plain: 8 steps (steps and time)"].passes == seeds * (8 * 10 + EVALUATED)
    assert rows["grad_cam: 8 steps (steps)"].passes == seeds * (8 * 10 + 4 * 20 + EVALUATED)
    # One round of three steps, of which one counts: plain, plain and Grad-CAM, plain and half of it; one at a time.
    assert rows["costs of steps"].seconds / 2 == pytest.approx(3 * PLAIN_SECONDS * (1 + 1 + 2 + 1 + 1.5))
    assert plan.seconds == pytest.approx(sum(row.seconds for row in plan.rows) / 2)
    assert plan.note == "× plain"
    assert [row.note for row in plan.rows] == ["", "1.00", "1.00", "2.00", "2.00", "1.50", "1.50"]
    assert sorted(path.name for path in AugmentationGrid(config).plan_folder.parent.iterdir()) == ["costs"]


def test_the_studys_own_measurement_goes_first(config, timed, monkeypatch):
    def measured(model, data, arms, training, steps, rounds, seed, threads):
        return {"seconds": {name: [1.0 if name == "plain" else 4.0] for name in arms}, "evaluation": 0.0, "epoch": 5}

    monkeypatch.setattr(grid, "measure_steps", measured)
    config = replace(config, arms={name: ARMS[name] for name in ("plain", "grad_cam")}, controls=[])
    config = replace(config, training=replace(config.training, steps=8))
    planned = AugmentationGrid(config)
    run_cells(list(planned.cost_cells.values()), planned.costs_folder, progress=False)
    rows = parts(plan_augmentation(config))
    assert list(rows) == [
        *("costs of steps", "before fine-tuning: 0 steps", "plain: 8 steps (steps and time)"),
        *("grad_cam: 8 steps (steps)", "grad_cam: 2 steps (time)"),
    ]
    assert (rows["costs of steps"].done, rows["costs of steps"].seconds) == (2, 0)
    assert rows["grad_cam: 8 steps (steps)"].seconds == 2 * 32


def test_finished_runs_tell_their_time(config, timed):
    config = replace(config, arms={"plain": None}, controls=[])
    [run] = [run for run in AugmentationGrid(config).runs(costs_of(config)) if run.seed == 0]
    folder = AugmentationGrid(config).folder
    run_cells([run.cell], folder, progress=False)
    kept = json.loads(run.cell.path(folder).read_text())
    run.cell.path(folder).write_text(json.dumps({**kept, "seconds": 77.0}))
    row = parts(plan_augmentation(config))["plain: 2 steps (steps and time)"]
    assert (row.cells, row.done, row.seconds, row.measured) == (2, 1, 77.0, True)


def costs_of(config):
    planned = AugmentationGrid(config)
    return planned.measured_costs(run_cells(list(planned.cost_cells.values()), planned.costs_folder, progress=False))


# With the clock


@pytest.mark.parametrize("name", ["plain", "random_erasing", "mixup", "group_cam", "grad_cam", "cheap"])
def test_every_kind_of_arm_can_be_timed(config, name):
    planned = AugmentationGrid(config)
    work, share = parse_arms(ARMS)[name].work()
    before = torch.get_num_threads()
    found = estimating(work)(planned.models["Net"], planned.data[0], work, config.training, 0, 1)
    assert torch.get_num_threads() == before
    assert found["seconds"] > 0
    assert share == 1.0
    # Of a batch of eight: training; Group-CAM's image, its bare background and two groups; a pass of Grad-CAM.
    assert found["passes"] == {"plain": 8, "group_cam": 8 * 4, "grad_cam": 8}.get(name, 0)
    if name == "plain":
        assert (found["batch"], found["epoch"], found["evaluated"]) == (8, 5, 8 * (1 + 3))


def test_which_function_times_an_arm():
    works = {name: estimating(each.work()[0]) for name, each in parse_arms(ARMS).items()}
    assert [name for name, function in works.items() if function is estimate_step] == ["plain"]
    assert works["mixup"] is works["grad_cam"] is estimate_augmentation


def test_slow_steps_are_timed_with_a_part_of_the_batch():
    assert _number(seconds=10.0, few=_FEW, whole=64, budget=0.5) == _FEW
    assert _number(seconds=0.1, few=2, whole=64, budget=0.5) == 10
    assert _number(seconds=0.0, few=2, whole=64, budget=0.5) == 64


def test_timing_leaves_random_numbers_alone(config):
    torch.manual_seed(3)
    expected = torch.rand(())
    torch.manual_seed(3)
    arms = {name: ARMS[name] for name in ("plain", "mixup", "group_cam")}
    plan = plan_augmentation(replace(config, arms=arms, controls=[]))
    assert torch.rand(()) == expected
    assert plan.seconds > 0


def test_the_economy_of_group_cam_is_part_of_its_share():
    economic = parse_arms({"cheap": arm("group_cam", economy=True)})["cheap"]
    assert economic.work()[1] == 0.15
