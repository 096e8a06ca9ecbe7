"""Boxes in pixels are told from others in each batch; on a GPU, once they are known, without waiting for it."""

from __future__ import annotations

import pytest
import torch

from benchmarks._stand_in import DEVICE, Events
from lightning_saliency import SaliencyMonitor
from lightning_saliency.batches import BatchReader
from tests.callbacks.monitor.helpers import Module, loader, trainer

PIXELS, WHOLE, RELATIVE = (
    torch.tensor([[box]] * 2) for box in ([4.0, 2.0, 10.0, 6.0], [0.0, 0.0, 1.0, 1.0], [0.2, 0.125, 0.5, 0.375])
)


def batch(boxes):
    return {"image": torch.zeros(2, 3, 16, 20), "boxes": boxes}


@pytest.mark.parametrize("first", [PIXELS, WHOLE], ids=["pixels", "the first pixel"])
def test_relative_boxes_behind_others_are_left_out(first):
    reader = BatchReader()
    assert bool(reader.read(batch(first)).objects().any())
    with pytest.warns(UserWarning, match="box_format='relative_xyxy'"):
        assert reader.read(batch(RELATIVE)).objects() is None


def test_on_a_gpu_they_cover_nothing_and_it_is_not_waited_for():
    reader = BatchReader()
    with Events(least=10**9) as events:
        first, later = PIXELS.to(DEVICE), RELATIVE.to(DEVICE)
        reader.read(batch(first)).objects()
        events.found.clear()
        again, other = (reader.read(batch(boxes)).objects() for boxes in (first, later))
        assert [event for event in events.found if event.kind == "wait"] == []
        assert again.inner.sum((1, 2)).tolist() == [24, 24]
        assert other.inner.sum((1, 2)).tolist() == [0, 0]
        reader.begin()
        with pytest.warns(UserWarning, match="box_format='relative_xyxy'"):
            assert reader.read(batch(later)).objects() is None


def test_on_a_gpu_boxes_of_the_first_pixel_alone_do_not_tell():
    reader = BatchReader()
    with Events(least=10**9):
        reader.read(batch(WHOLE.to(DEVICE))).objects()
        with pytest.warns(UserWarning, match="box_format='relative_xyxy'"):
            assert reader.read(batch(RELATIVE.to(DEVICE))).objects() is None


def test_another_loader_and_another_run_begin_anew(tmp_path, monkeypatch):
    begun = []
    monkeypatch.setattr(BatchReader, "begin", lambda self: begun.append(0))
    run, module = trainer(tmp_path, SaliencyMonitor()), _Several()
    for _ in range(2):
        run.validate(module, [loader(8), loader(8)], verbose=False)
    assert len(begun) == 4


class _Several(Module):
    def validation_step(self, batch, batch_idx, dataloader_idx):
        self(batch[0])
