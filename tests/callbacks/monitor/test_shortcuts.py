"""The number that shows a shortcut, the views of all images, and the alert."""

import logging
import math
import warnings

import numpy as np
import pytest
import pytorch_lightning as pl
import torch
from torch.utils.data import DataLoader, Dataset

from lightning_saliency.callbacks import MonitorConfigurationError, SaliencyMonitor, ShortcutAlert
from lightning_saliency.callbacks.monitor.means import MEAN_VIEWS
from lightning_saliency.callbacks.monitor.shortcuts.alert import AlertState
from lightning_saliency.callbacks.monitor.shortcuts.positions import EpochPositions
from lightning_saliency.functional.position_bias import PositionBias, PositionSums, position_bias
from lightning_saliency.functional.statistics import STATISTICS
from lightning_saliency.pictures.film import Film
from lightning_saliency.scales.maps import coarse_statistics
from tests.callbacks.monitor.helpers import Module, Recorder, loader, trainer


class _Marked(Dataset):
    """Grey images with a bright corner whose colour is the class."""

    def __init__(self, count=120):
        self.count = count

    def __len__(self):
        return self.count

    def __getitem__(self, index):
        generator = torch.Generator().manual_seed(index)
        image = 0.2 * torch.rand(3, 16, 16, generator=generator)
        image[:, :4, :4] = torch.tensor([[3.0, 0, 0], [0, 3, 0], [0, 0, 3], [3, 3, 0]][index % 4])[:, None, None]
        return image, index % 4


def _fit(tmp_path, monitor, *callbacks, val=None, **options):
    pl.seed_everything(1, workers=True)
    recorder, module = Recorder(tmp_path), Module()
    run = trainer(tmp_path, monitor, *callbacks, logger=recorder, **options)
    run.fit(module, loader(), val if val is not None else DataLoader(_Marked(), batch_size=40))
    return run, module, recorder


def _found(bias, content=0.0, count=600, classes=10):
    return PositionBias(bias, (1, 1), 0.9, 0.9, content, count, classes)


@pytest.fixture
def biased(monkeypatch):
    """A network that leans on the corner, as a trained one would."""
    monkeypatch.setattr(PositionSums, "result", lambda self: _found(0.9, count=int(self.count.sum()), classes=4))


def test_the_number_is_that_of_all_validation_images(tmp_path):
    monitor = SaliencyMonitor(num_images=2, weights="ramp", alert=None)
    _, module, recorder = _fit(tmp_path, monitor, epochs=1)
    images = torch.stack([_Marked()[index][0] for index in range(120)])
    module.eval()
    with torch.no_grad():
        scales = [STATISTICS["smoe_scale"](module.net.features[:end](images)) for end in (3, 7)]
    expected = position_bias(coarse_statistics(scales, (16, 16)), torch.arange(120) % 4, images)
    assert recorder.values("saliency/position_bias")[-1][1] == pytest.approx(expected.bias, abs=0.02)
    assert recorder.values("saliency/content_bias")[-1][1] == pytest.approx(expected.content, abs=0.02)
    assert not recorder.values("saliency/shortcut_alert")


def test_the_alert_says_where_and_stops_if_asked(tmp_path, biased):
    alert = ShortcutAlert(stop=True)
    monitor = SaliencyMonitor(num_images=2, alert=alert, log_at_start=False)
    with pytest.warns(UserWarning, match="sees a shortcut.*upper left corner.*95 % interval"):
        run, _, recorder = _fit(tmp_path, monitor, epochs=6)
    assert run.current_epoch == 2
    assert [value for _, value in recorder.values("saliency/shortcut_alert")] == [0, 1]


def test_the_default_stops_nothing(tmp_path, biased):
    monitor = SaliencyMonitor(num_images=2, alert=ShortcutAlert(), log_at_start=False)
    with pytest.warns(UserWarning, match="sees a shortcut"):
        run, _, _ = _fit(tmp_path, monitor, epochs=4)
    assert run.current_epoch == 4


def test_views_of_all_images(tmp_path):
    monitor = SaliencyMonitor(num_images=2, views=("mean", "class_means", "lovi"))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        _fit(tmp_path, monitor, epochs=1)
    film = Film(tmp_path / "recorder" / "v" / "saliency")
    assert sorted(film.views()) == ["class_means", "lovi", "mean"]
    assert [frame.epoch for frame in film.frames("mean")] == [-1, 0]


def test_few_images_are_not_judged_and_that_is_said(tmp_path, caplog):
    with caplog.at_level(logging.INFO):
        _, _, recorder = _fit(tmp_path, SaliencyMonitor(num_images=2), val=loader(), epochs=2)
    assert sum("cannot say whether there is a shortcut" in record.message for record in caplog.records) == 1
    assert not recorder.values("saliency/shortcut_alert")
    assert len(recorder.values("saliency/position_bias")) == 3


def test_no_images_no_number_and_no_more_reading(tmp_path):
    _, _, recorder = _fit(tmp_path, SaliencyMonitor(num_images=2, position_images=0), epochs=1)
    assert not recorder.values("saliency/position_bias")
    assert recorder.values("saliency/drift")


def test_resumed_runs_go_on_with_the_alert(tmp_path, biased):
    monitor = SaliencyMonitor(num_images=2, alert=ShortcutAlert(), log_at_start=False)
    with pytest.warns(UserWarning, match="sees a shortcut"):
        run, _, _ = _fit(tmp_path, monitor, epochs=2, enable_checkpointing=True)
    run.save_checkpoint(tmp_path / "last.ckpt")
    again = SaliencyMonitor(num_images=2, alert=ShortcutAlert(), log_at_start=False)
    recorder = Recorder(tmp_path)
    with warnings.catch_warnings():
        warnings.filterwarnings("error", message=".*sees a shortcut")
        trainer(tmp_path, again, logger=recorder, epochs=3).fit(
            Module(), loader(), DataLoader(_Marked(), batch_size=40), ckpt_path=tmp_path / "last.ckpt"
        )
    assert [value for _, value in recorder.values("saliency/shortcut_alert")] == [1]


def test_hysteresis():
    state = AlertState(ShortcutAlert(threshold=0.4, frames=2))
    state.begin(_found(0.0), "saliency")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        seen = [state.see(_found(bias), "saliency") for bias in (0.5, 0.3, 0.5, 0.5, 0.3, 0.1, 0.3, 0.1, 0.1)]
    assert seen == [False, False, False, True, True, True, True, True, False]


def test_what_was_there_before_training_does_not_count(caplog):
    state = AlertState(ShortcutAlert(threshold=0.3, frames=1))
    with caplog.at_level(logging.INFO):
        state.begin(_found(0.5, content=0.4), "saliency")
    assert any("Before training" in record.message for record in caplog.records)
    assert state.see(_found(0.6, content=0.5), "saliency") is False
    assert state.excess(_found(0.75)) == pytest.approx((0.5, -0.4 / 0.6))
    with pytest.warns(UserWarning, match="colour or texture"):
        assert state.see(_found(0.2, content=0.8), "saliency") is True


def test_without_a_frame_before_training_more_is_needed():
    state = AlertState(ShortcutAlert(frames=1))
    assert state.see(_found(0.5, content=0.5), "saliency") is False
    with pytest.warns(UserWarning, match="Neither was measured before training"):
        assert state.see(_found(0.7), "saliency") is True


@pytest.mark.parametrize("found", [None, _found(math.nan), _found(0.9, count=50), _found(0.9, classes=400)])
def test_what_cannot_be_judged_changes_nothing(found):
    state = AlertState(ShortcutAlert(frames=1))
    assert state.see(found, "saliency") is None
    assert not state.raised


@pytest.mark.parametrize(
    ("images", "batches", "sizes", "taken"),
    [
        (40, 10, [8] * 10, [0, 2, 4, 6, 8]),
        (1000, 4, [8] * 4, [0, 1, 2, 3]),
        (16, math.inf, [8] * 5, [0, 1]),
        (0, 5, [8] * 5, []),
    ],
)
def test_batches_lie_evenly(images, batches, sizes, taken):
    positions = EpochPositions(images, batches)
    assert [number for number, size in enumerate(sizes) if positions.wants(size)] == taken


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: ShortcutAlert(threshold=0), "threshold=0"),
        (lambda: ShortcutAlert(frames=0), "frames=0"),
        (lambda: SaliencyMonitor(position_images=-1), "position_images=-1"),
        (lambda: SaliencyMonitor(alert=True), "alert=True"),
        (lambda: SaliencyMonitor(position_images=0, views=("mean",)), "position_images=0"),
    ],
)
def test_options_that_cannot_work(make, message):
    with pytest.raises(MonitorConfigurationError, match=message):
        make()


def test_maps_of_the_mean_view_lie_where_they_point(tmp_path):
    sums, maps = PositionSums(), torch.zeros(8, 16, 16)
    maps[:, :4, :4] = 1.0
    sums.add(maps, torch.arange(8) % 2, torch.rand(8, 3, 32, 32))
    picture = MEAN_VIEWS["mean"](sums, None, 512, None)
    tile = picture.shape[1]
    shares = picture[-tile:].astype(np.int64)
    assert shares[: tile // 8, : tile // 8, 0].mean() > 100 > shares[tile // 2 :, tile // 2 :, 0].mean()
    assert MEAN_VIEWS["class_means"](sums, None, 512, ["cat", "dog"]).shape[1] > picture.shape[1]
