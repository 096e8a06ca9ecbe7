"""Rows that are the mean of several runs, and an explainer at several values of an option."""

from __future__ import annotations

import pytest
import torch
from matplotlib.colors import to_rgba

from lightning_saliency.reports.plots import sweep_plot
from lightning_saliency.reports.tables import Column, Estimate
from lightning_saliency.studies import MetricConfig, run_comparison
from lightning_saliency.studies.comparison.config import ComparisonConfig
from lightning_saliency.studies.comparison.results import decoded_map
from lightning_saliency.studies.comparison.run import plan_comparison
from tests.studies.comparison.test_comparison import Net, detection_data

IMAGES = torch.rand(2, 3, 10, 10)
RISE = {"class_path": "rise", "init_args": {"masks": 6}}


def compared(**options):
    metrics = {"tolerances": [0], "steps": 5}
    return run_comparison(models=Net(), data=detection_data(), metrics=metrics, progress=False, **options)


def test_a_row_is_the_mean_of_its_runs():
    alone = {f"seed {seed}": {"class_path": "rise", "init_args": {"masks": 6, "seed": seed}} for seed in (3, 4)}
    runs = compared(explainers={**alone, "random": None}).rows["Net"]
    first = {"class_path": "rise", "init_args": {"masks": 6, "seed": 3}}
    result = compared(explainers={"rise": first, "random": None}, repeats={"rise": 2}, pairs=[("rise", "random")])
    found = result.rows["Net"]
    assert list(found) == ["rise", "random"]
    assert len(found["rise"]) == len(runs["seed 3"])
    for mean, one, two in zip(found["rise"], runs["seed 3"], runs["seed 4"], strict=True):
        assert one["scores"] != two["scores"]
        for key, value in mean["scores"].items():
            assert value == pytest.approx((one["scores"][key] + two["scores"][key]) / 2)
        for key, curve in mean["curves"].items():
            assert curve == pytest.approx(
                [(a + b) / 2 for a, b in zip(one["curves"][key], two["curves"][key], strict=True)]
            )
        middle = (decoded_map(one["map"]) + decoded_map(two["map"])) / 2
        assert torch.allclose(decoded_map(mean["map"]), middle, atol=1 / 255)
        assert mean["passes"] == one["passes"]
    assert "mean of 2 runs" in result.caption
    assert "rise − random" in str(result)


def test_a_sweep_is_a_row_a_value_and_a_plot(tmp_path):
    result = compared(
        explainers={"rise": RISE, "random": None}, sweeps={"rise": {"masks": [2, 4]}}, output=str(tmp_path / "study"),
        pairs=[("rise, masks=4", "rise, masks=2")],
    )  # fmt: skip
    assert {name: rows[0]["passes"] for name, rows in result.rows["Net"].items()} == {
        "rise, masks=2": 2, "rise, masks=4": 4, "random": 0,
    }  # fmt: skip
    names = {path.name for path in result.save()}
    assert "sweep_Net.png" in names
    page = (tmp_path / "study" / "report.html").read_text()
    assert "Every metric over masks of rise" in page


def test_sweep_and_repeats_go_together():
    config = ComparisonConfig(
        models=Net(), data=detection_data(), explainers={"rise": RISE, "smoe": None},
        sweeps={"rise": {"masks": [2, 4]}}, repeats={"rise": 2},
    )  # fmt: skip
    assert {name: list(runs) for name, runs in config.runs.items()} == {
        "rise, masks=2": ["rise, masks=2, seed=0", "rise, masks=2, seed=1"],
        "rise, masks=4": ["rise, masks=4, seed=0", "rise, masks=4, seed=1"],
        "smoe": ["smoe"],
    }
    assert [run.option("masks") for run in config.runs["rise, masks=4"].values()] == [4, 4]


def test_without_leaves_all_values_and_runs_out():
    options = {"models": Net(), "data": detection_data(), "explainers": {"rise": RISE, "random": None}}
    config = ComparisonConfig(
        **options, sweeps={"rise": {"masks": [2, 4]}}, without=["rise"], pairs=[("rise, masks=2", "random")]
    )
    assert (list(config.runs), config.pairs, config.swept) == (["random"], [], [])


def test_a_plan_counts_every_run(tmp_path):
    options = {
        "models": Net(),
        "data": detection_data(),
        "explainers": {"rise": RISE},
        "metrics": MetricConfig(["drop"]),
    }
    plan = plan_comparison(**options, repeats={"rise": 3}, output=str(tmp_path))
    assert [row.part for row in plan.rows] == [f"Net: rise, seed={seed}" for seed in range(3)]


@pytest.mark.parametrize(
    ("sweeps", "repeats", "error", "message"),
    [
        ({"rize": {"masks": [2, 4]}}, {}, ValueError, "Did you mean"),
        ({"rise": {"masks": [2]}}, {}, ValueError, "one option with two values or more"),
        ({"rise": {"masks": [2, 4], "seed": [0, 1]}}, {}, ValueError, "one option with two values or more"),
        ({"rise": [2, 4]}, {}, ValueError, "one option with two values or more"),
        ({"rise": {"mask": [2, 4]}}, {}, TypeError, "Did you mean 'masks'"),
        ({}, {"rise": 0}, ValueError, "repeats of rise"),
        ({"rise": {"masks": [2, 4, 2]}}, {}, ValueError, "make the row 'rise, masks=2' twice"),
        ({}, {"rise": 3}, ValueError, "make the row 'rise, seed=2' twice"),
        ({}, {"smoe": 2}, TypeError, "has no option seed"),
        ({}, {"sise": 2}, ValueError, "Got repeats of sise"),
    ],
)
def test_mistakes_are_told(sweeps, repeats, error, message):
    explainers = {"rise": RISE, "smoe": None, "rise, seed=2": RISE}
    with pytest.raises(error, match=message):
        ComparisonConfig(models=Net(), data=IMAGES, explainers=explainers, sweeps=sweeps, repeats=repeats)


def test_a_plot_of_a_sweep_shows_means_and_intervals():
    columns = [
        Column("drop", "Drop%", "low", "against the network"),
        Column("ebpg", "EBPG", "high", "against the boxes"),
    ]
    rows = [(None, {"drop": Estimate(4.0, 3.0, 5.0, 9)}), (8, {"drop": Estimate(2.0, 1.0, 2.5, 9)})]
    figure = sweep_plot(columns, rows, "groups", "Net")
    panel, empty = figure.axes[:2]
    assert [tuple(point) for point in panel.lines[0].get_xydata()] == [(0, 4.0), (1, 2.0)]
    assert [tick.get_text() for tick in panel.get_xticklabels()] == ["null", "8"]
    band = panel.collections[0].get_paths()[0].vertices
    assert {(0.0, 3.0), (0.0, 5.0), (1.0, 1.0), (1.0, 2.5)} <= {tuple(point) for point in band.tolist()}
    assert panel.collections[0].get_alpha() == to_rgba("#0000", 0.2)[3]
    assert panel.get_title() == "Drop% ↓"
    assert len(empty.lines[0].get_xydata()) == 0
