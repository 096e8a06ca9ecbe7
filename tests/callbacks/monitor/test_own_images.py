"""Images of the user's own in the film of a run."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from PIL import Image

from lightning_saliency import SaliencyMonitor
from lightning_saliency.callbacks.monitor.options import MonitorConfigurationError
from lightning_saliency.explainers import SMOE
from lightning_saliency.pictures.page import FilmRecords
from tests.callbacks.monitor.helpers import Module, Recorder, loader, trainer


def _fit(folder, monitor, module=None, epochs=2, **options):
    module, recorder = module or Module(), Recorder(folder / "recorder")
    run = trainer(folder, monitor, logger=recorder, epochs=epochs, **options)
    run.fit(module, loader(8), loader(8))
    return module, recorder


def _frames(folder):
    store = FilmRecords(next(folder.rglob("film")))
    return [store.read(frame) for frame in store.frames()]


def _files(folder, count=3, size=(40, 60)):
    folder.mkdir()
    generator = np.random.default_rng(0)
    for number in range(count):
        Image.fromarray(generator.integers(0, 255, (*size, 3), dtype=np.uint8)).save(folder / f"{number}.png")
    return folder


def test_the_maps_are_those_of_the_images_given(tmp_path):
    images = torch.rand(3, 3, 32, 32)
    module, recorder = _fit(tmp_path, SaliencyMonitor(images=images, views=("overview", "fast_cam")))
    frames = _frames(tmp_path)
    assert [len(frame.images) for frame in frames] == [3, 3, 3]
    assert list(frames[-1].views) == ["fast_cam"]
    with torch.no_grad():
        predicted = module.eval()(images).argmax(1).tolist()
    assert [image.prediction for image in frames[-1].images] == predicted
    assert [image.label for image in frames[-1].images] == [None] * 3
    _, expected = SMOE(module).statistics(images)
    assert list(frames[-1].scales) == list(expected)
    assert len(recorder.values("saliency/drift")) == 3


def test_training_is_not_disturbed(tmp_path):
    def run(callback, folder):
        torch.manual_seed(1)
        module = Module()
        _fit(tmp_path / folder, callback, module)
        return module

    plain = run(SaliencyMonitor(num_images=1), "plain")
    watched = run(SaliencyMonitor(images=torch.rand(2, 3, 32, 32), views=("overview", "grad_cam")), "watched")
    assert watched.losses == plain.losses
    for one, other in zip(watched.state_dict().values(), plain.state_dict().values(), strict=True):
        assert torch.equal(one, other)


def test_files_are_brought_to_the_size_of_the_batches_images(tmp_path):
    folder = _files(tmp_path / "photos")
    with pytest.warns(UserWarning, match=r"in \[0, 1\]: give denormalize="):
        _fit(tmp_path / "run", SaliencyMonitor(images=folder), epochs=1)
    assert len(_frames(tmp_path / "run")[-1].images) == 3
    again = SaliencyMonitor(images=[folder / "1.png", str(folder / "2.png")], denormalize="imagenet")
    _fit(tmp_path / "imagenet", again, epochs=1)
    assert len(_frames(tmp_path / "imagenet")[-1].images) == 2
    records, _ = again._shown.own.records(
        trainer(tmp_path), Module().net, (3, 32, 32), ((0.5,) * 3, (0.25,) * 3), again.statistic, "auto", None
    )
    shown = np.asarray(Image.open(folder / "1.png").resize((48, 32), Image.Resampling.BILINEAR))[:, 8:40]
    expected = (torch.from_numpy(shown.copy()).permute(2, 0, 1) / 255 - 0.5) / 0.25
    assert (records[0].image - expected).abs().max() < 0.1


def test_a_network_that_cannot_run_on_them_costs_the_film_alone(tmp_path):
    module = Module()
    with pytest.warns(UserWarning, match="could not read the maps of images=.*Leave images= out"):
        _, recorder = _fit(tmp_path, SaliencyMonitor(images=torch.rand(2, 5, 32, 32)), module, epochs=1)
    assert module.losses
    assert recorder.values("saliency/position_bias")


@pytest.mark.parametrize(
    "images",
    [torch.rand(3, 32, 32), torch.zeros(1, 3, 8, 8, dtype=torch.uint8), "nowhere", [], 7],
    ids=["one", "uint8", "missing", "none", "number"],
)
def test_what_is_no_image_is_refused(images):
    with pytest.raises(MonitorConfigurationError, match=r"images|nowhere"):
        SaliencyMonitor(images=images)


def test_either_numbers_or_images():
    with pytest.raises(MonitorConfigurationError, match="Allowed is one of them"):
        SaliencyMonitor(images=torch.rand(1, 3, 8, 8), indices=[0])
