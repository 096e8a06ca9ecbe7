"""Whole ROAR and KAR studies in several processes: on Ray, with workers that die, and with Lightning's strategies."""

from __future__ import annotations

import os
import sys

import pytest

from lightning_saliency.studies.roar_kar.run import run_roar_kar
from tests.studies.roar_kar.test_roar_kar import DATA, MODEL

# Any process can import it; the process that dies is never the one that the study was started in.
MORTAL = """
import os
import signal
from pathlib import Path

from lightning_saliency.classifier import ImageClassifier


class Mortal(ImageClassifier):
    def __init__(self, marker, alive, **arguments):
        super().__init__(**arguments)
        self.marker, self.alive = Path(marker), alive

    def on_train_epoch_end(self):
        if os.getpid() == self.alive:
            return
        before = len(list(self.marker.parent.glob(self.marker.name + "*")))
        if before < 3:
            self.marker.with_name(f"{self.marker.name}{before}").touch()
            os.kill(os.getpid(), signal.SIGKILL)
"""


@pytest.fixture
def options(tmp_path, monkeypatch):
    folder = tmp_path / "modules"
    folder.mkdir()
    (folder / "mortal_module.py").write_text(MORTAL)
    monkeypatch.syspath_prepend(str(folder))
    monkeypatch.setenv("PYTHONPATH", str(folder), prepend=os.pathsep)
    return {
        "data": DATA,
        "model": MODEL,
        "explainers": {"cam": "grad_cam"},
        "source": {"cam": "stored"},
        "epochs": 1,
        "modes": ("roar",),
        "fractions": (0.5,),
        "seeds": (0, 1),
        "trainer": {"accelerator": "cpu"},
        "output": str(tmp_path / "out"),
        "examples": 1,
    }


def mortal(options, tmp_path):
    arguments = {"marker": str(tmp_path / "died"), "alive": os.getpid(), **MODEL}
    return {**options, "model": {"class_path": "mortal_module.Mortal", "init_args": arguments}, "network": "model"}


@pytest.mark.thorough
@pytest.mark.slow
@pytest.mark.parametrize("engine", ["local", "ray"])
def test_processes_that_die_in_mid_training_cost_their_cells_only(options, tmp_path, engine):
    alone = run_roar_kar(**options, progress=False)
    options = {**mortal(options, tmp_path), "engine": engine, "retries": 3, "output": str(tmp_path / "killed")}
    if engine == "local":
        study = run_roar_kar(**options, workers=2, progress=False)
    else:
        ray = pytest.importorskip("ray")
        modules = os.pathsep.join(path for path in sys.path if path)
        ray.init(
            num_cpus=2, include_dashboard=False, log_to_driver=False, runtime_env={"env_vars": {"PYTHONPATH": modules}}
        )
        try:
            study = run_roar_kar(**options, progress=False)
        finally:
            ray.shutdown()
    assert len(list(tmp_path.glob("died*"))) == 3
    assert study.accuracies == alone.accuracies
    assert study.unmasked == alone.unmasked


@pytest.mark.thorough
@pytest.mark.slow
def test_a_cell_is_trained_with_ddp_on_two_processes(options):
    trainer = {"accelerator": "cpu", "devices": 2, "strategy": "ddp"}
    options = {**options, "explainers": {}, "source": "auto", "seeds": (0,), "examples": 0, "trainer": trainer}
    result = run_roar_kar(**options, progress=False)
    # Of 20 test images, which the two processes share out.
    for accuracy in (*result.unmasked, *result.accuracies["random"]["roar"][0.5]):
        assert abs(20 * accuracy - round(20 * accuracy)) < 1e-4
