"""The fixed sample: the same images in each epoch, wherever a loader puts them."""

from __future__ import annotations

import pytest
import torch

from lightning_saliency.callbacks.monitor.reading.sample import FixedSample, SampleRecord
from tests.batches.test_fingerprints import SPARSE


def _epoch(sample, images, order, batch_size=4, as_list=False):
    """The images of the slots after an epoch in some order."""
    sample.begin()
    for rows in torch.as_tensor(order).split(batch_size):
        batch = images[rows]
        for row, slot in sample.place(list(batch) if as_list else batch):
            sample.records[slot] = SampleRecord(image=batch[row], statistics=[])
    return [record.image for record in sample.present()]


@pytest.mark.parametrize("as_list", [False, True])
@pytest.mark.parametrize("kind", SPARSE)
def test_images_are_found_again_in_shuffled_epochs(kind, as_list):
    images, sample = SPARSE[kind], FixedSample(5)
    first = _epoch(sample, images, torch.arange(16), as_list=as_list)
    assert [torch.equal(a, b) for a, b in zip(first, images[:5], strict=True)] == [True] * 5
    for seed in range(3):
        order = torch.randperm(16, generator=torch.Generator().manual_seed(seed))
        again = _epoch(sample, images, order, as_list=as_list)
        assert [torch.equal(a, b) for a, b in zip(again, first, strict=True)] == [True] * 5


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
@pytest.mark.parametrize("kind", ["dots", "stars", "dense"])
def test_a_run_goes_on_in_another_precision_with_the_same_images(kind, dtype):
    images, sample, resumed = SPARSE[kind], FixedSample(4), FixedSample(4)
    first = _epoch(sample, images, torch.arange(16))
    resumed.load_state_dict(sample.state_dict())
    again = _epoch(resumed, images.to(dtype), torch.randperm(16, generator=torch.Generator().manual_seed(1)))
    assert [torch.equal(a, b.to(dtype)) for a, b in zip(again, first, strict=True)] == [True] * 4


def test_images_of_another_form_are_not_those_of_the_sample():
    sample = FixedSample(2)
    _epoch(sample, SPARSE["dots"], torch.arange(2))
    for others in (torch.rand(4, 1, 64, 64), torch.rand(4, 3, 32, 64)):
        sample.begin()
        assert sample.place(others) == []


def test_images_that_are_equal_keep_their_slots():
    images, sample = torch.zeros(6, 3, 8, 8), FixedSample(3)
    _epoch(sample, images, torch.arange(6))
    sample.begin()
    assert sample.place(images) == [(0, 0), (1, 1), (2, 2)]


def test_images_may_be_chosen_by_their_numbers_and_are_found_again():
    images, sample = SPARSE["dense"], FixedSample(3, indices=[9, 2, 14])
    first = _epoch(sample, images[:8], torch.arange(8))  # a sanity check that ends early
    assert [torch.equal(a, images[2]) for a in first] == [True]
    for order in (torch.arange(16), torch.randperm(16, generator=torch.Generator().manual_seed(3))):
        shown = _epoch(sample, images, order)
        assert [torch.equal(a, images[i]) for a, i in zip(shown, (9, 2, 14), strict=True)] == [True] * 3
    resumed = FixedSample(3, indices=[9, 2, 14])
    resumed.load_state_dict(sample.state_dict())
    assert [torch.equal(a, b) for a, b in zip(_epoch(resumed, images, torch.arange(16)), shown, strict=True)] == [
        True
    ] * 3
    training = FixedSample(2, follow=False, indices=[5, 6])
    assert [torch.equal(a, images[i]) for a, i in zip(_epoch(training, images, torch.arange(16)), (5, 6), strict=True)]


def test_drift_is_of_the_images_that_came_by_now_and_before():
    generator = torch.Generator().manual_seed(0)
    images, sample = torch.rand(4, 3, 8, 8, generator=generator), FixedSample(4)
    first, second = (list(torch.rand(4, 8, 8, generator=generator)) for _ in range(2))

    def drift(rows, maps):
        sample.begin()
        for row, slot in sample.place(images[rows]):
            sample.records[slot] = SampleRecord(image=images[rows[row]], statistics=[])
        assert sample.slots() == sorted(rows)
        return sample.drift([maps[slot] for slot in sample.slots()])

    assert drift([0, 1, 2, 3], first) is None
    assert drift([0, 1, 2, 3], first).tolist() == pytest.approx([0] * 4, abs=1e-5)
    assert drift([1, 3], first).tolist() == pytest.approx([0] * 2, abs=1e-5)
    assert drift([3, 2], second).min() > 0.3
    resumed = FixedSample(4)
    resumed.load_state_dict(sample.state_dict())
    sample = resumed
    # Each with its own last one, however long ago.
    mixed = [*first[:2], *second[2:]]
    assert drift([0, 1, 2, 3], mixed).tolist() == pytest.approx([0] * 4, abs=1e-2)


def test_images_that_come_by_later_are_compared_from_then_on():
    images, maps = torch.rand(4, 3, 8, 8), list(torch.rand(4, 8, 8))
    sample = FixedSample(4)
    for rows, count in (([0, 1], None), ([0, 1, 2, 3], 2), ([0, 1, 2, 3], 4)):
        sample.begin()
        for row, slot in sample.place(images[rows]):
            sample.records[slot] = SampleRecord(image=images[rows[row]], statistics=[])
        found = sample.drift([maps[slot] for slot in sample.slots()])
        assert (None if found is None else len(found)) == count
