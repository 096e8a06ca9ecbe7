"""Under DeepSpeed, on two CPU processes; ``make test-deepspeed`` installs it."""

import importlib.util
import sys

import pytest

from lightning_saliency.data import SaliencyStore
from tests.callbacks.processes import Run

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(sys.platform == "win32", reason="gloo"),
    pytest.mark.skipif(importlib.util.find_spec("deepspeed") is None, reason="DeepSpeed: make test-deepspeed"),
]


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    folder = tmp_path_factory.mktemp("whole")
    return {task: Run(folder, "ddp", task) for task in ("watched", "hide", "group_cam", "maps", "resumed")}


@pytest.fixture(scope="module")
def alone(tmp_path_factory):
    folder = tmp_path_factory.mktemp("alone")
    return {how: Run(folder, how, "alone").weights for how in ("deepspeed 1", "deepspeed 2", "deepspeed 3")}


@pytest.mark.parametrize("how", ["deepspeed 1", "deepspeed 2"])
def test_where_parameters_are_whole_all_is_as_with_ddp(tmp_path, whole, alone, how):
    watched = Run(tmp_path, how)
    assert watched.weights == alone[how] == whole["watched"].weights
    assert watched.values == whole["watched"].values
    assert watched.frames() == whole["watched"].frames()
    assert {view for view, _ in watched.frames()} == {"combined", "grad_cam", "lovi"}


@pytest.mark.parametrize("how", ["deepspeed 3", "deepspeed 3 late"])
def test_where_parameters_are_spread_all_but_class_views_is_there(tmp_path, whole, alone, how):
    watched = Run(tmp_path, how)
    assert watched.weights == alone["deepspeed 3"]
    assert watched.values == whole["watched"].values
    assert "leaves out the views grad_cam" in watched.told
    assert watched.frames() == {key: frame for key, frame in whole["watched"].frames().items() if key[0] != "grad_cam"}


@pytest.mark.parametrize("how", ["deepspeed 2", "deepspeed 3"])
def test_a_resumed_run_goes_on(tmp_path, whole, how):
    resumed = Run(tmp_path, how, "resumed")
    assert resumed.values == whole["resumed"].values
    assert {epoch for _, epoch in resumed.frames()} == {-1, 0, 1, 2}


@pytest.mark.parametrize("how", ["deepspeed 2", "deepspeed 3"])
def test_validation_alone_is_watched(tmp_path, how):
    # Lightning takes every hook off the module before it hands it to DeepSpeed for validation.
    assert Run(tmp_path / "one", how, "validated").values == Run(tmp_path / "other", "ddp", "validated").values


@pytest.mark.parametrize("task", ["hide", "group_cam"])
def test_images_are_changed_as_with_ddp(tmp_path, whole, task):
    run = Run(tmp_path, "deepspeed 2", task)
    assert (run.weights, run.values) == (whole[task].weights, whole[task].values)


def test_images_are_not_changed_by_a_part_of_a_network(tmp_path):
    assert "spreads the parameters" in Run(tmp_path, "deepspeed 3", "hide by the start", fails=True).told


def test_maps_are_written_by_whole_networks_alone(tmp_path, whole):
    run = Run(tmp_path, "deepspeed 2", "maps")
    maps = [SaliencyStore.open(each.folder / "maps.npy")[:] for each in (run, whole["maps"])]
    assert maps[0].equal(maps[1])
    refused = Run(tmp_path, "deepspeed 3", "maps", fails=True)
    assert "spreads the parameters" in refused.told
    assert not list(refused.folder.glob("maps*"))
