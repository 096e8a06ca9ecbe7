"""Comparisons in several processes and on Ray give the table of one process."""

from __future__ import annotations

import multiprocessing
import os
import signal
import sys
import time

import pytest
import torch

from lightning_saliency.explainers import GradCAM
from lightning_saliency.studies import MetricConfig, run_comparison
from tests.studies.comparison.test_comparison import results

METRICS = MetricConfig(steps=4)
DATA = {
    "class_path": "lightning_saliency.data.DigitScenes",
    "init_args": {"train_size": 4, "val_size": 4, "test_size": 6, "size": 32, "batch_size": 4},
}
OPTIONS = {
    "models": {"tiny": {"model": "small_cnn", "num_classes": 10}},
    "data": DATA,
    "explainers": {"cam": None, "random": None},
    "metrics": METRICS,
    "chunk": 2,
    "resamples": 20,
    "progress": False,
}


@pytest.fixture
def options(tmp_path):
    from lightning_saliency.networks import build_network

    torch.save(build_network("small_cnn", 10).state_dict(), tmp_path / "weights.pth")
    model = {"model": "small_cnn", "num_classes": 10, "checkpoint": str(tmp_path / "weights.pth")}
    return {**OPTIONS, "models": {"tiny": model}, "explainers": {"cam": GradCAM, "random": None}}


def same(one, other):
    assert results(one) == results(other)
    assert [list(row) for row in one.rows.values()] == [list(row) for row in other.rows.values()]
    for network, methods in one.estimates.items():
        for name, estimates in methods.items():
            for key in set(estimates) - {"seconds"}:
                assert other.estimates[network][name][key] == estimates[key]


@pytest.mark.slow
def test_two_processes_give_the_table_of_one(options, tmp_path):
    alone = run_comparison(**options)
    same(run_comparison(**options, workers=2, output=str(tmp_path / "two")), alone)
    # A network and images in memory are written once, and taken away when all is done.
    from lightning_saliency.classifier import ImageClassifier

    network = ImageClassifier(**options["models"]["tiny"]).model
    images = torch.rand(4, 3, 32, 32)
    live = {**options, "models": network, "data": images, "targets": torch.tensor([1, 2, 3, 4])}
    shared = run_comparison(**live, workers=2, output=str(tmp_path / "live"))
    same(shared, run_comparison(**live))
    assert not (tmp_path / "live" / "shared").exists()


def test_what_cannot_be_sent_is_said(options, tmp_path):
    class Local(torch.nn.Sequential):
        pass

    network = Local(torch.nn.Conv2d(3, 4, 3), torch.nn.AdaptiveAvgPool2d(1), torch.nn.Flatten())
    live = {**options, "models": network, "data": torch.rand(2, 3, 8, 8), "explainers": ["random"]}
    assert len(run_comparison(**live).rows["Local"]["random"]) == 2
    with pytest.raises(TypeError, match="cannot be sent to other processes"):
        run_comparison(**live, workers=2, output=str(tmp_path))


@pytest.mark.slow
@pytest.mark.skipif(not hasattr(signal, "SIGKILL"), reason="there is no SIGKILL")
def test_killed_in_mid_work_it_ends_with_the_same_results(options, tmp_path):
    alone = run_comparison(**options)
    cells = tmp_path / "killed" / "cells"
    arguments = {**options, "output": str(tmp_path / "killed")}
    # Slow enough to be killed between its first cell and its last.
    study = multiprocessing.get_context("spawn").Process(target=run_slowly, kwargs=arguments)
    study.start()
    deadline = time.monotonic() + 120
    while len(list(cells.glob("*.json"))) < 2 and study.is_alive() and time.monotonic() < deadline:
        time.sleep(0.02)
    study.kill()
    study.join()
    assert study.exitcode == -signal.SIGKILL
    before = {path.name: path.stat().st_mtime_ns for path in cells.glob("*.json")}
    assert 2 <= len(before) < 6
    same(run_comparison(**arguments), alone)
    after = {path.name: path.stat().st_mtime_ns for path in cells.glob("*.json")}
    assert len(after) == 6
    assert {name: after[name] for name in before} == before


def run_slowly(**arguments):
    """A comparison of which every cell takes half a second more."""
    from lightning_saliency.studies.comparison import cells

    measure = cells.measure

    def slow(*given):
        time.sleep(0.5)
        return measure(*given)

    cells.measure = slow
    run_comparison(**arguments)


@pytest.mark.thorough
@pytest.mark.slow
def test_ray_gives_the_table_of_one(options, tmp_path):
    ray = pytest.importorskip("ray")
    modules = os.pathsep.join(path for path in sys.path if path)
    ray.init(
        num_cpus=2, include_dashboard=False, log_to_driver=False, runtime_env={"env_vars": {"PYTHONPATH": modules}}
    )
    try:
        found = run_comparison(**options, engine="ray", output=str(tmp_path / "ray"))
    finally:
        ray.shutdown()
    same(found, run_comparison(**options))
