"""How images are shown: what a run does not tell of their colours and names costs the film nothing."""

from __future__ import annotations

import warnings

import pytest
from torch.utils.data import DataLoader, Dataset
from torchvision import transforms as v1

from lightning_saliency import SaliencyAugmentation, SaliencyMonitor
from lightning_saliency.pictures.page import FilmRecords
from tests.callbacks.monitor.helpers import Module, Pictures, SmallNet, trainer


class Transformed(Dataset):
    """Pictures with a transform."""

    def __init__(self, transform, count: int = 8) -> None:
        self.transform, self.pictures = transform, Pictures(count)

    def __len__(self) -> int:
        return len(self.pictures)

    def __getitem__(self, index: int):
        image, label = self.pictures[index]
        return self.transform(image), label


def _fit(folder, data, *callbacks, channels: int = 3, module=None):
    """Of a run of one epoch: the warnings, and the frames of its page."""
    data = DataLoader(data, 4) if isinstance(data, Dataset) else data
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        run = trainer(folder, *callbacks, epochs=1)
        run.fit(module or Module(SmallNet(channels)), data, data)
    store = FilmRecords(folder / "recorder" / "v" / "saliency" / "film")
    said = [str(each.message) for each in caught if "could not" in str(each.message)]
    return said, [store.read(frame) for frame in store.frames()]


@pytest.mark.parametrize(
    ("transform", "channels"),
    [
        (v1.Normalize(0.5, 0.5), 3),
        (v1.Compose([v1.Normalize([0.5] * 3, [0.2] * 3), v1.Grayscale()]), 1),
    ],
)
def test_a_normalisation_of_any_form_costs_no_picture(tmp_path, transform, channels):
    data, monitor = Transformed(transform), SaliencyMonitor(num_images=2, views=("lovi", "mean"))
    augmentation = SaliencyAugmentation("smoe", name="augmented")
    said, frames = _fit(tmp_path, data, monitor, augmentation, channels=channels)
    assert said == []
    assert [frame.epoch for frame in frames] == [-1, 0]
    for name in ("saliency/lovi", "saliency/mean", "augmented/augmentation"):
        assert len(list((tmp_path / "recorder" / "v" / name).glob("*.png"))) == 2


def test_a_normalisation_that_was_given_has_to_fit(tmp_path):
    monitor = SaliencyMonitor(num_images=2, denormalize="imagenet")
    said, _ = _fit(tmp_path, Transformed(v1.Grayscale()), monitor, channels=1)
    assert any("Got 3 means and 3 standard deviations for 1 channels" in each for each in said)
