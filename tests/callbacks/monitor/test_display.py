"""How images are shown: what a run does not tell of their colours and names costs the film nothing."""

from __future__ import annotations

import io
import warnings

import numpy as np
import pytest
import pytorch_lightning as pl
import torch
from PIL import Image
from torch.utils.data import DataLoader, Dataset
from torchvision import transforms as v1

from lightning_saliency import SaliencyAugmentation, SaliencyMonitor
from lightning_saliency.callbacks.monitor.frame import Frame
from lightning_saliency.callbacks.monitor.reading.sample import SampleRecord
from lightning_saliency.pictures.page import FilmRecords
from lightning_saliency.pictures.page.recorder import make_frame
from lightning_saliency.pictures.tensors import to_uint8
from tests.callbacks.monitor.helpers import Module, Pictures, SmallNet, loader, trainer


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


class Data(pl.LightningDataModule):
    """Pictures, with names of classes of any form."""

    def __init__(self, classes) -> None:
        super().__init__()
        self.given = classes

    @property
    def classes(self):
        if self.given is None:
            raise RuntimeError("call prepare() first")
        return self.given

    def train_dataloader(self):
        return loader(8)

    val_dataloader = train_dataloader


def _names(folder, data, monitor):
    """The names on the page, and what was said."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        trainer(folder, monitor, SaliencyAugmentation("smoe", name="augmented"), epochs=1).fit(Module(), data)
    store = FilmRecords(folder / "recorder" / "v" / "saliency" / "film")
    assert len(list((folder / "recorder" / "v" / "saliency" / "overview").glob("*.png"))) == 2
    assert len(list((folder / "recorder" / "v" / "augmented" / "augmentation").glob("*.png"))) == 2
    said = [str(each.message) for each in caught if "could not" in str(each.message) or "classes" in str(each.message)]
    return store.read(store.frames()[-1]).classes, said


def test_names_of_classes_of_any_form(tmp_path):
    fish = [("tench", "Tinca tinca"), ("shark", "white shark", "man-eater"), ("goldfish",), "ray"]
    names, said = _names(tmp_path, Data(fish), SaliencyMonitor(num_images=4))
    assert said == []
    assert names == {0: "tench, Tinca tinca", 1: "shark, white shark", 2: "goldfish", 3: "ray"}


def test_numbers_as_names_of_classes(tmp_path):
    names, said = _names(tmp_path, Data(["no"]), SaliencyMonitor(num_images=4, class_names=np.arange(10, 14)))
    assert said == []
    assert names == {0: "10", 1: "11", 2: "12", 3: "13"}


def test_a_property_of_names_that_raises_costs_the_names_alone(tmp_path):
    names, said = _names(tmp_path, Data(None), SaliencyMonitor(num_images=4))
    assert names == {}
    assert set(said) == {
        "No names of classes are taken from Data.classes, which raised RuntimeError: call prepare() first. Where no "
        "other names are found, captions show the classes' numbers; let it return a list of names or None."
    }


def test_an_image_looks_the_same_in_a_picture_and_on_the_page():
    """Also where it is dark, within [0, 1], and others are not."""
    dark, wide = torch.full((3, 16, 16), 0.2), torch.linspace(-1, 2, 3 * 16 * 24).view(3, 16, 24)
    dark[:, 0, 0] = 0.4
    images, maps = [dark, wide, dark + 0.1], [torch.rand(8, 8)]
    records = [SampleRecord(image=image, statistics=maps) for image in images]
    for shown in (records, records[::2]):
        frame = Frame(shown, ["scale"], "equal", None, 16, None)
        page, photos = make_frame([one.image for one in shown], [maps] * len(shown), epoch=0, step=0, scales=["scale"])
        drawn = {place: group.images[row] for group in frame._groups for row, place in enumerate(group.places)}
        assert frame.guessed is (shown is records)
        assert frame.guessed == (drawn[0].amax() == 1)
        kept = np.array(Image.open(io.BytesIO(photos[page.images[0].photo])))
        np.testing.assert_array_equal(kept, to_uint8(drawn[0]))
