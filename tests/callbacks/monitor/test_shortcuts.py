"""The number that shows a shortcut, the views of all images, and the alert."""

import logging
import math
import warnings
from html import unescape

import numpy as np
import pytest
import pytorch_lightning as pl
import torch
from torch.utils.data import DataLoader, Dataset

from lightning_saliency.callbacks import (
    GroupCAMAugmentation,
    MaskTune,
    MonitorConfigurationError,
    SaliencyAugmentation,
    SaliencyMonitor,
    ShortcutAlert,
)
from lightning_saliency.callbacks._trainer_lookups import Hiding, hiding_callback
from lightning_saliency.callbacks.monitor.means import MEAN_VIEWS
from lightning_saliency.callbacks.monitor.shortcuts.alert import AlertState
from lightning_saliency.callbacks.monitor.shortcuts.positions import EpochPositions
from lightning_saliency.functional.position_bias import PositionBias, PositionSums, position_bias
from lightning_saliency.functional.statistics import STATISTICS
from lightning_saliency.pictures.film import Film
from lightning_saliency.pictures.page import FilmRecords
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
    (tmp_path / "recorder" / "v" / "saliency" / "film" / "alerts.json").unlink()
    again = SaliencyMonitor(num_images=2, alert=ShortcutAlert(), log_at_start=False)
    recorder = Recorder(tmp_path)
    with warnings.catch_warnings():
        warnings.filterwarnings("error", message=".*sees a shortcut")
        trainer(tmp_path, again, logger=recorder, epochs=3).fit(
            Module(), loader(), DataLoader(_Marked(), batch_size=40), ckpt_path=tmp_path / "last.ckpt"
        )
    assert [value for _, value in recorder.values("saliency/shortcut_alert")] == [1]
    # The checkpoint tells what was warned of, also where the run goes on in another folder.
    alerts = FilmRecords(tmp_path / "recorder" / "v" / "saliency" / "film").alerts()
    assert [(alert.epoch, alert.cell) for alert in alerts] == [(1, (1, 1))]


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
    told = next(record.message for record in caplog.records if "At the start of this run" in record.message)
    # It does not say which of the two it is.
    assert "may be a shortcut" in told
    assert "may be the images" in told
    assert "Mean maps" in told
    assert "usual" not in told
    assert state.see(_found(0.6, content=0.5), "saliency") is False
    assert state.excess(_found(0.75)) == pytest.approx((0.5, -0.4 / 0.6))
    with pytest.warns(UserWarning, match="colour or texture"):
        assert state.see(_found(0.2, content=0.8), "saliency") is True


def _warned(state, found, **options):
    with pytest.warns(UserWarning, match="sees") as caught:
        state.see(found, "saliency", **options)
    return str(caught[0].message)


@pytest.mark.parametrize(("found", "number"), [(_found(0.9), "position_bias"), (_found(0.1, 0.9), "content_bias")])
def test_one_remedy_and_where_there_is_a_cure_that_it_is_under_way(found, number):
    plain = _warned(AlertState(ShortcutAlert(frames=1)), found)
    assert plain.count("MaskTune(") == 1
    assert "SaliencyAugmentation" not in plain
    assert "in film.html, the page of this run" in plain
    assert ("'Mean maps'" in plain) == (number == "position_bias")
    cured = _warned(AlertState(ShortcutAlert(frames=1)), found, hiding=Hiding("MaskTune", True))
    assert "MaskTune(" not in cured
    assert "seems to tell the classes" not in cured
    assert "MaskTune hides what is salient in training already. The maps may go on showing a mark" in cured
    assert f"the fall of saliency/{number}, and best images without the mark" in cured
    later = _warned(AlertState(ShortcutAlert(frames=1)), found, hiding=Hiding("MaskTune", False))
    assert "seems to tell the classes" in later
    assert later.endswith("MaskTune hides it later in this run.")
    idle = _warned(AlertState(ShortcutAlert(frames=1)), found, hiding=Hiding("MaskTune", True, idle=True))
    assert "seems to tell the classes" in idle
    assert idle.endswith("MaskTune hides nothing: its own warning says why, and what helps.")


def test_what_hides_is_found_among_the_callbacks(tmp_path):
    def found(*callbacks, epoch=0):
        run = trainer(tmp_path, *callbacks)
        run.fit_loop.epoch_progress.current.completed = epoch
        return hiding_callback(run)

    assert found(SaliencyMonitor()) is None
    assert found(GroupCAMAugmentation()) is None  # it keeps what is salient
    assert found(SaliencyMonitor(), MaskTune("smoe", share=0.1)) == Hiding("MaskTune", True)
    assert found(SaliencyAugmentation("smoe", action="hide", start_epoch=2)) == Hiding("SaliencyAugmentation", False)
    assert found(SaliencyAugmentation("smoe", action="hide", start_epoch=2), epoch=2).begun
    place = MaskTune("smoe", maps="shortcut")
    assert found(place) == Hiding("MaskTune", True)  # it has not looked yet
    classes = torch.arange(40) % 2
    place.guide.shared(torch.rand(40, 16, 16), torch.rand(40, 3, 16, 16), classes)
    assert place.guide.no_place is not None
    assert found(place) == Hiding("MaskTune", True, idle=True)
    other = SaliencyAugmentation("smoe", action="hide", start_epoch=2)
    assert found(place, other) == Hiding("SaliencyAugmentation", False)


def test_where_warnings_are_errors_the_text_is_logged(caplog):
    state = AlertState(ShortcutAlert(frames=1))
    with warnings.catch_warnings(), caplog.at_level(logging.INFO):
        warnings.simplefilter("error")
        assert state.see(_found(0.9), "saliency") is True
    assert "SaliencyMonitor sees a shortcut" in caplog.text
    assert len(state.history) == 1


def test_a_run_with_the_cure_is_not_told_to_cure(tmp_path, biased):
    cure = MaskTune("smoe", share=0.1, maps="mean")
    monitor = SaliencyMonitor(num_images=2, alert=ShortcutAlert(frames=1), log_at_start=False)
    with pytest.warns(UserWarning, match="SaliencyMonitor sees what can be a shortcut.*MaskTune hides what is salient"):
        _fit(tmp_path, monitor, cure, epochs=1)


def test_the_warning_stands_on_the_page_and_at_the_end_of_the_run(tmp_path, biased, monkeypatch, caplog):
    monitor = SaliencyMonitor(num_images=2, alert=ShortcutAlert(), log_at_start=False)
    with pytest.warns(UserWarning, match="sees a shortcut") as caught, caplog.at_level(logging.INFO):
        run, module, _ = _fit(tmp_path, monitor, epochs=3)
    said = next(str(one.message) for one in caught if "sees a shortcut" in str(one.message))
    folder = tmp_path / "recorder" / "v" / "saliency"
    alerts = FilmRecords(folder / "film").alerts()
    assert [(alert.epoch, alert.text, alert.cell, alert.lowered) for alert in alerts] == [(1, said, (1, 1), None)]
    page = unescape((folder / "film.html").read_text())
    assert said in page
    assert "SaliencyMonitor warned of a shortcut in epoch 1</h2>" in page
    messages = [record.getMessage() for record in caplog.records]
    place = next(number for number, message in enumerate(messages) if message.startswith("The film of this run"))
    assert messages[place + 1].startswith("SaliencyMonitor warned of a shortcut in epoch 1: where, and what helps")
    # The run goes on, and the mark is not used any more.
    monkeypatch.setattr(PositionSums, "result", lambda self: _found(0.0, count=int(self.count.sum()), classes=4))
    run.fit_loop.max_epochs = 6
    run.fit(module, loader(), DataLoader(_Marked(), batch_size=40))
    assert [alert.lowered for alert in FilmRecords(folder / "film").alerts()] == [4]
    assert "warned of a shortcut in epoch 1, lowered in epoch 4</h2>" in (folder / "film.html").read_text()


def test_a_run_without_a_warning_has_none_on_its_page(tmp_path):
    _fit(tmp_path, SaliencyMonitor(num_images=2), epochs=1)
    assert "<aside" not in (tmp_path / "recorder" / "v" / "saliency" / "film.html").read_text()


@pytest.mark.parametrize("at_a_place", [True, False])
def test_the_warning_is_of_the_number_that_grew(at_a_place):
    """One that was as high before training, as of things that always lie at one place, is not what is warned of."""
    state = AlertState(ShortcutAlert(frames=1))
    state.begin(_found(*((0.05, 0.45) if at_a_place else (0.45, 0.05))), "s")
    with pytest.warns(UserWarning, match="what lies in the upper left corner" if at_a_place else "colour or texture"):
        state.see(_found(*((0.7, 0.45) if at_a_place else (0.45, 0.7))), "s")
    assert state.history[0].cell == ((1, 1) if at_a_place else None)


def test_without_a_frame_before_training_more_is_needed():
    state = AlertState(ShortcutAlert(frames=1))
    assert state.see(_found(0.5, content=0.5), "saliency") is False
    with pytest.warns(UserWarning, match="Neither was measured at the start of this run"):
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
        (lambda: SaliencyMonitor(alert=True), r"alert=True.*ShortcutAlert\(threshold=0.3\)"),
        (lambda: SaliencyMonitor(alert=0.5), r"alert=0.5.*ShortcutAlert\(threshold=0.5\)"),
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
