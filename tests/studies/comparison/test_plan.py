"""What a comparison is said to cost before it is run."""

from __future__ import annotations

import pytest
import torch

from lightning_saliency.studies import MetricConfig, plan_comparison, run_comparison
from tests.studies.comparison.test_comparison import GRAD_CAM, METRICS, Net, detection_data


def rise(masks):
    return {"class_path": "rise", "init_args": {"masks": masks, "grid": 3}}


@pytest.fixture
def options(tmp_path):
    explainers = {"random": None, "grad_cam": GRAD_CAM, "rise": rise(9)}
    return {
        "models": Net(),
        "data": detection_data(),
        "explainers": explainers,
        "metrics": METRICS,
        "chunk": 2,
        "output": str(tmp_path),
    }


def test_passes_are_those_that_are_then_counted(options):
    plan = plan_comparison(**options)
    result = run_comparison(**options, progress=False)
    scored = 2 * 5 + 2 + 2  # two curves of five steps, each from its beginning; an image and what is kept of it
    for row, name in zip(plan.rows, options["explainers"], strict=True):
        assert row.part == f"Net: {name}"
        assert (row.cells, row.done) == (3, 0)
        rows = result.rows["Net"][name]
        assert len(rows) == 7
        assert row.passes == pytest.approx(7 * (rows[0]["passes"] + scored))
        assert row.seconds > 0
        assert not row.measured


def test_what_is_done_is_not_planned_again(options):
    run_comparison(**options, progress=False)
    plan = plan_comparison(**options)
    assert (plan.cells, plan.done, plan.seconds) == (9, 9, 0)
    assert all(row.measured for row in plan.rows)


def test_nothing_but_timings_is_run_and_they_are_kept(options, tmp_path, monkeypatch):
    first = plan_comparison(**options)
    assert [path.name for path in tmp_path.iterdir()] == ["costs"]

    def again(*_, **__):
        raise AssertionError("was timed again")

    monkeypatch.setattr("lightning_saliency.studies.comparison.cells.map_cost", again)
    assert plan_comparison(**options).rows == first.rows
    assert plan_comparison(**{**options, "data": detection_data(2)}).seconds < first.seconds


@pytest.mark.parametrize(
    "change",
    [
        {"explainers": {"rise": rise(18)}},
        {"models": Net(7)},
        {"metrics": MetricConfig(steps=5, precision="bf16")},
        {"data": torch.rand(2, 3, 12, 12)},
    ],
)
def test_other_options_are_timed_anew_and_refuse_nothing(options, change):
    options = {**options, "explainers": {"rise": rise(9)}}
    before = plan_comparison(**options)
    changed = plan_comparison(**{**options, **change})
    if "explainers" in change:
        assert changed.passes == before.passes + 7 * 9
    assert plan_comparison(**options).rows == before.rows
