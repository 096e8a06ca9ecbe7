"""Arms that are trained longer than the others: plain training of no less time than an arm whose maps cost some."""

from dataclasses import replace

import pytest

from lightning_saliency.studies.augmentation.costs import StepCost
from lightning_saliency.studies.augmentation.grid import AugmentationGrid
from lightning_saliency.studies.augmentation.run import plan_augmentation, run_augmentation
from tests.studies.augmentation.small import ARMS


@pytest.fixture
def longer(config):
    """Four steps, six of plain training for longer."""
    arms = {"plain": None, "plain, longer": "plain", "grad_cam": ARMS["grad_cam"]}
    training = replace(config.training, steps=4)
    lengths = {"plain, longer": 1.5}
    return replace(config, arms=arms, controls=[], training=training, lengths=lengths, budgets=["steps"], seeds=[0])


def test_an_arm_is_trained_for_its_length(longer):
    shorter = replace(longer, lengths={})
    assert {run.arm: run.steps for run in AugmentationGrid(longer).runs({})} == {
        "plain": 4,
        "plain, longer": 6,
        "grad_cam": 4,
    }
    assert {run.steps for run in AugmentationGrid(shorter).runs({})} == {4}
    found = run_augmentation(longer, progress=False)
    runs = found.runs["Net"]["steps"]
    assert {arm: runs[arm][0]["steps"] for arm in longer.arms} == {"plain": 4, "plain, longer": 6, "grad_cam": 4}
    # Its schedule ends with its own last step, so that it is another training from the first step on.
    assert runs["plain, longer"][0]["loss"] != runs["plain"][0]["loss"]
    assert "4 steps; plain, longer: 6." in found.caption


def test_the_plan_counts_the_steps_of_each_arm(longer):
    rows = {row.part: row for row in plan_augmentation(longer).rows}
    plain, more = rows["plain: 4 steps (steps)"], rows["plain, longer: 6 steps (steps)"]
    assert more.passes > plain.passes
    assert more.seconds > plain.seconds


def test_steps_beyond_the_planned_ones_cost_as_the_last():
    cost = StepCost(None, [1.0, 2.0, 4.0], [1.0] * 3, 0.0)
    assert [cost.seconds_of(steps) for steps in (2, 3, 5)] == [3.0, 7.0, 15.0]


@pytest.mark.parametrize(
    ("lengths", "match"),
    [
        ({"plain, for ever": 2.0}, "plain, for ever.*plain, longer"),
        ([1.5], "mapping"),
        ({"plain": 0.0}, "above 0"),
        ({"plain": float("inf")}, "above 0"),
        ({"plain": 0.1}, "one step at least"),
    ],
)
def test_wrong_lengths(longer, lengths, match):
    with pytest.raises(ValueError, match=match):
        replace(longer, lengths=lengths)
