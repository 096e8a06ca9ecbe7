"""What fails, fails by itself: one warning, another try at each frame, and an end after three in a row."""

import warnings

import pytest
import pytorch_lightning as pl
import torch
from torch import nn

from lightning_saliency.callbacks import SaliencyMonitor
from lightning_saliency.callbacks.monitor import frame, scalars
from lightning_saliency.callbacks.monitor.attempts import Attempts
from lightning_saliency.callbacks.monitor.page import MonitorPage
from lightning_saliency.explainers.controls import RandomMap
from lightning_saliency.pictures.film import Film
from lightning_saliency.scales.reader import ScaleReader
from tests.callbacks.monitor.helpers import Module, Recorder, loader, trainer


def _fit(tmp_path, monitor, module=None, epochs=5, loggers=None, data=None):
    pl.seed_everything(1, workers=True)
    recorder = Recorder(tmp_path)
    run = trainer(tmp_path, monitor, logger=loggers or recorder, epochs=epochs)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        run.fit(module or Module(), loader(form="dict"), data or loader(form="dict"))
    assert run.current_epoch == epochs
    told = [str(warning.message) for warning in caught if "SaliencyMonitor could not" in str(warning.message)]
    return run, recorder, told


def _frames(tmp_path, view):
    return [each.epoch for each in Film(tmp_path / "recorder" / "v" / "saliency").frames(view)]


def _failing(times, calls, result):
    def function(*arguments, **options):
        calls.append(1)
        if len(calls) <= times:
            raise ArithmeticError("made to fail")
        return result(*arguments, **options)

    return function


@pytest.mark.parametrize("kind", ["class view", "view of the scales"])
@pytest.mark.parametrize("times", [1, 2, 100])
def test_a_view_fails_by_itself(tmp_path, monkeypatch, kind, times):
    calls = []
    if kind == "class view":
        maps = _failing(times, calls, lambda self, images, targets=None: torch.rand(images.shape[0], 16, 16))
        mine = type("Mine", (RandomMap,), {"_explain": maps, "_explain_predicted": maps})
        monitor, name = SaliencyMonitor(num_images=2, views={"lovi": None, "mine": mine}), "mine"
    else:
        monkeypatch.setitem(frame.VIEWS, "combined", _failing(times, calls, frame.VIEWS["combined"]))
        monitor, name = SaliencyMonitor(num_images=2, views=("lovi", "combined")), "combined"
    _, recorder, told = _fit(tmp_path, monitor)
    assert _frames(tmp_path, "lovi") == [-1, 0, 1, 2, 3, 4]
    assert len(recorder.values("saliency/drift")) == 6
    assert len(told) == 1
    assert name in told[0]
    assert "ArithmeticError: made to fail" in told[0]
    # Tried again at each frame, and given up after three in a row.
    assert _frames(tmp_path, name) == [-1, 0, 1, 2, 3, 4][times:]
    assert len(calls) == (6 if times < 3 else 3)


@pytest.mark.parametrize("score", ["energy_in_box", "pointing_game"])
def test_a_score_fails_by_itself(tmp_path, monkeypatch, score):
    def broken(*_):
        raise ArithmeticError("made to fail")

    monkeypatch.setitem(scalars.OBJECT_SCORES, score, broken)
    _, recorder, told = _fit(tmp_path, SaliencyMonitor(num_images=2))
    others = {"energy_in_box", "pointing_game", "drift"} - {score}
    assert all(len(recorder.values(f"saliency/{name}")) == 6 for name in others)
    assert not recorder.values(f"saliency/{score}")
    assert len(told) == 1
    assert f"saliency/{score}" in told[0]


def test_drift_fails_by_itself(tmp_path, monkeypatch):
    monitor = SaliencyMonitor(num_images=2)
    monkeypatch.setattr(monitor._sample, "drift", lambda maps: 1 / 0)
    _, recorder, told = _fit(tmp_path, monitor)
    assert len(recorder.values("saliency/energy_in_box")) == 6
    assert _frames(tmp_path, "overview") == [-1, 0, 1, 2, 3, 4]
    assert len(told) == 1


class TensorBoardLogger(Recorder):
    """Takes pictures, as the logger of this name."""

    def __init__(self, folder, fails=0):
        super().__init__(folder)
        self.fails, self.pictures = fails, []

    @property
    def experiment(self):
        return self

    file_writer = None

    def add_image(self, tag, picture, step, dataformats):
        self.pictures.append((tag, step))
        if len(self.pictures) <= self.fails:
            raise ConnectionError("no connection")


class WandbLogger(TensorBoardLogger):
    def log_image(self, key, images, step, **extras):
        self.add_image(key, images, step, "HWC")


@pytest.mark.parametrize("failing", [TensorBoardLogger, WandbLogger])
@pytest.mark.parametrize("fails", [1, 100])
def test_a_logger_fails_by_itself(tmp_path, failing, fails):
    kinds = [TensorBoardLogger, WandbLogger]
    loggers = [Recorder(tmp_path), *(kind(tmp_path, fails if kind is failing else 0) for kind in kinds)]
    _, _, told = _fit(tmp_path, SaliencyMonitor(num_images=2, views=("lovi",)), loggers=loggers)
    assert _frames(tmp_path, "lovi") == [-1, 0, 1, 2, 3, 4]
    assert len(told) == 1
    assert failing.__name__ in told[0]
    for logger in loggers[1:]:
        assert len(logger.pictures) == (
            3 if isinstance(logger, failing) and fails > 3 and type(logger) is failing else 6
        )


def test_reading_that_fails_is_tried_again(tmp_path, monkeypatch):
    """A layer that yields no tensor in one epoch: the frame is left out, and the next one is there."""

    class Moody(Module):
        def validation_step(self, batch, batch_idx):
            if self.trainer.current_epoch in (1, 2) and not self.trainer.sanity_checking:
                return None
            return super().validation_step(batch, batch_idx)

    _, recorder, told = _fit(tmp_path, SaliencyMonitor(num_images=2), module=Moody(), epochs=5)
    assert _frames(tmp_path, "overview") == [-1, 0, 3, 4]
    assert len(told) == 1
    assert "passed through" in told[0]
    assert len(recorder.values("saliency/drift")) == 6


def test_a_network_without_maps_of_classes_has_lovi(tmp_path):
    class Regression(Module):
        def __init__(self):
            super().__init__(nn.Sequential(nn.Conv2d(3, 8, 3), nn.MaxPool2d(2), nn.Conv2d(8, 4, 3), nn.ReLU()))

        def training_step(self, batch, batch_idx):
            return self(batch["image"]).mean()

        def validation_step(self, batch, batch_idx):
            self(batch["image"])

    def explainer(network):
        raise ValueError("no classes")

    monitor = SaliencyMonitor(num_images=2, views={"lovi": None, "mine": explainer}, log_at_start=False)
    _, _recorder, told = _fit(tmp_path, monitor, module=Regression(), epochs=2)
    assert _frames(tmp_path, "lovi") == [0, 1]
    assert len(told) == 1
    assert "views=" in told[0]


def test_failures_in_a_row_are_counted_frame_by_frame():
    attempts = Attempts()

    def run_frame(fails):
        attempts.begin_frame()
        if not attempts.wants("jump"):
            return False
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            with attempts.trying("jump"):
                if fails:
                    raise OSError
        return True

    pattern = [True, True, False, True, True, True, True, False]
    assert [run_frame(fails) for fails in pattern] == [True, True, True, True, True, True, False, False]


def test_two_loggers_of_one_class_fail_by_themselves(tmp_path):
    loggers = [Recorder(tmp_path), TensorBoardLogger(tmp_path, 100), TensorBoardLogger(tmp_path)]
    _, _, told = _fit(tmp_path, SaliencyMonitor(num_images=2, views=("lovi",)), loggers=loggers, epochs=3)
    assert [len(logger.pictures) for logger in loggers[1:]] == [3, 4]
    assert len(told) == 1


@pytest.mark.parametrize("broken", ["log", "reduce", "monitor"])
def test_logging_values_never_ends_a_run(tmp_path, monkeypatch, broken):
    module, monitor = Module(), SaliencyMonitor(num_images=2)
    original = module.log

    def fails(*arguments, **options):
        if broken == "log" and not str(arguments[0]).startswith("saliency"):
            return original(*arguments, **options)
        raise OSError("made to fail")

    if broken == "log":
        monkeypatch.setattr(module, "log", fails)
    elif broken == "reduce":
        monkeypatch.setattr(scalars.EpochScalars, "reduced", fails)
    else:
        # Somebody else's callback has a `monitor` that is no key.
        monitor.monitor = ["val/loss"]
    _, recorder, told = _fit(tmp_path, monitor, module=module, epochs=2)
    assert _frames(tmp_path, "overview") == [-1, 0, 1]
    assert len(told) == (0 if broken == "monitor" else 1)
    assert len(recorder.values("saliency/drift")) == {"log": 1, "reduce": 0, "monitor": 3}[broken]


@pytest.mark.parametrize("method", ["start", "take"])
def test_reading_that_fails_in_the_middle_of_a_frame_is_said_once(tmp_path, monkeypatch, recwarn, method):
    original, calls = getattr(ScaleReader, method), []

    def fails(self, *arguments, **named):
        calls.append(0)
        if len(calls) % 2 == 0:
            raise RuntimeError("on purpose")
        return original(self, *arguments, **named)

    monkeypatch.setattr(ScaleReader, method, fails)
    trainer(tmp_path, SaliencyMonitor(), epochs=1).fit(Module(), loader(8), loader(8))
    told = [str(each.message) for each in recwarn if "SaliencyMonitor" in str(each.message)]
    assert len(told) == 1
    assert "could not read the maps of the scales" in told[0]


def test_a_warning_has_single_spaces_with_a_remedy_and_without():
    for remedy, expected in (("", "made to fail. The run"), ("Leave it out.", "made to fail. Leave it out. The run")):
        with pytest.warns(UserWarning, match="could not do it") as caught:
            Attempts().fail("do it", ValueError("made to fail."), remedy)
        assert expected in str(caught[0].message)


class _OfBatch(Module):
    def forward(self, batch):
        return self.net(batch["image"])

    def training_step(self, batch, batch_idx):
        return nn.functional.cross_entropy(self(batch), batch["label"])

    def validation_step(self, batch, batch_idx):
        return {"logits": self(batch)}


class _OfKeywords(_OfBatch):
    def forward(self, **batch):
        return self.net(batch["image"])

    def training_step(self, batch, batch_idx):
        return nn.functional.cross_entropy(self(**batch), batch["label"])

    def validation_step(self, batch, batch_idx):
        return {"logits": self(**batch)}


@pytest.mark.parametrize("kind", [_OfBatch, _OfKeywords])
def test_a_forward_that_takes_more_than_images_is_told_of_model(tmp_path, kind):
    _, _, told = _fit(tmp_path / "a", SaliencyMonitor(num_images=2, views=("lovi", "grad_cam")), kind(), epochs=1)
    assert len(told) == 1
    assert f"{kind.__name__} cannot be called with images alone" in told[0]
    assert "model=" in told[0]
    monitor = SaliencyMonitor(num_images=2, views=("lovi", "grad_cam"), model="net")
    assert not _fit(tmp_path / "b", monitor, kind(), epochs=1)[2]
    assert _frames(tmp_path / "b", "grad_cam") == [-1, 0]


@pytest.mark.parametrize("fault", ["memory", "no pass"])
def test_reading_that_fails_now_and_then_is_not_given_up(tmp_path, monkeypatch, fault):
    """In the epochs 0, 2 and 4: three failures of a run, but never two in a row."""

    def fails(run):
        return run.current_epoch in (0, 2, 4) and not run.sanity_checking

    class Moody(Module):
        def validation_step(self, batch, batch_idx):
            return None if fault == "no pass" and fails(self.trainer) else super().validation_step(batch, batch_idx)

    original, module = ScaleReader.take, Moody()

    def take(self):
        if fault == "memory" and fails(module.trainer):
            raise torch.OutOfMemoryError("CUDA out of memory")
        return original(self)

    monkeypatch.setattr(ScaleReader, "take", take)
    _, _, told = _fit(tmp_path, SaliencyMonitor(num_images=2), module=module, epochs=7)
    assert _frames(tmp_path, "overview") == [-1, 1, 3, 5, 6]
    assert len(told) == 1


def test_what_fails_at_the_runs_end_is_not_said_to_be_tried_again(tmp_path, monkeypatch):
    def broken(self):
        raise OSError("disk full")

    monkeypatch.setattr(MonitorPage, "finish", broken)
    _, _, told = _fit(tmp_path, SaliencyMonitor(num_images=2), epochs=1)
    (message,) = told
    assert message.startswith("SaliencyMonitor could not make the page. OSError: disk full `lightning-saliency film")
    assert "each frame" not in message


def test_failures_of_one_frame_are_one():
    attempts = Attempts()
    attempts.begin_frame()
    with pytest.warns(UserWarning, match="could not jump"):
        attempts.fail("jump", OSError())
    for _ in range(4):
        attempts.fail("jump", OSError())
    assert not attempts.wants("jump")
    attempts.begin_frame()
    assert attempts.wants("jump")
