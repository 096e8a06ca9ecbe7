"""Two processes whose shares of the data differ: the callbacks end no run that one of them can watch or augment."""

from __future__ import annotations

import sys

import pytest
import pytorch_lightning as pl
import torch
from torch import nn
from torch.utils.data import DataLoader

from lightning_saliency.callbacks import (
    GroupCAMAugmentation,
    MaskTune,
    SaliencyAugmentation,
    SaliencyMonitor,
)
from lightning_saliency.pictures.film import Film
from tests.callbacks.monitor.helpers import Module, Pictures, trainer

pytestmark = [pytest.mark.slow, pytest.mark.skipif(sys.platform == "win32", reason="gloo by fork")]

#: What a process may have in the place of images that can be read.
WITHOUT = {
    "features": lambda: [(torch.rand(7), index % 4) for index in range(8)],
    "several sizes": lambda: [((torch.rand(3, 16, 16), torch.rand(3, 12, 12)), index % 4) for index in range(8)],
    "text": lambda: [("some words", index % 4) for index in range(8)],
}


class _Differing(Module):
    """Takes whatever comes, and leaves what each process ends with in a file."""

    def __init__(self, folder, stage: str, kind: str, poor: tuple[int, ...]):
        super().__init__()
        self.folder, self.stage, self.kind, self.poor = folder, stage, kind, poor

    def _loader(self, stage):
        poor = stage == self.stage and self.global_rank in self.poor
        return DataLoader(WITHOUT[self.kind]() if poor else Pictures(8), batch_size=4)

    def train_dataloader(self):
        return self._loader("train")

    def val_dataloader(self):
        return self._loader("validate")

    def _logits(self, batch):
        if isinstance(batch[0], torch.Tensor) and batch[0].ndim == 4:
            return self(batch[0])
        # Every parameter takes part, as DDP wants it.
        return self(torch.ones(len(batch[1]), 3, 16, 16))

    def training_step(self, batch, batch_idx):
        return nn.functional.cross_entropy(self._logits(batch), batch[1])

    def validation_step(self, batch, batch_idx):
        return {"logits": self._logits(batch)}

    def on_train_end(self):
        torch.save([*self.state_dict().values(), torch.rand(1)], self.folder / f"end{self.global_rank}.pt")


def _run(folder, callbacks, stage, kind, poor):
    folder.mkdir()
    pl.seed_everything(7)
    run = trainer(folder, *callbacks, strategy="ddp_fork", devices=2, epochs=2, use_distributed_sampler=False)
    run.fit(_Differing(folder, stage, kind, poor))
    return run, [torch.load(folder / f"end{rank}.pt") for rank in range(2)]


def _equal(left, right):
    return all(map(torch.equal, left[0] + left[1], right[0] + right[1]))


@pytest.mark.parametrize("kind", WITHOUT)
@pytest.mark.parametrize("poor", [0, 1])
@pytest.mark.parametrize("stage", ["validate", "train"])
def test_the_monitor_shows_what_the_other_process_has(tmp_path, stage, poor, kind):
    _, alone = _run(tmp_path / "alone", [], stage, kind, (poor,))
    monitor = SaliencyMonitor(stage=stage, num_images=3, views=("lovi", "grad_cam"))
    run, ends = _run(tmp_path / "watched", [monitor], stage, kind, (poor,))
    assert _equal(alone, ends)
    film = Film(tmp_path / "watched" / "recorder" / "v" / "saliency")
    assert [frame.epoch for frame in film.frames("lovi")] == ([-1, 0, 1] if stage == "validate" else [0, 1])
    assert len(film.frames("grad_cam")) == len(film.frames("lovi"))
    assert 0 <= run.callback_metrics["saliency/position_bias"] <= 1
    assert ("saliency/drift" in run.callback_metrics) == (stage == "validate")


@pytest.mark.parametrize("stage", ["validate", "train"])
def test_the_monitor_refuses_what_no_process_can_watch(tmp_path, stage):
    with pytest.raises(Exception, match="MonitorConfigurationError: SaliencyMonitor cannot watch this run"):
        _run(tmp_path / "watched", [SaliencyMonitor(stage=stage)], stage, "features", (0, 1))
    assert not list(tmp_path.rglob("*.png"))


AUGMENTATIONS = {
    "hide": lambda **settings: SaliencyAugmentation("smoe", action="hide", **settings),
    "Group-CAM": lambda **settings: GroupCAMAugmentation(groups=4, **settings),
    "a fixed guide": lambda **settings: MaskTune("smoe", share=0.1, maps="mean", start_epoch=1, **settings),
}


@pytest.mark.parametrize("kind", AUGMENTATIONS)
@pytest.mark.parametrize("poor", [0, 1])
def test_the_augmentation_changes_the_images_of_the_other_process(tmp_path, poor, kind):
    _, alone = _run(tmp_path / "alone", [], "train", "features", (poor,))
    _, plain = _run(tmp_path / "plain", [AUGMENTATIONS[kind](probability=0.0)], "train", "features", (poor,))
    assert _equal(alone, plain)
    run, ends = _run(tmp_path / "augmented", [AUGMENTATIONS[kind](name="mine")], "train", "features", (poor,))
    assert not _equal(alone, ends)
    assert 0 < run.callback_metrics["mine/augmented"] <= 1
    film = Film(tmp_path / "augmented" / "recorder" / "v" / "mine")
    assert [frame.epoch for frame in film.frames("augmentation")] == [-1, 0, 1]


def test_the_augmentation_refuses_what_no_process_can_augment(tmp_path):
    with pytest.raises(Exception, match="AugmentationConfigurationError: SaliencyAugmentation cannot augment"):
        _run(tmp_path / "augmented", [AUGMENTATIONS["hide"]()], "train", "features", (0, 1))
