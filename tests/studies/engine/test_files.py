"""Atomic writing, weights' fingerprint, bootstrap, and promised time: the parts of a comparison."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from matplotlib.figure import Figure
from torch import nn

from lightning_saliency.files import write_atomically
from lightning_saliency.networks import weights_fingerprint
from lightning_saliency.studies.engine.cell import Cell, compute_cell, read_record
from lightning_saliency.studies.engine.config import EngineConfig
from lightning_saliency.studies.engine.files import write_results
from lightning_saliency.studies.engine.progress import TimeLeft
from lightning_saliency.studies.engine.run import run_cells
from lightning_saliency.studies.engine.shared import cached, sharing
from lightning_saliency.studies.estimates import bootstrap_mean


def test_a_failed_write_leaves_the_file_as_it_was(tmp_path, monkeypatch):
    path = tmp_path / "table.md"
    write_atomically(path, "first")

    def fail(*_):
        raise OSError("full")

    monkeypatch.setattr("os.replace", fail)
    with pytest.raises(OSError, match="full"):
        write_atomically(path, "second")
    assert path.read_text() == "first"
    assert list(tmp_path.iterdir()) == [path]


def test_the_weights_fingerprint_sees_values_and_modules():
    first, second = nn.Sequential(nn.Linear(2, 2), nn.ReLU()), nn.Sequential(nn.Linear(2, 2), nn.GELU())
    second.load_state_dict(first.state_dict())
    before = weights_fingerprint(first)
    assert before == weights_fingerprint(first)
    assert before != weights_fingerprint(second)
    with torch.no_grad():
        first[0].bias[1] += 1e-6
    assert before != weights_fingerprint(first)
    assert weights_fingerprint(nn.BatchNorm2d(3))  # a buffer without dimensions


def test_bootstrap_equals_drawing_image_by_image():
    values, images, classes = [1.0, 0.0, 0.0, 1.0, 1.0, 0.0], [3, 3, 5, 8, 8, 9], list("abacba")
    estimate = bootstrap_mean(values, images, classes, resamples=200, confidence=0.9, seed=5)
    draws = np.random.default_rng(5).integers(0, 4, (200, 4))
    means = []
    for draw in draws:
        drawn = [
            (value, label)
            for place in draw
            for value, image, label in zip(values, images, classes, strict=True)
            if image == (3, 5, 8, 9)[place]
        ]
        found = sorted({label for _, label in drawn})
        means.append(np.mean([np.mean([value for value, other in drawn if other == label]) for label in found]))
    assert estimate.value == pytest.approx((1 / 3 + 0.5 + 1) / 3)
    assert (estimate.low, estimate.high) == pytest.approx(tuple(np.quantile(means, [0.05, 0.95])))
    assert estimate.count == 6
    assert bootstrap_mean(values, images, classes, resamples=200, confidence=0.9, seed=5) == estimate
    normal = np.random.default_rng(0).normal(size=30).tolist()
    first, second = (bootstrap_mean(normal, list(range(30)), resamples=50, seed=seed) for seed in (5, 6))
    assert first.value == second.value
    assert first.low != second.low


def test_the_interval_covers_the_mean_about_as_often_as_it_says():
    rng = np.random.default_rng(0)
    hits = 0
    for seed in range(200):
        estimate = bootstrap_mean(rng.normal(2.0, 1.0, 40).tolist(), list(range(40)), resamples=400, seed=seed)
        hits += estimate.low <= 2.0 <= estimate.high
    assert 0.88 <= hits / 200 <= 0.99


def test_bootstrap_refuses_nothing_to_average():
    with pytest.raises(ValueError, match="no value"):
        bootstrap_mean([], [])
    with pytest.raises(ValueError, match="share in"):
        bootstrap_mean([1.0], [0], confidence=95)


def test_the_promise_after_the_first_chunk_holds_for_cells_of_very_different_cost():
    costs = {"random": 0.4, "grad_cam": 0.5, "rise": 90.0, "sise": 20.0}
    left = TimeLeft(dict.fromkeys(costs, 50))
    for cell, cost in list(costs.items())[:-1]:
        left.record(cell, 1, cost)
        assert left.seconds() is None
    left.record("sise", 1, costs["sise"])
    assert left.seconds() == pytest.approx(49 * sum(costs.values()))
    assert left.share_done() == pytest.approx(1 / 50)
    for cell, cost in costs.items():
        left.record(cell, 49, 49 * cost)
    assert left.seconds() == 0
    assert left.share_done() == 1


@pytest.mark.parametrize("name", ["report.html", "results.csv", "curves.png"])
def test_results_take_the_place_of_no_file_of_somebody_else(tmp_path, name):
    figure = Figure()
    files = {
        "report.html": "<p>",
        "results.csv": "a,b",
        "curves.png": figure,
        "masks.png": np.zeros((2, 3, 3), np.uint8),
    }
    for _ in range(2):
        written = write_results(tmp_path / "ours", files)
        assert [path.name for path in written] == list(files)
        assert (tmp_path / "ours" / "curves.png").read_bytes()[1:4] == b"PNG"
    theirs = tmp_path / "theirs"
    theirs.mkdir()
    (theirs / name).write_text("precious")
    with pytest.raises(ValueError, match=f"{name}, which was not written here"):
        write_results(theirs, files)
    assert {path.name: path.read_text() for path in theirs.iterdir()} == {name: "precious"}


@pytest.mark.parametrize("content", ["my notes", "[1, 2]", '{"result": {}}', ""])
def test_a_foreign_file_in_the_place_of_a_cell_is_refused_and_kept(tmp_path, content):
    cell = Cell("net__grad_cam", dict, {"a": 1}, {"b": 2})
    cell.path(tmp_path).write_text(content)
    for use in (compute_cell, read_record, lambda cell, folder: run_cells([cell], folder, progress=False)):
        with pytest.raises(ValueError, match=r"net__grad_cam\.json.*Move it away"):
            use(cell, tmp_path)
    assert cell.path(tmp_path).read_text() == content


def test_files_beside_those_that_cells_share_are_kept(tmp_path):
    (tmp_path / "shared").mkdir()
    (tmp_path / "shared" / "notes.txt").write_text("precious")
    for _ in range(2):
        with sharing(tmp_path, elsewhere=True) as share:
            assert Path(share("value", [1, 2]).path).is_file()
        assert [path.name for path in (tmp_path / "shared").iterdir()] == ["notes.txt"]
    with sharing(tmp_path / "own", elsewhere=True) as share:
        share("value", [1, 2])
    assert list((tmp_path / "own").iterdir()) == []


def test_what_is_shared_is_kept_however_much_is_built(tmp_path):
    value = object()
    with sharing(tmp_path, elsewhere=False) as share:
        shared = share("value", value)
        with sharing(tmp_path, elsewhere=False) as share_more:
            other = share_more("value", object())
        for number in range(100):
            cached(f"built {number}", lambda: [0])
        assert shared.get() is value
        with pytest.raises(RuntimeError, match="was shared in another process"):
            other.get()
    with pytest.raises(RuntimeError, match="was shared in another process"):
        shared.get()


def test_results_do_not_go_to_a_remote_store(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    cell = Cell("a", dict, {"a": 1}, {})
    for use in (
        lambda: run_cells([cell], "s3://bucket/out", progress=False),
        lambda: write_results(Path("memory://out"), {"a.md": ""}),
        lambda: EngineConfig(output="gs://bucket/out").folder,
    ):
        with pytest.raises(ValueError, match="on no disk of this machine"):
            use()
    assert list(tmp_path.iterdir()) == []
