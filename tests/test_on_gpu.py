"""The script for a machine with a GPU: what it reports, and that its checks hold in small on the CPU."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from benchmarks import on_gpu
from benchmarks._gpu_checks import SCORING, checks
from benchmarks._gpu_ratios import ratios
from lightning_saliency import metrics
from lightning_saliency.explainers import CONTROL_MAPS, EXPLAINERS
from lightning_saliency.functional.statistics import STATISTICS


def report(tmp_path: Path, seconds: float = 60.0) -> on_gpu.Report:
    return on_gpu.Report(tmp_path / "results" / "on_gpu.json", "pretended", seconds)


def fail() -> Any:
    raise RuntimeError("no kernel image")


def absent() -> Any:
    raise ImportError("No module named 'captum'")


def test_everything_is_written_and_printed_and_nothing_stops_the_rest(tmp_path: Path, capsys: Any) -> None:
    made = report(tmp_path)
    made.check("good", lambda: (True, "as on the CPU"))
    made.check("bad", lambda: (False, "other maps"))
    made.check("broken", fail)
    made.check("absent", absent)
    made.measure("ratios", lambda: {"a": {"value": 0.5, "at_most": 0.6}, "b": {"value": 0.5, "at_least": 0.6}})
    made.measure("no ratios", fail)
    written = json.loads(made.path.read_text())
    assert {name: entry["holds"] for name, entry in written["checks"].items()} == {
        "good": True,
        "bad": False,
        "broken": False,
        "no ratios": False,
    }
    assert "no kernel image" in written["checks"]["broken"]["text"]
    assert "test_on_gpu.py" in written["checks"]["broken"]["text"]
    assert written["not_run"] == {"absent": "No module named 'captum'"}
    assert (written["ratios"]["a"]["met"], written["ratios"]["b"]["met"]) == (True, False)
    assert made.failed == ["bad", "broken", "no ratios"]
    shown = capsys.readouterr().out
    assert "absent: not run, No module named" in shown
    assert "b: 0.5 (at least 0.6: NOT met)" in shown


def test_nothing_is_begun_when_the_time_is_over(tmp_path: Path) -> None:
    made = report(tmp_path, seconds=-1.0)
    made.check("late", fail)
    assert made.checks == {}
    assert "minutes were over" in json.loads(made.path.read_text())["not_run"]["late"]


def test_packages_that_are_not_there_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    assert on_gpu.missing_packages() == []

    def version(name: str) -> str:
        if name in ("rich", "jsonargparse"):
            raise on_gpu.importlib.metadata.PackageNotFoundError(name)
        return "1"

    monkeypatch.setattr(on_gpu.importlib.metadata, "version", version)
    assert sorted(line.partition(">")[0] for line in on_gpu.missing_packages()) == ["jsonargparse[signatures]", "rich"]


def test_a_machine_without_a_gpu_says_so(monkeypatch: pytest.MonkeyPatch, capsys: Any, tmp_path: Path) -> None:
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    assert on_gpu.main(["--out", str(tmp_path)]) == 2
    assert "with --cpu" in capsys.readouterr().err


def test_every_explainer_statistic_and_metric_is_checked() -> None:
    names = checks("cuda")
    assert {f"statistic {name}" for name in STATISTICS} <= set(names)
    assert {f"explainer {name}" for name in (*EXPLAINERS, *CONTROL_MAPS)} <= set(names)
    assert {f"metric {name}" for name in metrics.__all__} <= set(names)
    assert {f"out of memory, pretended: {name}" for name in SCORING} <= set(names)
    assert sum(name.startswith("monitor, ") for name in names) == 5
    assert set(ratios("cuda")) - set(ratios("cpu")) == {"synchronisations of a validation batch"}


FEW = (
    "statistic smoe_scale",
    "explainers on volumes",
    "metric PointingGame",
    "out of memory, pretended: sise",
)


@pytest.mark.parametrize("name", FEW)
def test_checks_hold_in_small(name: str) -> None:
    holds, text = checks("cpu")[name]()
    assert holds, text


@pytest.mark.thorough
@pytest.mark.slow
def test_the_whole_in_small(tmp_path: Path, capsys: Any) -> None:
    assert on_gpu.main(["--cpu", "--out", str(tmp_path)]) == 0, capsys.readouterr().out
    written = json.loads((tmp_path / "on_gpu.json").read_text())
    assert all(entry["holds"] for entry in written["checks"].values())
    assert set(written["not_run"]) <= {"explainer xrai"}
    assert len(written["ratios"]) > 15
