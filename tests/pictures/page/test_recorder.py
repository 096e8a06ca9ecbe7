"""The film of a loop without a Trainer: what was read is what is kept, with names, values and a page."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from lightning_saliency import FilmRecorder, ScaleTaps, find_scales
from lightning_saliency.functional.normalization import normal_cdf
from lightning_saliency.networks import small_cnn
from lightning_saliency.pictures.page import FilmRecords


@pytest.fixture
def read():
    """A network, images, and a function that reads the maps of a pass."""
    network, images = small_cnn(4, width=4).eval(), torch.rand(5, 3, 16, 16)
    with ScaleTaps(network, find_scales(network, images)) as taps:

        def maps_of(batch=images):
            taps.start()
            network(batch)
            return taps.take()

        yield taps.scales, images, maps_of


def test_what_was_read_is_on_the_page(tmp_path, read):
    scales, images, maps_of = read
    film = FilmRecorder(tmp_path, scales, weights="ramp", class_names=["a", "b", "c", "d"])
    maps = maps_of()
    for epoch in (-1, 0):
        film.add(
            images[:3],
            maps,  # of all five; the first three count
            epoch=epoch,
            step=10 * (epoch + 1),
            labels=torch.tensor([0, 3, -1, 2, 2]),
            predictions=[0, 1, 2],
            values={"val/loss": torch.tensor(0.5), "val/accuracy": 0.25},
        )
    store = FilmRecords(tmp_path / "saliency" / "film")
    frames = [store.read(frame) for frame in store.frames()]
    assert [(frame.epoch, frame.step) for frame in frames] == [(-1, 0), (0, 10)]
    last = frames[-1]
    assert list(last.scales) == [scale.name for scale in scales]
    assert list(last.weights) == [1, 2, 3, 4]
    assert [image.label for image in last.images] == [0, 3, None]
    assert [image.prediction for image in last.images] == [0, 1, 2]
    assert last.classes == {0: "a", 1: "b", 2: "c", 3: "d"}
    for number, image in enumerate(last.images):
        for kept, raw in zip(image.maps, maps, strict=True):
            assert (kept - normal_cdf(raw[number][None])[0]).abs().max() < 0.01
    assert store.values()[-1] == {"epoch": 0, "step": 10, "values": {"val/loss": 0.5, "val/accuracy": 0.25}}
    page = film.page()
    assert page == tmp_path / "saliency" / "film.html"
    assert page.read_text().startswith("<!DOCTYPE html>")


def test_a_new_run_in_the_folder_sets_the_old_ones_later_frames_aside(tmp_path, read):
    scales, images, maps_of = read
    for steps in ((0, 5, 9), (0, 7)):
        film = FilmRecorder(tmp_path, scales)
        for epoch, step in enumerate(steps):
            film.add(images, maps_of(), epoch=epoch, step=step)
    store = FilmRecords(tmp_path / "saliency" / "film")
    assert [frame.step for frame in store.frames()] == [0, 7]
    assert len(list((store.folder / "rewound").iterdir())) == 2


@pytest.mark.parametrize("denormalize", ["none", ((0.5, 0.5, 0.5), (0.5, 0.5, 0.5))])
def test_images_are_shown_in_their_colours(tmp_path, read, denormalize):
    scales, images, maps_of = read
    given = images if denormalize == "none" else (images - 0.5) / 0.5
    film = FilmRecorder(tmp_path, scales, denormalize=denormalize)
    film.add(given, maps_of(), epoch=0, step=0)
    plain = FilmRecorder(tmp_path / "plain", scales)
    plain.add(images, maps_of(), epoch=0, step=0)
    shown = [sorted(path.name for path in folder.rglob("photo-*")) for folder in (tmp_path / "saliency", plain.folder)]
    assert len(shown[0]) == 5
    assert shown[0] == shown[1]


def test_names_of_classes_of_any_form(tmp_path, read):
    scales, images, maps_of = read
    film = FilmRecorder(tmp_path, scales, class_names=[("tench", "Tinca tinca"), *np.arange(7, 9)])
    path = film.add(images[:3], maps_of(), epoch=0, step=0, labels=[0, 1, 2])
    (frame,) = FilmRecords(path.parent).frames()
    assert FilmRecords(path.parent).read(frame).classes == {0: "tench, Tinca tinca", 1: "7", 2: "8"}


def test_what_does_not_go_together_is_said(tmp_path, read):
    scales, images, maps_of = read
    film = FilmRecorder(tmp_path, scales)
    maps = maps_of()
    for wrong in ((images, maps[:2]), (images, maps_of(images[:2])), (images[:0], maps)):
        with pytest.raises(ValueError, match="what take\\(\\) returns"):
            film.add(*wrong, epoch=0, step=0)
    with pytest.raises(ValueError, match="Got 2 labels for 5 images"):
        film.add(images, maps, epoch=0, step=0, labels=[1, 2])
    with pytest.raises(ValueError, match="no frames"):
        film.page()
    with pytest.raises(ValueError, match="weights='heavy'"):
        FilmRecorder(tmp_path, scales, weights="heavy")
    with pytest.raises(ValueError, match="denormalize='half'"):
        FilmRecorder(tmp_path, scales, denormalize="half")
