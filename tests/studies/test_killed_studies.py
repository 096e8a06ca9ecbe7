"""A sanity check and a layer-masking study that are killed and started again give the result of one that was not.

The other three: ``comparison/test_processes.py``, ``augmentation/test_processes.py``, ``roar_kar/test_roar_kar.py``.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time

import pytest
import torch

from lightning_saliency.networks import build_network
from tests.paths import ROOT

SCENES = {
    "class_path": "lightning_saliency.data.DigitScenes",
    "init_args": {"train_size": 64, "val_size": 10, "test_size": 40, "size": 32, "batch_size": 32},
}
MODEL = {"model": "small_cnn", "num_classes": 10}
STUDIES = {
    "sanity-check": {"explainers": ["smoe", "grad_cam"], "limit": 4, "max_steps": 3, "random_networks": 2},
    "layer-masking": {"epochs": 1, "fine_tuning_epochs": 1, "seeds": [0]},
}
TABLES = {
    "sanity-check": ["table.md", "similarities.csv"],
    "layer-masking": ["layer_masking_table.md", "layer_masking_accuracies.csv", "layer_masking_differences.csv"],
}


def begin(command, config):
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    arguments = [sys.executable, "-m", "lightning_saliency", command, "--config", str(config)]
    return subprocess.Popen(arguments, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)


def finish(command, config):
    study = begin(command, config)
    errors = study.communicate(timeout=300)[1].decode()
    assert study.returncode == 0, errors


def cells(output):
    """The results of cells; those of timings, and the result as a whole, are no part of the work."""
    return {path: path.stat().st_mtime_ns for path in output.rglob("*.json") if path.parent != output}


@pytest.mark.thorough
@pytest.mark.slow
@pytest.mark.skipif(not hasattr(signal, "SIGKILL"), reason="there is no SIGKILL")
@pytest.mark.parametrize("command", STUDIES)
def test_a_killed_study_goes_on_to_the_same_result(command, tmp_path):
    weights = tmp_path / "weights.pth"
    torch.manual_seed(0)
    torch.save(build_network("small_cnn", 10).state_dict(), weights)
    model = {**MODEL, "checkpoint": str(weights)} if command == "sanity-check" else MODEL
    options = {"data": SCENES, "model": model, "workers": 1, **STUDIES[command]}
    configs = {}
    for name in ("killed", "whole"):
        configs[name] = tmp_path / f"{name}.yaml"
        configs[name].write_text(json.dumps({**options, "output": str(tmp_path / name)}))
    finish(command, configs["whole"])
    study = begin(command, configs["killed"])
    while study.poll() is None and len(cells(tmp_path / "killed")) < 2:
        time.sleep(0.01)
    study.kill()
    study.communicate()
    assert study.returncode == -signal.SIGKILL
    kept = cells(tmp_path / "killed")
    assert 0 < len(kept) < len(cells(tmp_path / "whole"))
    finish(command, configs["killed"])
    after = cells(tmp_path / "killed")
    assert {path: after[path] for path in kept} == kept
    for name in TABLES[command]:
        assert (tmp_path / "killed" / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()
