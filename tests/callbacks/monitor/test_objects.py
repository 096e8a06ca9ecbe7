"""Scores of maps against objects, in whatever form a batch carries them."""

from __future__ import annotations

import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode

from lightning_saliency.batches import BatchReader
from lightning_saliency.callbacks.monitor.scalars import OBJECT_SCORES, EpochScalars, on_grid


@pytest.mark.parametrize("score", list(OBJECT_SCORES))
def test_boxes_of_plain_numbers_are_scored_where_the_maps_are(score, monkeypatch):
    boxes = [[[2, 2, 6, 6]], [[1, 1, 4, 4], [3, 3, 3, 3]]]
    objects = BatchReader(box_format="xywh").read({"image": torch.rand(2, 3, 16, 16), "boxes": boxes}).objects()
    scored, scalars = [], EpochScalars()
    monkeypatch.setattr(scalars, "add", lambda name, values, counted: scored.append((name, values, counted)))
    with FakeTensorMode(allow_non_fake_inputs=True):  # tensors that know their device and hold no values
        maps = torch.rand(2, 8, 8, device="cuda")
        scalars.add_objects(score, maps, on_grid(objects, maps))
    assert [name for name, *_ in scored] == [score]
    assert {value.device.type for value in scored[0][1:]} == {"cuda"}
