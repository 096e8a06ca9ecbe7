"""When frames come: whatever ran before, and however often the run was resumed."""

import pytest
from torch.utils.data import DataLoader, IterableDataset

from lightning_saliency.callbacks import SaliencyMonitor
from lightning_saliency.callbacks.monitor.film import MonitorFilm
from lightning_saliency.pictures.film import Film
from tests.callbacks.monitor.helpers import Module, Pictures, loader, trainer


def _frames(tmp_path):
    return [(frame.epoch, frame.step) for frame in Film(tmp_path / "recorder" / "v" / "saliency").frames("overview")]


@pytest.mark.parametrize("validated", [False, True])
def test_a_validation_before_training_shifts_no_frame(tmp_path, validated):
    run, module = trainer(tmp_path, SaliencyMonitor(num_images=2, every_n_epochs=3), epochs=6), Module()
    if validated:
        run.validate(module, loader(), verbose=False)
    run.fit(module, loader(), loader())
    assert _frames(tmp_path) == [(-1, 0), (2, 11), (5, 23)]


class _Endless(IterableDataset):
    def __iter__(self):
        return (Pictures(form="dict")[index % 16] for index in iter(int, 1))


@pytest.mark.parametrize("stage", ["validate", "train"])
@pytest.mark.parametrize("legs", [1, 2, 4])
def test_rounds_are_counted_over_all_legs_of_a_run(tmp_path, monkeypatch, stage, legs):
    """Eight rounds of four steps, each third of which has a frame, in one run or resumed."""
    drawn, checkpoint = [], None
    monkeypatch.setattr(MonitorFilm, "show", lambda self, run, *rest: drawn.append(run.global_step))
    for leg in range(1, legs + 1):
        monitor = SaliencyMonitor(num_images=2, every_n_epochs=3, stage=stage, log_at_start=False)
        steps = {"max_steps": 32 * leg // legs, "val_check_interval": 4, "check_val_every_n_epoch": None}
        run = trainer(tmp_path, monitor, epochs=-1, enable_checkpointing=True, **steps)
        train = DataLoader(_Endless(), 4) if stage == "train" else loader(form="dict")
        run.fit(Module(), train, loader(form="dict"), ckpt_path=checkpoint)
        checkpoint = tmp_path / f"{leg}.ckpt"
        run.save_checkpoint(checkpoint)
    assert drawn == [12, 24]
