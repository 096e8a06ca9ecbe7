"""A monitor that takes up a checkpoint: the arguments that it was given count, not those of the run before."""

from __future__ import annotations

import logging

import pytest
import torch
from PIL import Image

from lightning_saliency import SaliencyMonitor
from lightning_saliency.batches import fingerprint, same_images
from lightning_saliency.callbacks.monitor.reading.own_images import OwnImages
from tests.callbacks.monitor.helpers import Module, loader, trainer

IMAGES = torch.stack([loader().dataset[index][0] for index in range(16)])
OWN = torch.rand(2, 3, 16, 16, generator=torch.Generator().manual_seed(5))


def _monitor(**options):
    return SaliencyMonitor(**options, log_at_start=False)


def _shown(monitor):
    """The numbers of the images that a monitor follows."""
    known, own = fingerprint(IMAGES), monitor._sample.fingerprints
    return [None if each is None else int(same_images(each[None], known)[0].nonzero()) for each in own]


@pytest.fixture(scope="module")
def checkpoints(tmp_path_factory):
    """Of a run of one epoch that showed its first two images, and of one that showed the user's own."""
    folder = tmp_path_factory.mktemp("runs")
    for name, options in (("first", {"num_images": 2}), ("own", {"images": OWN})):
        run = trainer(folder / name, monitor := _monitor(**options), epochs=1)
        run.fit(Module(), loader(8), loader())
        run.save_checkpoint(folder / f"{name}.ckpt")
        assert _shown(monitor) == ([0, 1] if name == "first" else [None, None])
    return folder


@pytest.mark.parametrize(
    ("options", "shown"),
    [
        ({"num_images": 2}, [0, 1]),
        ({"num_images": 3}, [0, 1, 2]),
        ({"indices": [9, 13]}, [9, 13]),
        ({"num_images": 2, "indices": "one_per_class"}, [0, 1]),
        ({"images": OWN}, [None, None]),
    ],
)
def test_a_resumed_run_shows_what_it_is_asked_for(tmp_path, checkpoints, caplog, options, shown):
    monitor = _monitor(**options)
    kept = torch.load(checkpoints / "first.ckpt", weights_only=True)["callbacks"][monitor.state_key]
    with caplog.at_level(logging.INFO):
        trainer(tmp_path, monitor, epochs=1).fit(Module(), loader(8), loader(), ckpt_path=checkpoints / "first.ckpt")
    # The run was over: this is what the checkpoint left.
    same = options == {"num_images": 2}
    assert ("chooses its images anew" in caplog.text) is not same
    assert bool(monitor._sample.drift_maps) is same
    assert monitor._values.latest == kept["values"]
    monitor = _monitor(**options)
    trainer(tmp_path, monitor, epochs=2).fit(Module(), loader(8), loader(), ckpt_path=checkpoints / "first.ckpt")
    assert _shown(monitor) == shown
    assert (monitor._values.latest["drift"] < 1) is same


def test_the_worst_images_are_those_of_the_network_that_is_validated(tmp_path, checkpoints):
    validated = _monitor(num_images=2, indices="worst")
    trainer(tmp_path, validated).validate(Module(), loader(), ckpt_path=checkpoints / "first.ckpt", verbose=False)
    module, plain = Module(), _monitor(num_images=2, indices="worst")
    module.load_state_dict(torch.load(checkpoints / "first.ckpt", weights_only=True)["state_dict"])
    trainer(tmp_path, plain).validate(module, loader(), verbose=False)
    assert _shown(validated) == _shown(plain) != [0, 1]


def test_other_images_of_the_users_own_are_not_compared_with_those_before(tmp_path, checkpoints):
    for images, same in ((OWN.clone(), True), (OWN.flip(0), False)):
        monitor = _monitor(images=images)
        trainer(tmp_path, monitor, epochs=2).fit(Module(), loader(8), loader(), ckpt_path=checkpoints / "own.ckpt")
        assert (monitor._values.latest["drift"] < 1) is same


def test_images_are_told_apart_by_what_they_hold(tmp_path):
    for name, grey in (("a", 10), ("b", 20), ("c", 10)):
        Image.new("L", (4, 4), grey).save(tmp_path / f"{name}.png")
    a, b, c = (OwnImages(tmp_path / f"{name}.png").digest for name in "abc")
    assert a == c != b
    half = OwnImages(OWN.bfloat16())
    assert half.digest == OwnImages(OWN.bfloat16().flip(0).flip(0)).digest
    assert len({half.digest, OwnImages(OWN).digest, OwnImages(OWN.flip(0)).digest, OwnImages(OWN[:1]).digest}) == 4
