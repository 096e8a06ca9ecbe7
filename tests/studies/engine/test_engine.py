"""Cells computed once, whatever is killed on the way: in this process, in several, and on Ray."""

from __future__ import annotations

import importlib
import json
import multiprocessing
import os
import random
import signal
import time

import pytest

from lightning_saliency.studies import StaleResultsError
from lightning_saliency.studies.engine.run import Cell, CellError, cell_seconds, read_cells, run_cells

# A module that any process can import, whatever the way in which the tests are run.
WORK = """
import os
import signal
import time
from pathlib import Path


def work(value, seconds=0.0, log=None):
    if log is not None:
        with open(log, "a") as file:
            file.write(f"{value}\\n")
    time.sleep(seconds)
    return {"value": value / 3, "list": (1, 2)}


def fail(text):
    raise RuntimeError(text)


def die(marker, times):
    marker = Path(marker)
    before = len(marker.read_text()) if marker.exists() else 0
    if before < times:
        marker.write_text("x" * (before + 1))
        os.kill(os.getpid(), signal.SIGKILL)
    return {"pid": os.getpid()}


def start(marker, times):
    # As Lightning strategies that start processes themselves do.
    import torch.multiprocessing

    torch.multiprocessing.start_processes(_start, (marker, times), nprocs=2, start_method="fork")
    return {"pid": os.getpid()}


def _start(rank, marker, times):
    if rank == 1:
        die(marker, times)


def where(value):
    import torch

    return {"pid": os.getpid(), "threads": torch.get_num_threads(), "gpus": os.environ.get("CUDA_VISIBLE_DEVICES", "")}
"""


@pytest.fixture
def jobs(tmp_path, monkeypatch):
    folder = tmp_path / "modules"
    folder.mkdir()
    (folder / "grid_jobs.py").write_text(WORK)
    monkeypatch.syspath_prepend(str(folder))
    monkeypatch.delitem(importlib.sys.modules, "grid_jobs", raising=False)
    return importlib.import_module("grid_jobs")


def working(jobs, count, **arguments):
    return [Cell(f"cell-{value}", jobs.work, {"value": value, **arguments}, {"value": value}) for value in range(count)]


def test_only_what_is_missing_is_computed(jobs, tmp_path):
    log, folder = tmp_path / "log", tmp_path / "results"
    cells = working(jobs, 3, log=log)
    first = run_cells(cells[:2], folder, progress=False)
    assert first == {"cell-0": {"value": 0.0, "list": [1, 2]}, "cell-1": {"value": 1 / 3, "list": [1, 2]}}
    second = run_cells(cells, folder, progress=False)
    assert list(second) == ["cell-0", "cell-1", "cell-2"]
    assert log.read_text().split() == ["0", "1", "2"]
    record = json.loads((folder / "cell-1.json").read_text())
    assert set(record) == {"fingerprint", "result", "seconds"}
    assert read_cells(cells, folder) == second
    assert set(cell_seconds(cells, folder)) == set(second)


def test_results_of_something_else_are_refused_before_anything_is_computed(jobs, tmp_path):
    log = tmp_path / "log"
    cells = working(jobs, 2, log=log)
    run_cells(cells[1:], tmp_path, progress=False)
    other = [cells[0], Cell("cell-1", jobs.work, cells[1].arguments, {"value": 1, "epochs": 3})]
    with pytest.raises(StaleResultsError, match="the result of other epochs"):
        run_cells(other, tmp_path, progress=False)
    assert log.read_text().split() == ["1"]
    assert read_cells(other, tmp_path) == {}
    # Of another program, torn, and without its result.
    for foreign in ("[1, 2]", '{"fingerprint": {"val', '{"fingerprint": {"value": 0}}'):
        (tmp_path / "cell-0.json").write_text(foreign)
        with pytest.raises(ValueError, match=r"no result or no time of a cell|cannot be read"):
            run_cells(cells[:1], tmp_path, progress=False)


def test_a_cell_that_fails_does_not_keep_the_others_back(jobs, tmp_path):
    cells = [Cell("bad", jobs.fail, {"text": "no good"}, {}), *working(jobs, 2)]
    with pytest.raises(CellError, match=r"(?s)1 of 3 cells could not be computed: bad.*no good") as error:
        run_cells(cells, tmp_path, progress=False)
    assert isinstance(error.value.__cause__, RuntimeError)
    assert set(error.value.failures) == {"bad"}
    assert set(read_cells(cells, tmp_path)) == {"cell-0", "cell-1"}


def test_not_a_number_is_no_result(tmp_path):
    with pytest.raises(CellError, match="Out of range float values"):
        run_cells([Cell("nan", dict, {"value": float("nan")}, {})], tmp_path, progress=False)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"workers": 0}, "workers=0"),
        ({"retries": -1}, "retries=-1"),
        ({"engine": "slurm"}, "engine='slurm'"),
        ({"gpus_per_cell": 1.5}, "gpus_per_cell=1.5"),
        ({"workers": 2, "gpus_per_cell": 4000}, "takes 8000 GPUs"),
    ],
)
def test_what_cannot_be_carried_out_is_said(jobs, tmp_path, options, message):
    with pytest.raises(ValueError, match=message):
        run_cells(working(jobs, 1), tmp_path, progress=False, **options)


def test_names_are_files_and_differ(jobs, tmp_path):
    with pytest.raises(ValueError, match=r"named '\.\./cell'"):
        Cell("../cell", dict, {}, {})
    with pytest.raises(ValueError, match="several cells named cell-0"):
        run_cells(working(jobs, 1) * 2, tmp_path, progress=False)


@pytest.mark.slow
def test_processes_replace_one_another(jobs, tmp_path):
    """Two processes: a cell that kills its process once is computed the second time."""
    cells = [
        Cell("once", jobs.die, {"marker": tmp_path / "once", "times": 1}, {}),
        Cell("bad", jobs.fail, {"text": "no good"}, {}),
        Cell("threads", jobs.where, {"value": 0}, {}),
        *working(jobs, 4, seconds=0.05),
    ]
    with pytest.raises(CellError, match=r"(?s)1 of 7 cells could not be computed: bad.*no good"):
        run_cells(cells, tmp_path / "results", workers=2, progress=False)
    found = read_cells(cells, tmp_path / "results")
    assert len(found) == 6
    assert (tmp_path / "once").read_text() == "x"
    assert found["threads"]["threads"] == 1
    assert found["threads"]["pid"] != os.getpid()


@pytest.mark.thorough
@pytest.mark.slow
def test_a_cell_that_goes_on_killing_its_process_is_given_up(jobs, tmp_path):
    cells = [Cell("always", jobs.die, {"marker": tmp_path / "always", "times": 9}, {}), *working(jobs, 3)]
    with pytest.raises(CellError, match="exit code -9") as error:
        run_cells(cells, tmp_path / "results", workers=2, retries=1, progress=False)
    assert set(error.value.failures) == {"always"}
    assert (tmp_path / "always").read_text() == "xx"
    assert len(read_cells(cells, tmp_path / "results")) == 3


@pytest.mark.skipif(not hasattr(os, "fork"), reason="the cell starts processes by fork")
def test_a_process_that_a_cell_started_may_die(jobs, tmp_path):
    cells = [Cell("once", jobs.start, {"marker": tmp_path / "once", "times": 1}, {})]
    with pytest.raises(CellError, match="terminated with signal SIGKILL"):
        run_cells(cells, tmp_path / "results", retries=0, progress=False)
    (tmp_path / "once").unlink()
    with pytest.warns(RuntimeWarning, match="once: process 1 terminated with signal SIGKILL. It is restarted, 2 more"):
        found = run_cells(cells, tmp_path / "results", progress=False)
    assert found == {"once": {"pid": os.getpid()}}
    always = [Cell("always", jobs.start, {"marker": tmp_path / "always", "times": 9}, {})]
    with pytest.warns(RuntimeWarning), pytest.raises(CellError, match="terminated with signal SIGKILL"):
        run_cells(always, tmp_path / "results", retries=1, progress=False)
    assert (tmp_path / "always").read_text() == "xx"


@pytest.mark.thorough
@pytest.mark.slow
def test_ray_goes_on_when_a_worker_is_killed(jobs, tmp_path):
    ray = pytest.importorskip("ray")
    modules = os.pathsep.join(path for path in importlib.sys.path if path)
    ray.init(
        num_cpus=2, include_dashboard=False, log_to_driver=False, runtime_env={"env_vars": {"PYTHONPATH": modules}}
    )
    try:
        cells = [
            Cell("once", jobs.die, {"marker": tmp_path / "once", "times": 1}, {}),
            Cell("bad", jobs.fail, {"text": "no good"}, {}),
            Cell("where", jobs.where, {"value": 0}, {}),
            *working(jobs, 4),
        ]
        with pytest.raises(CellError, match=r"(?s)1 of 7 cells could not be computed: bad.*no good"):
            run_cells(cells, tmp_path / "results", engine="ray", progress=False)
        found = read_cells(cells, tmp_path / "results")
        assert (tmp_path / "once").read_text() == "x"
        assert found["where"]["threads"] == 1
        assert found["where"]["pid"] != os.getpid()
        alone = run_cells(cells[3:], tmp_path / "alone", progress=False)
        assert {name: found[name] for name in alone} == alone
        assert ray.is_initialized()
        with pytest.raises(ValueError, match="no machine of the Ray cluster has as many"):
            run_cells(working(jobs, 1), tmp_path / "other", engine="ray", cpus_per_cell=4000, progress=False)
    finally:
        ray.shutdown()


def test_without_ray_it_is_said_how_to_get_it(jobs, tmp_path, monkeypatch):
    monkeypatch.setitem(importlib.sys.modules, "ray", None)
    with pytest.raises(ImportError, match=r'pip install "lightning-saliency\[ray\]"'):
        run_cells(working(jobs, 1), tmp_path, engine="ray", progress=False)


def test_visible_devices_are_dealt_out(monkeypatch):
    from lightning_saliency.studies.engine.local import visible_devices

    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "3,5,6")
    assert visible_devices(3, 1) == ["3", "5", "6"]
    assert visible_devices(1, 2) == ["3,5"]
    assert visible_devices(5, 0.5) == ["3", "3", "5", "5", "6"]
    with pytest.raises(ValueError, match="takes 4 GPUs of this machine's 3"):
        visible_devices(2, 2)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="starts the study by fork")
def test_killed_ten_times_over_a_study_ends_as_one_left_alone(jobs, tmp_path):
    cells = working(jobs, 24, seconds=0.02)
    alone = run_cells(cells, tmp_path / "alone", progress=False)
    log = tmp_path / "log"
    cells = working(jobs, 24, seconds=0.02, log=log)
    fork = multiprocessing.get_context("fork")
    moments = random.Random(0)
    killed = 0
    for _ in range(10):
        study = fork.Process(target=run_cells, args=(cells, tmp_path / "killed"), kwargs={"progress": False})
        study.start()
        time.sleep(moments.uniform(0.01, 0.09))
        study.kill()
        study.join()
        killed += study.exitcode == -signal.SIGKILL
        assert read_cells(cells, tmp_path / "killed").items() <= alone.items()
    assert killed == 10
    assert run_cells(cells, tmp_path / "killed", progress=False) == alone
    # What was done was not done again: beyond the cells themselves, at most the one of each kill.
    assert len(log.read_text().split()) <= 24 + 10


@pytest.mark.slow
def test_processes_end_with_a_killed_study(jobs, tmp_path):
    cells = [
        Cell(f"long-{number}", jobs.work, {"value": 1, "seconds": 60, "log": tmp_path / "log"}, {}) for number in (0, 1)
    ]
    study = multiprocessing.get_context("spawn").Process(
        target=run_cells, args=(cells, tmp_path / "results"), kwargs={"workers": 2, "progress": False}
    )
    study.start()
    deadline = time.monotonic() + 120
    while not (tmp_path / "log").exists() and time.monotonic() < deadline:
        time.sleep(0.1)
    children = _children(study.pid)
    study.kill()
    study.join()
    assert children
    deadline = time.monotonic() + 50  # the cells themselves would take 60 seconds
    while any(map(_alive, children)) and time.monotonic() < deadline:
        time.sleep(0.1)
    assert not any(map(_alive, children))


def _children(pid):
    found = []
    for task in os.listdir(f"/proc/{pid}/task"):
        with open(f"/proc/{pid}/task/{task}/children") as file:
            found += [int(child) for child in file.read().split()]
    return found


def _alive(pid):
    try:
        with open(f"/proc/{pid}/stat") as file:
            return file.read().rpartition(")")[2].split()[0] not in "ZX"
    except FileNotFoundError:
        return False
