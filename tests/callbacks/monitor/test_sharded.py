"""A network whose parameters are spread over two processes is watched as a whole one is."""

import sys

import pytest

from tests.callbacks.processes import Run

pytestmark = [pytest.mark.slow, pytest.mark.skipif(sys.platform == "win32", reason="gloo")]
SCALARS = ("drift", "energy_in_box", "pointing_game", "position_bias", "content_bias")


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    return Run(tmp_path_factory.mktemp("whole"), "ddp")


@pytest.mark.parametrize(
    "how",
    [
        "sharded",
        pytest.param("fsdp", marks=pytest.mark.thorough),
        pytest.param("fsdp, flat", marks=pytest.mark.thorough),
    ],
)
def test_film_and_scalars_are_those_of_a_whole_network(tmp_path, whole, how):
    run = Run(tmp_path, how)
    assert set(whole.values) == {f"saliency/{name}" for name in SCALARS}
    assert run.values == pytest.approx(whole.values, abs=1e-6)
    assert "leaves out the views grad_cam" in run.told
    expected = {(view, epoch) for view in ("combined", "lovi") for epoch in (-1, 0, 1)}
    assert run.frames() == {frame: whole.frames()[frame] for frame in expected}


@pytest.mark.thorough
@pytest.mark.parametrize("how", ["sharded", "fsdp", "fsdp, flat"])
def test_training_is_bit_identical(tmp_path, how):
    assert Run(tmp_path, how).weights == Run(tmp_path, how, "alone").weights


@pytest.mark.thorough
@pytest.mark.parametrize("how", ["sharded", "fsdp"])
def test_maps_are_refused(tmp_path, how):
    run = Run(tmp_path, how, "maps", fails=True)
    assert "spreads the parameters" in run.told
    assert not list(run.folder.glob("maps*"))
