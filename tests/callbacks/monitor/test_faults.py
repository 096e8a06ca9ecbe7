"""What breaks in the middle of a run: it trains on bit for bit, or ends as it would have ended without the monitor."""

import errno
import os
import shutil
import signal
import sys
import warnings
from dataclasses import replace

import pytest
import pytorch_lightning as pl
import torch

from lightning_saliency.callbacks import SaliencyMonitor
from lightning_saliency.functional.statistics import get_statistic
from lightning_saliency.pictures import film as film_file
from lightning_saliency.pictures.film import Film
from tests.callbacks.monitor.helpers import Module, Recorder, loader, trainer

EPOCHS = 4
_VIEWS = ("lovi", "combined")


def _run(folder, *callbacks, make=Module, logger=None):
    """What a run leaves behind: how it ended, its losses, weights, the next random number, and what was said."""
    pl.seed_everything(3, workers=True)
    module = make()
    run = trainer(folder, *callbacks, logger=logger, epochs=EPOCHS)
    ended = "completed"
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        try:
            run.fit(module, loader(8, shuffle=True, form="dict"), loader(4, form="dict"))
        except BaseException as error:  # compared with the plain run's
            ended = f"{type(error).__name__}: {error}"
    told = [str(each.message) for each in caught if "aliency" in str(each.message)]
    hooks = [module_ for module_ in module.modules() if module_._forward_hooks or module_._forward_pre_hooks]
    assert hooks == []
    return ended, run.global_step, module.losses, module.state_dict(), torch.rand(1).item(), told


def _assert_same(plain, watched):
    assert plain[:3] == watched[:3]
    assert all(torch.equal(value, watched[3][name]) for name, value in plain[3].items())
    assert plain[4] == watched[4]


def _epochs(folder, view="lovi"):
    return [frame.epoch for frame in Film(folder / "recorder" / "v" / "saliency").frames(view)]


def _in_a_hook(monitor, fault, wanted):
    """Let the statistic fail that the hooks compute: at the calls whose numbers are wanted."""
    own, calls = get_statistic("smoe_scale"), []

    def statistic(activations, *, dim=1):
        calls.append(dim)
        if wanted(len(calls)):
            fault()
        return own(activations, dim=dim)

    monitor.statistic = replace(own, function=statistic)
    return monitor


def _out_of_memory():
    raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")


@pytest.mark.parametrize("always", [True, False])
def test_memory_runs_out_in_a_hook(tmp_path, always):
    plain = _run(tmp_path / "plain")
    monitor = _in_a_hook(SaliencyMonitor(num_images=2, views=_VIEWS), _out_of_memory, lambda call: always or call == 1)
    watched = _run(tmp_path, monitor)
    _assert_same(plain, watched)
    assert len(watched[5]) == 1
    assert "CUDA out of memory" in watched[5][0]
    assert "num_images=" in watched[5][0]
    assert _epochs(tmp_path) == ([] if always else [0, 1, 2, 3])
    # Images that were not read once are not taken for images that do not come back.
    assert monitor._sample.followed
    assert bool(monitor._values.latest.get("drift", 1.0) < 1) != always


class _Interrupted(Module):
    """Ended by its own validation."""

    def __init__(self, fault, steps):
        super().__init__()
        self.fault, self.left = fault, steps

    def validation_step(self, batch, batch_idx):
        result = super().validation_step(batch, batch_idx)
        self.left -= 1
        if self.left == 0:
            self.fault()
        return result


def _interrupt():
    raise KeyboardInterrupt


def _terminate():
    os.kill(os.getpid(), signal.SIGTERM)


@pytest.mark.skipif(sys.platform == "win32", reason="signals")
@pytest.mark.parametrize("fault", [_interrupt, _terminate])
def test_the_run_is_ended_in_a_hook(tmp_path, fault):
    """In the pass of the second epoch's validation, which is the third with the sanity check's."""
    before = signal.getsignal(signal.SIGTERM)
    plain = _run(tmp_path / "plain", make=lambda: _Interrupted(fault, 3))
    due = []

    class Counting(Module):
        def on_validation_epoch_start(self):
            due.append(1)

    def once():
        due.append(1)
        fault()

    monitor = _in_a_hook(SaliencyMonitor(num_images=2, views=_VIEWS), once, lambda call: len(due) == 3)
    watched = _run(tmp_path, monitor, make=Counting)
    assert plain[0] != "completed"
    _assert_same(plain, watched)
    assert signal.getsignal(signal.SIGTERM) is before
    # The same monitor serves another run.
    monitor.statistic = get_statistic("smoe_scale")
    assert _run(tmp_path / "again", monitor)[0] == "completed"
    assert _epochs(tmp_path / "again") == [-1, 0, 1, 2, 3]


@pytest.mark.parametrize("what", ["run", "film", "view"])
def test_the_runs_folder_is_removed(tmp_path, what):
    folder = {"run": tmp_path / "recorder", "film": tmp_path / "recorder" / "v" / "saliency"}
    folder["view"] = folder["film"] / "lovi"

    class Removing(pl.Callback):
        def on_train_epoch_end(self, run, module):
            if run.current_epoch == 1:
                shutil.rmtree(folder[what])

    plain = _run(tmp_path / "plain")
    watched = _run(tmp_path, SaliencyMonitor(num_images=2, views=_VIEWS), Removing())
    _assert_same(plain, watched)
    assert _epochs(tmp_path) == [2, 3]
    assert watched[5] == []


@pytest.mark.parametrize("fails", [1, 1000])
def test_the_disk_is_full(tmp_path, monkeypatch, fails):
    own, calls = film_file._write, []

    def write(path, picture):
        calls.append(path)
        if len(calls) <= fails:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(path))
        own(path, picture)

    plain = _run(tmp_path / "plain")
    monkeypatch.setattr(film_file, "_write", write)
    watched = _run(tmp_path, SaliencyMonitor(num_images=2, views=("lovi",)))
    _assert_same(plain, watched)
    assert len(watched[5]) == 1
    assert "No space left" in watched[5][0]
    assert _epochs(tmp_path) == ([0, 1, 2, 3] if fails == 1 else [])
    assert len(calls) == (5 if fails == 1 else 3)


class _Failing(Recorder):
    """A logger without a connection where the monitor alone logs values: in the sanity check."""

    def log_metrics(self, metrics, step=None):
        if step == 0 and all(name.startswith("saliency") for name in metrics):
            raise ConnectionError("no connection")
        super().log_metrics(metrics, step)


def test_a_logger_that_raises(tmp_path):
    plain = _run(tmp_path / "plain")
    logger = _Failing(tmp_path)
    watched = _run(tmp_path, SaliencyMonitor(num_images=2, views=_VIEWS), logger=logger)
    _assert_same(plain, watched)
    assert len(watched[5]) == 1
    assert "ConnectionError: no connection" in watched[5][0]
    assert len(logger.values("saliency/drift")) == EPOCHS
