"""The page that a run leaves behind: frames, names, predictions, values, and nothing that fails ends a run."""

from __future__ import annotations

import json
import logging

import pytest
import pytorch_lightning as pl
import torch
from torch import nn
from torch.utils.data import DataLoader, Subset, TensorDataset

from lightning_saliency import SaliencyMonitor, film
from lightning_saliency.callbacks.monitor import page as page_module
from lightning_saliency.callbacks.monitor.options import MonitorConfigurationError
from lightning_saliency.callbacks.monitor.reading.sample import FixedSample
from lightning_saliency.functional.normalization import normal_cdf
from lightning_saliency.pictures.page import FilmRecords
from tests.callbacks.monitor.helpers import Module, Pictures, loader, trainer


def _store(folder, name="saliency") -> FilmRecords:
    return FilmRecords(folder / "recorder" / "v" / name / "film")


def _fit(folder, monitor, module=None, data=None, **options):
    run = trainer(folder, monitor, **options)
    run.fit(module or Module(), loader(8), data or loader(8))
    return run


class Silent(Module):
    """Returns nothing from validation, and logs in training."""

    def training_step(self, batch, batch_idx):
        loss = super().training_step(batch, batch_idx)
        self.log("train/loss", loss, on_step=True, on_epoch=True)
        return loss

    def validation_step(self, batch, batch_idx):
        super().validation_step(batch, batch_idx)


def test_a_run_leaves_a_page_and_says_where(tmp_path, caplog):
    with caplog.at_level(logging.INFO):
        _fit(tmp_path, SaliencyMonitor(num_images=3, views=("lovi", "fast_cam")))
    store = _store(tmp_path)
    page = store.folder.parent / "film.html"
    assert [record.getMessage() for record in caplog.records if str(page) in record.getMessage()] == [
        f"The film of this run, to be opened in a browser: {page}"
    ]
    assert page.read_text().startswith("<!DOCTYPE html>")
    assert [(frame.epoch, frame.step) for frame in store.frames()] == [(-1, 0), (0, 1), (1, 3)]
    record = store.read(store.frames()[-1])
    assert list(record.views) == ["fast_cam"]
    assert len(record.images) == 3
    assert [len(image.maps) for image in record.images] == [len(record.scales) + 1] * 3
    assert len({image.photo for image in record.images}) == 3
    assert film(tmp_path) == page


def test_the_maps_are_those_that_the_network_had(tmp_path):
    monitor = SaliencyMonitor(num_images=2)
    kept = []
    original = monitor._film.page.keep
    monitor._film.page.keep = lambda trainer, records, *rest: (kept.append(records), original(trainer, records, *rest))
    _fit(tmp_path, monitor, epochs=1)
    store = _store(tmp_path)
    for frame, records in zip(store.frames(), kept, strict=True):
        for image, record in zip(store.read(frame).images, records, strict=True):
            for ours, statistic in zip(image.maps, record.statistics, strict=True):
                assert (ours - normal_cdf(statistic[None])[0]).abs().max() < 0.01


def test_what_the_run_logged_is_on_the_page_at_its_epoch(tmp_path):
    run = trainer(tmp_path, SaliencyMonitor(num_images=2), epochs=3)
    run.fit(Silent(), loader(8), loader(8))
    rows = _store(tmp_path).values()
    assert [row["step"] for row in rows] == [0, 1, 3, 5]
    assert {"val/loss", "saliency/drift", "train/loss"} <= set(rows[-1]["values"])
    assert not [name for name in rows[-1]["values"] if name.endswith(("_step", "_epoch"))]
    logged = dict(run.logger.values("val/loss"))
    assert [row["values"]["val/loss"] for row in rows[1:]] == pytest.approx(
        [logged[step] for step in (1, 3, 5)], rel=1e-5
    )
    trained = dict(run.logger.values("train/loss_epoch"))
    assert [row["values"]["train/loss"] for row in rows[1:]] == pytest.approx(list(trained.values()), rel=1e-5)


def test_predictions_come_from_the_network_where_the_step_returns_nothing(tmp_path):
    module = Silent()
    _fit(tmp_path, SaliencyMonitor(num_images=4), module, epochs=1)
    store = _store(tmp_path)
    found = [image.prediction for image in store.read(store.frames()[-1]).images]
    images = torch.stack([Pictures()[index][0] for index in range(4)])
    assert found == module.eval()(images).argmax(1).tolist()
    assert not module._forward_hooks
    assert not module.net._forward_hooks


def test_a_named_part_of_the_module_is_not_asked_for_predictions(tmp_path):
    _fit(tmp_path, SaliencyMonitor(num_images=2, model="net.features"), Silent(), epochs=1)
    store = _store(tmp_path)
    assert [image.prediction for image in store.read(store.frames()[-1]).images] == [None, None]


class Odd(nn.Module):
    """Returns what no one reads."""

    def __init__(self):
        super().__init__()
        self.net = Module().net

    def forward(self, x):
        return {"logits": self.net(x), "text": "nothing", 3: object()}


def test_a_networks_odd_output_ends_nothing(tmp_path):
    class Outer(Silent):
        def forward(self, x):
            return self.net(x)["logits"]

    _fit(tmp_path, SaliencyMonitor(num_images=2), Outer(Odd()), epochs=1)
    assert len(_store(tmp_path).frames()) == 2


class Named(Pictures):
    @property
    def class_to_idx(self):
        return {"cat": 0, "dog": 1, "ship": 2, "tree": 3}


@pytest.mark.parametrize("given", [None, ["a", "b", "c", "d"]])
def test_names_of_classes_come_from_the_data_set_or_from_the_user(tmp_path, given):
    data = DataLoader(Subset(Named(8), range(8)), batch_size=4)
    _fit(tmp_path, SaliencyMonitor(num_images=4, class_names=given), Module(), data, epochs=1)
    store = _store(tmp_path)
    record = store.read(store.frames()[0])
    expected = given or ["cat", "dog", "ship", "tree"]
    assert [record.classes[image.label] for image in record.images] == expected


def test_a_resumed_run_goes_on_with_its_page(tmp_path):
    first = trainer(tmp_path, SaliencyMonitor(num_images=2), epochs=3)
    first.fit(Module(), loader(8), loader(8))
    first.save_checkpoint(tmp_path / "last.ckpt")
    again = trainer(tmp_path, SaliencyMonitor(num_images=2), epochs=4)
    again.fit(Module(), loader(8), loader(8), ckpt_path=tmp_path / "last.ckpt", weights_only=False)
    store = _store(tmp_path)
    assert [frame.epoch for frame in store.frames()] == [-1, 0, 1, 2, 3]
    assert [row["step"] for row in store.values()] == [0, 1, 3, 5, 7]


def test_an_interrupted_run_has_its_page_too(tmp_path):
    class Breaks(Module):
        def on_train_epoch_start(self):
            if self.current_epoch == 1:
                raise RuntimeError("no more")

    with pytest.raises(RuntimeError, match="no more"):
        _fit(tmp_path, SaliencyMonitor(num_images=2), Breaks(), epochs=3)
    assert (_store(tmp_path).folder.parent / "film.html").exists()


def test_whatever_fails_is_one_warning_and_the_run_goes_on(tmp_path, monkeypatch, recwarn):
    def fail(*_, **__):
        raise OSError("no space left")

    monkeypatch.setattr(page_module.FilmRecords, "add", fail)
    run = _fit(tmp_path, SaliencyMonitor(num_images=2), epochs=4)
    told = [str(one.message) for one in recwarn if "no space left" in str(one.message)]
    assert len(told) == 1
    assert "could not keep what the run's page shows" in told[0]
    assert run.current_epoch == 4
    monkeypatch.undo()
    monkeypatch.setattr(page_module, "film", fail)
    assert _fit(tmp_path, SaliencyMonitor(num_images=2)).current_epoch == 2
    assert [str(one.message) for one in recwarn if "could not make the page" in str(one.message)]


def test_a_fast_run_leaves_nothing(tmp_path):
    run = pl.Trainer(
        default_root_dir=tmp_path, fast_dev_run=True, callbacks=[SaliencyMonitor()], enable_progress_bar=False
    )
    run.fit(Module(), loader(8), loader(8))
    assert list(tmp_path.rglob("*.html")) == []


def test_chosen_images_are_shown(tmp_path, recwarn):
    _fit(tmp_path, SaliencyMonitor(indices=[6, 1]), epochs=1, num_sanity_val_steps=1)
    store = _store(tmp_path)
    counts = [len(store.read(frame).images) for frame in store.frames()]
    assert counts == [1, 2]
    assert [image.label for image in store.read(store.frames()[-1]).images] == [2, 1]
    _fit(tmp_path / "none", SaliencyMonitor(indices=[99]), epochs=1)
    assert any("none of the images with indices=[99] came by" in str(one.message) for one in recwarn)


def test_one_image_of_each_class_is_shown_and_found_again(tmp_path):
    monitor = SaliencyMonitor(indices="one_per_class", num_images=3)
    _fit(tmp_path, monitor, data=loader(shuffle=True))
    shown = [[image.label for image in _store(tmp_path).read(frame).images] for frame in _store(tmp_path).frames()]
    assert len(shown) == 3
    assert len(set(shown[-1])) == len(shown[-1]) == 3
    assert shown[-1] == shown[-2]


class WithoutLabels(Module):
    def validation_step(self, batch, batch_idx):
        return self(batch[0])


def test_one_image_of_each_class_needs_classes(tmp_path):
    monitor = SaliencyMonitor(indices="one_per_class", num_images=3)
    images = DataLoader(TensorDataset(torch.rand(4, 3, 32, 32)), batch_size=2)
    with pytest.raises(MonitorConfigurationError, match=r"batches that carry no classes.*label_key="):
        _fit(tmp_path, monitor, WithoutLabels(), images)


def test_one_image_of_each_class_after_a_resumption(tmp_path):
    sample, images = FixedSample(3, indices="one_per_class"), torch.rand(6, 3, 8, 8)
    assert sample.place(images[:4], [1, 1, -1, 0]) == [(0, 0), (3, 1)]
    again = FixedSample(3, indices="one_per_class")
    again.load_state_dict(sample.state_dict())
    again.begin()
    assert again.place(images[2:], [-1, 0, 1, 2]) == [(1, 1), (3, 2)]


@pytest.mark.parametrize(
    "options",
    [{"indices": []}, {"indices": [1, 1]}, {"indices": [-1]}, {"indices": "all"}, {"alpha": 2}, {"class_names": "cat"}],
)
def test_options_that_make_no_sense_are_refused(options):
    with pytest.raises(MonitorConfigurationError, match=r"Allowed are"):
        SaliencyMonitor(**options)


def test_the_page_holds_what_the_run_kept(tmp_path):
    _fit(tmp_path, SaliencyMonitor(num_images=2), epochs=1)
    text = (_store(tmp_path).folder.parent / "film.html").read_text()
    data = json.loads(text.partition('id="data">')[2].partition("</script>")[0])
    assert [frame["epoch"] for frame in data["runs"][0]["frames"]] == [-1, 0]
    assert data["runs"][0]["values"] == _store(tmp_path).values()


def test_mean_maps_of_all_images_and_of_each_class_are_on_the_page(tmp_path):
    _fit(tmp_path, SaliencyMonitor(num_images=2, class_names=["a", "b", "c", "d"]), epochs=1)
    store = _store(tmp_path)
    means = store.read(store.frames()[-1]).means
    assert [(mean.title, mean.count) for mean in means] == [("all images", 8), *((name, 2) for name in "abcd")]
    # A tenth of the cells of each image.
    assert all(0.05 < float(mean.map.mean()) < 0.2 for mean in means)


def test_a_part_of_a_shuffled_epoch_shows_each_image_at_its_place(tmp_path):
    data = DataLoader(Pictures(16), 4, shuffle=True, generator=torch.Generator().manual_seed(3))
    _fit(tmp_path, SaliencyMonitor(num_images=6), data=data, limit_val_batches=2, epochs=6)
    store, photos = _store(tmp_path), {}
    frames = [store.read(frame) for frame in store.frames()]
    assert len({tuple(frame.slots) for frame in frames}) > 1
    for frame in frames:
        for slot, image in zip(frame.slots, frame.images, strict=True):
            assert photos.setdefault(slot, image.photo) == image.photo
    assert len(set(photos.values())) == 6
