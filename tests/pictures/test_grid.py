"""Pictures in rows and columns."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from lightning_saliency.pictures.grid import picture_grid
from lightning_saliency.pictures.tensors import to_uint8


def test_pictures_stand_in_their_places_and_marks_on_theirs_alone():
    rows = {name: list(torch.rand(3, 3, 40, 20)) for name in ("one", "other")}
    plain = picture_grid(["a", "b", "c"], rows, tile=40)
    marked = picture_grid(["a", "b", "c"], rows, tile=40, marks={"other": [2]}, mark="x")
    assert plain.shape == (18 + 2 * 62 + 2, 2 * 8 + 3 * 20 + 2 * 4, 3)
    for row, pictures in enumerate(rows.values()):
        for column, picture in enumerate(pictures):
            top, left = 36 + 62 * row, 8 + 24 * column
            place = slice(top, top + 40), slice(left, left + 20)
            assert np.array_equal(plain[place], to_uint8(picture))
            assert np.array_equal(marked[place], plain[place]) == ((row, column) != (1, 2))


def test_a_long_caption_keeps_to_its_column():
    rows = {"one": list(torch.zeros(2, 3, 40, 40))}
    long, short = (picture_grid([caption, "b"], rows, tile=40) for caption in ("features.denseblock4.conv2", ""))
    assert not np.array_equal(long[:18, 8:48], short[:18, 8:48])
    assert np.array_equal(long[:18, 50:], short[:18, 50:])


@pytest.mark.parametrize(
    ("rows", "message"),
    [({"one": [torch.zeros(3, 8, 8)]}, "Got 1 pictures in row 'one'. Allowed are 2"), ({}, "no row")],
)
def test_wrong_rows_are_said(rows, message):
    with pytest.raises(ValueError, match=message):
        picture_grid(["a", "b"], rows, tile=8)
