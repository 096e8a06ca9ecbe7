"""Kept and removed pixels: what the sheet shows, and what it says of equal pixels."""

from __future__ import annotations

import pytest
import torch

from lightning_saliency.functional.masking import top_fraction
from lightning_saliency.reports.masked_pixels import check_fractions, mask_sheet, tied_share


def test_a_mask_sheet_shows_what_the_network_is_given():
    image = torch.zeros(3, 32, 32)
    image[0] = 1.0
    saliency = torch.arange(1024.0).view(32, 32)
    drawn = mask_sheet(image, {"smoe": saliency}, ["roar", "kar"], [0.25, 0.5], tile=32)
    left, top, step = 8, 36, 36
    tiles = [drawn[top : top + 32, left + place * step :][:, :32] for place in range(5)]
    red = [int((tile == [255, 0, 0]).all(-1).sum()) for tile in tiles]
    assert red == [1024, 256, 512, 768, 512]
    grey = (tiles[1] == [128, 128, 128]).all(-1)
    assert grey[:24].all()
    assert not grey[24:].any()


def test_the_fill_and_the_first_column_can_be_others():
    image, saliency = torch.ones(3, 32, 32), torch.arange(1024.0).view(32, 32)
    drawn = mask_sheet(image, {"smoe": saliency}, ["roar"], [0.25], 32, (1.0, 0.0, 0.2), torch.zeros(3, 32, 32))
    first, removed = (drawn[36:68, left : left + 32] for left in (8, 44))
    assert (first == 0).all()
    assert (removed[:24] == 255).all()
    assert (removed[24:] == [255, 0, 51]).all()


def test_equal_pixels_are_a_share_where_the_chosen_ones_end_among_them():
    saliency = torch.zeros(4, 5)
    saliency[0] = torch.tensor([5.0, 5.0, 3.0, 2.0, 1.0])
    shares = {0.05: 0.1, 0.1: 0.0, 0.15: 0.0, 0.25: 0.0, 0.3: 0.75, 0.9: 0.75}
    for fraction, expected in shares.items():
        assert tied_share(saliency, [fraction]) == pytest.approx(expected), fraction
    assert tied_share(saliency, [0.05, 0.1]) == pytest.approx(0.1)
    assert tied_share(saliency, []) == 0
    # A share that is less than half a pixel chooses none.
    assert not top_fraction(saliency, 0.01).any()
    assert tied_share(saliency, [0.01]) == 0


@pytest.mark.parametrize("fraction", [0, 1, 10, -0.1, float("nan"), "half", None])
def test_shares_that_leave_nothing_to_be_seen_are_refused(fraction):
    with pytest.raises(ValueError, match=f"Got the fraction {fraction}. Allowed are shares in .0, 1.*divide per cent"):
        check_fractions([0.5, fraction])
