"""What a film on a remote store costs: each request takes a while, and a training waits for it."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest

from lightning_saliency.files import RemotePath
from lightning_saliency.pictures.film import Film


def test_a_picture_costs_the_same_however_many_there_are(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: Counter[str] = Counter()
    size = RemotePath.size
    monkeypatch.setattr(RemotePath, "size", lambda path: asked.update([path.name]) or size(path))
    film, picture = Film("memory://films/requests"), np.zeros((8, 8, 3), np.uint8)
    for epoch in range(20):
        for view in ("overview", "lovi"):
            film.add(view, picture, epoch=epoch, step=epoch)
    assert len(asked) == 20
    assert set(asked.values()) == {2}, "once for each view"


def test_a_picture_that_is_replaced_is_measured_anew() -> None:
    film = Film("memory://films/replaced", max_megabytes=0.004)
    large = np.random.default_rng(0).integers(0, 256, (24, 24, 3), dtype=np.uint8)
    for picture in (np.zeros((2, 2, 3), np.uint8), large):
        for epoch in range(4):
            film.add("lovi", picture, epoch=epoch, step=epoch)
    assert [frame.epoch for frame in film.frames("lovi")] == [0, 3]
