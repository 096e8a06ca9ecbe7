"""What the monitor and Group-CAM copy, and what they wait for on a GPU: no more than is known to be needed."""

from __future__ import annotations

import pytest
import torch

from benchmarks._stand_in import DEVICE, Events
from benchmarks.copies import BATCH, of_a_batch, of_group_cam, validation
from lightning_saliency import SaliencyMonitor
from lightning_saliency.callbacks.monitor.shortcuts.positions import EpochPositions
from lightning_saliency.functional.position_bias import PositionSums
from lightning_saliency.scales.tracing.passes import BatchImages
from tests.callbacks.monitor.helpers import Module, loader, trainer

CPU = torch.device("cpu")
#: Of a validation batch that the monitor reads: pooling takes no bools.
OF_A_BATCH = {("copy", "_to_copy", "on_grid"): 1}
#: Of a batch of Group-CAM's maps, however many passes they take.
OF_GROUP_CAM = {
    ("wait", "_local_scalar_dense", "check_range"): 1,  # an index out of range would end the process
    ("wait", "_local_scalar_dense", "_say_zero"): 1,  # the warning of maps that are zero
    ("wait", "_to_copy to the host", "score_block"): 1,  # how many masks are not empty
    ("copy", "clone", "activations_and_gradients"): 1,  # a network may write to its input
    ("copy", "reflection_pad2d", "blur"): 2,  # the edges of the blurred image
}


def by_function(counts):
    found = {}
    for (kind, operator, line), (times, _) in counts.items():
        key = kind, operator, line.rpartition(" ")[2]
        found[key] = found.get(key, 0) + times
    return found


@pytest.mark.parametrize("inference", [True, False], ids=["inference", "no_grad"])
def test_a_validation_batch_that_is_read_waits_for_nothing(inference):
    assert of_a_batch(monitored=False, inference=inference) == {}
    assert by_function(of_a_batch(monitored=True, inference=inference)) == OF_A_BATCH


@pytest.mark.parametrize("groups", [4, 32])
def test_group_cam_copies_and_waits_a_fixed_number_of_times(groups):
    assert by_function(of_group_cam(groups)) == OF_GROUP_CAM


def test_values_are_the_same_on_a_device_that_is_not_waited_for():
    (_, elsewhere), (_, here) = validation(3, True), validation(3, True, device=CPU)
    assert {"saliency/energy_in_box", "saliency/pointing_game", "saliency/position_bias"} <= here.keys()
    assert elsewhere == pytest.approx(here, rel=1e-4, abs=1e-5)


def normalise(images, number):
    images.sub_(0.5).div_(0.25)


def test_images_that_the_step_normalises_in_place_are_scored_everywhere():
    (_, elsewhere), (_, here) = (
        validation(3, True, device=d, prepare=normalise) for d in (DEVICE, torch.device("cpu"))
    )
    assert elsewhere == pytest.approx(here, rel=1e-4, abs=1e-5)


@pytest.mark.parametrize("inference", [True, False], ids=["inference", "no_grad"])
def test_images_are_known_by_their_values_alone(inference):
    with torch.inference_mode(inference), Events(least=10**9):
        given = torch.rand(2, 3, 16, 16)
        given[0, 0, 0, 0] = float("nan")
        images = given.to(DEVICE)
        known = BatchImages(images, defer=True)
        assert bool(known.rows(images).own)
        # A kernel of the user's own writes to the memory, which torch does not count.
        images.inner.copy_(given.flip(-1))
        assert not bool(known.rows(images).own)


def mirror_later(images, number):
    if number:
        images.copy_(images.flip(-1))


def test_batches_that_turn_out_to_be_written_to_are_left_out_with_a_warning():
    with pytest.warns(UserWarning, match="left 2 of this epoch's batches out of its values"):
        _, values = validation(3, True, prepare=mirror_later)
    _, first = validation(1, True)
    for name in ("saliency/energy_in_box", "saliency/pointing_game"):
        assert values[name] == pytest.approx(first[name], rel=1e-5)


def test_what_waits_and_cannot_be_added_up_keeps_no_other_process_waiting(monkeypatch):
    reduced = []
    monkeypatch.setattr(PositionSums, "add", lambda self, *given: 1 / 0)
    monkeypatch.setattr(EpochPositions, "reduced", lambda self, trainer: reduced.append(0) or PositionSums())
    with pytest.raises(RuntimeError, match="could not add up where the maps of all images point"):
        validation(2, True)
    assert reduced == [0]


def test_an_epoch_that_an_exception_ends_leaves_nothing_on_the_device(tmp_path):
    class Fails(Module):
        def validation_step(self, batch, batch_idx):
            if batch_idx:
                raise KeyError("on purpose")
            return super().validation_step(batch, batch_idx)

    monitor = SaliencyMonitor()
    with pytest.raises(KeyError):
        trainer(tmp_path, monitor).validate(Fails(), loader(8), verbose=False)
    assert monitor._shortcuts._positions is None


WAITING = {
    "a number": float,
    "a list": lambda tensor: tensor.tolist(),
    "to the CPU": torch.Tensor.cpu,
    "a mask": lambda tensor: tensor[tensor > 0],
    "a list of rows": lambda tensor: tensor[[0, 0]],
    "numbers for it": lambda tensor: torch.tensor([1.0, 2.0], device=tensor.device),
    "if": bool,
    "the places": torch.nonzero,
}


@pytest.mark.parametrize("inference", [True, False], ids=["inference", "grad"])
@pytest.mark.parametrize("what", WAITING)
def test_the_stand_in_device_sees_what_waits(what, inference):
    with torch.inference_mode(inference), Events(least=1) as events:
        tensor = torch.ones(1).to(DEVICE)
        events.found.clear()
        WAITING[what](tensor)
    assert [event.kind for event in events.found].count("wait") == 1


def test_the_stand_in_device_sees_copies_of_some_size_and_computes():
    with Events(least=4 * BATCH) as events:
        tensor = torch.arange(BATCH, dtype=torch.float32).to(DEVICE, non_blocking=True)
        both = torch.stack([tensor.clone(), tensor * 2])
        tensor[:2].clone()
        assert [(event.operator, event.size) for event in events.found] == [("clone", 32), ("stack", 64)]
        assert both.sum(1).tolist() == [28.0, 56.0]
