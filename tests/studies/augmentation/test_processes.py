"""Whole comparisons in several processes, and of a process that is killed: the same results."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import asdict, replace
from pathlib import Path

import pytest
import torch

from lightning_saliency.studies.augmentation.run import AugmentationConfig, run_augmentation
from tests.studies.augmentation.small import ARMS

RUN = """
import json, sys
import torch
from lightning_saliency.studies.augmentation.run import run_augmentation

torch.set_num_threads(1)
run_augmentation(**json.loads(sys.argv[1]), progress=False)
"""


@pytest.fixture
def config(config):
    """Equal steps alone: how many take equal time is measured anew in each study."""
    arms = {name: ARMS[name] for name in ("plain", "mixup", "grad_cam")}
    return replace(config, arms=arms, controls=[], budgets=["steps"])


@pytest.fixture
def one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def accuracies(result):
    return {
        arm: {seed: (run["accuracy"], run["loss"], run["val"]) for seed, run in seeds.items()}
        for arm, seeds in result.runs["Net"]["steps"].items()
    }


@pytest.mark.slow
def test_a_killed_comparison_goes_on(config, one_thread, tmp_path):
    alone = run_augmentation(config, progress=False)
    killed = {**asdict(config), "output": str(tmp_path / "killed")}
    runs = tmp_path / "killed" / "runs"
    process = subprocess.Popen([sys.executable, "-c", RUN, json.dumps(killed)], cwd=Path.cwd())
    try:
        until = time.monotonic() + 120
        while time.monotonic() < until and process.poll() is None and len(list(runs.glob("*.json"))) < 2:
            time.sleep(0.005)
        os.kill(process.pid, signal.SIGKILL)
    finally:
        process.kill()
        assert process.wait() == -signal.SIGKILL
    done = {path: path.read_bytes() for path in runs.glob("*.json")}
    assert 2 <= len(done) < 6
    resumed = run_augmentation(AugmentationConfig(**killed), progress=False)
    assert accuracies(resumed) == accuracies(alone)
    # What there was was not computed again.
    assert {path: path.read_bytes() for path in done} == done


@pytest.mark.thorough
@pytest.mark.slow
@pytest.mark.parametrize("engine", ["local", "ray"])
def test_two_workers_find_what_one_does(config, one_thread, tmp_path, engine):
    alone = run_augmentation(config, progress=False)
    elsewhere = replace(config, output=str(tmp_path / engine), engine=engine, workers=2 if engine == "local" else 1)
    if engine == "local":
        result = run_augmentation(elsewhere, progress=False)
    else:
        ray = pytest.importorskip("ray")
        modules = os.pathsep.join(path for path in sys.path if path)
        ray.init(
            num_cpus=2, include_dashboard=False, log_to_driver=False, runtime_env={"env_vars": {"PYTHONPATH": modules}}
        )
        try:
            result = run_augmentation(elsewhere, progress=False)
        finally:
            ray.shutdown()
    assert accuracies(result) == accuracies(alone)
    # Steps were timed where the arms were trained.
    [cost] = (tmp_path / engine / "step_costs").glob("Net*__mixup.json")
    assert json.loads(cost.read_text())["fingerprint"]["cost"]["engine"] == engine
