"""The film of the worst images: found in the first epoch, and followed from then on."""

from __future__ import annotations

import pytest
import torch
from torch.utils.data import DataLoader, TensorDataset

from lightning_saliency import SaliencyMonitor
from lightning_saliency.callbacks.monitor.options import MonitorConfigurationError
from lightning_saliency.callbacks.monitor.reading.sample import FixedSample, SampleRecord
from tests.callbacks.monitor.helpers import Module, SmallNet, loader, trainer

LABELS = torch.arange(16) % 3
HARD = {9: 4.0, 5: 3.0, 14: 2.0}


class Brightest(SmallNet):
    """Says which channel is the brightest, whatever it is trained for."""

    def __init__(self) -> None:
        super().__init__(classes=3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return 4 * x.mean((2, 3)) + 1e-3 * super().forward(x)


class Still(Module):
    """Does not learn, so that the losses of all epochs are known; ``says`` is what its validation returns."""

    def __init__(self, says: str = "logits") -> None:
        super().__init__(Brightest(), learning_rate=0.0)
        self.says = says

    def training_step(self, batch, batch_idx):
        return self(batch[0]).square().mean()

    def validation_step(self, batch, batch_idx):
        images = batch[0]
        logits = self(images)
        return {"logits": logits} if self.says == "logits" else None


def pictures() -> torch.Tensor:
    """Images whose own channel is the brightest, but for the hard ones, where another one is."""
    images = torch.rand(16, 3, 16, 16, generator=torch.Generator().manual_seed(0)) * 0.1
    for index, label in enumerate(LABELS.tolist()):
        images[index, label] += 2
        if index in HARD:
            images[index, (label + 1) % 3] += 2 + HARD[index]
    return images


def fit(folder, monitor, module, epochs=2, images=None):
    data = TensorDataset(pictures(), LABELS) if images is None else images
    kept = []
    keep = monitor._film.page.keep
    monitor._film.page.keep = lambda run, records, *rest: (
        kept.append((run.current_epoch, records)),
        keep(run, records, *rest),
    )
    run = trainer(folder, monitor, epochs=epochs)
    run.fit(module, DataLoader(data, batch_size=4), DataLoader(data, batch_size=4, shuffle=True))
    return kept


@pytest.mark.parametrize("says", ["logits", "nothing"])
def test_the_worst_images_are_found_and_followed_the_worst_first(tmp_path, says):
    monitor = SaliencyMonitor(indices="worst", num_images=3, views=("overview", "fast_cam"))
    kept = fit(tmp_path, monitor, Still(says))
    assert [epoch for epoch, _ in kept] == [0, 1]  # none of the untrained network
    images = pictures()
    for _, records in kept:
        assert [record.label for record in records] == [int(LABELS[index]) for index in HARD]
        for record, index in zip(records, HARD, strict=True):
            assert torch.equal(record.image, images[index])
            assert record.prediction == (record.label + 1) % 3
            assert record.views["fast_cam"].shape == (16, 16)


def test_the_maps_are_those_of_the_same_images_chosen_by_number(tmp_path):
    torch.manual_seed(0)
    worst = fit(tmp_path / "worst", SaliencyMonitor(indices="worst", num_images=3), Still())
    numbers = SaliencyMonitor(indices=list(range(16)))
    torch.manual_seed(0)
    chosen = fit(tmp_path / "all", numbers, Still())
    everyone = chosen[-1][1]
    for record in worst[-1][1]:
        (same,) = [one for one in everyone if torch.equal(one.image, record.image)]
        assert all(torch.allclose(a, b, atol=1e-5) for a, b in zip(record.statistics, same.statistics, strict=True))


def test_images_without_a_class_are_no_worst_ones(tmp_path):
    labels = LABELS.clone()
    labels[9] = -1
    kept = fit(
        tmp_path, SaliencyMonitor(indices="worst", num_images=1), Still(), images=TensorDataset(pictures(), labels)
    )
    assert [torch.equal(records[0].image, pictures()[5]) for _, records in kept] == [True, True]


def test_what_cannot_tell_the_worst_is_refused_before_training(tmp_path):
    with pytest.raises(MonitorConfigurationError, match=r"Got indices='worst' with batches that carry no classes"):
        fit(tmp_path, SaliencyMonitor(indices="worst"), Still(), images=TensorDataset(pictures()))
    # A part of the module that was named may return features: its outputs are not taken for logits.
    with pytest.raises(MonitorConfigurationError, match=r"Got indices='worst', but no logits.*return them from the"):
        fit(tmp_path, SaliencyMonitor(indices="worst", model="net"), Still("nothing"))
    with pytest.raises(MonitorConfigurationError, match=r"Got indices='worst' with stage='train'"):
        SaliencyMonitor(indices="worst", stage="train")


def test_images_that_change_at_random_are_given_up(tmp_path, recwarn):
    class Noisy(TensorDataset):
        def __getitem__(self, index):
            image, label = super().__getitem__(index)
            return image + torch.rand_like(image), label

    kept = fit(
        tmp_path, SaliencyMonitor(indices="worst", num_images=3), Still(), images=Noisy(pictures(), LABELS), epochs=3
    )
    assert any("did not find the film's images again" in str(one.message) for one in recwarn)
    assert [(epoch, len(records)) for epoch, records in kept] == [(0, 3), (2, 3)]


def test_a_frame_that_failed_chooses_nothing(tmp_path, monkeypatch):
    monitor = SaliencyMonitor(indices="worst", num_images=3)
    choose, calls = FixedSample.choose, []

    def fails_once(self, images, losses):
        calls.append(len(losses))
        if len(calls) == 4:  # two batches of the sanity check, then the second of the first epoch
            raise RuntimeError("lost")
        return choose(self, images, losses)

    monkeypatch.setattr(FixedSample, "choose", fails_once)
    with pytest.warns(UserWarning, match="lost"):
        kept = fit(tmp_path, monitor, Still(), epochs=3)
    assert [epoch for epoch, _ in kept] == [1, 2]
    assert torch.equal(kept[0][1][0].image, pictures()[9])


def test_a_resumed_run_follows_the_same_images():
    images, sample = torch.rand(8, 3, 8, 8), FixedSample(2, indices="worst")
    assert sample.place(images[:4], [0] * 4) == [(row, row) for row in range(4)]
    assert sample.choose(images[:4], [0.1, 0.9, 0.3, -float("inf")]) == [(1, 1), (2, 0)]
    assert sample.choose(images[4:], [0.3, float("inf"), 0.2, 0.1]) == [(1, 0)]
    sample.records = {slot: SampleRecord(image=images[row], statistics=[]) for row, slot in ((1, 1), (5, 0))}
    assert not sample.end()
    assert [torch.equal(one.image, images[row]) for one, row in zip(sample.present(), (5, 1), strict=True)] == [
        True
    ] * 2
    again = FixedSample(2, indices="worst")
    again.load_state_dict(sample.state_dict())
    again.begin()
    assert not again.chooses
    assert again.place(images) == [(5, 0), (1, 1)]


def test_fewer_images_than_asked_for(tmp_path):
    monitor = SaliencyMonitor(indices="worst", num_images=9)
    run = trainer(tmp_path, monitor)
    run.fit(Module(), loader(8), loader(4, shuffle=True))
    assert sum(known is not None for known in monitor._sample.fingerprints) == 4
