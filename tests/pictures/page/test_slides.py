"""Strips and moving pictures of a film."""

from __future__ import annotations

import re

import numpy as np
import pytest
from PIL import Image

from lightning_saliency.cli import main
from lightning_saliency.files import RemotePath
from lightning_saliency.pictures.frames import Frame, evenly_spaced
from lightning_saliency.pictures.page import FilmRecords, film_strip, moving_film
from lightning_saliency.pictures.page.slides import _BAND, _GAP, _HEAD, _MARGIN
from lightning_saliency.pictures.page.tiles import tile
from tests.pictures.page.films import PREDICTIONS, small_film


def test_a_strip_has_a_row_an_image_and_a_column_an_epoch_bit_for_bit_and_labels_them(tmp_path):
    store = small_film(tmp_path)
    records = [store.read(frame) for frame in store.frames()]
    strip = film_strip(tmp_path, "lovi", images=[0, 3], side=48)
    for row, index in enumerate([0, 3]):
        top = _HEAD + row * (48 + _BAND + _GAP)
        for column, record in enumerate([records[-1], *records]):
            left = _MARGIN + column * (48 + _GAP)
            photo = store.photo(record.images[index].photo)
            expected = tile(record, index, "lovi" if column else "photo", photo, 48)
            np.testing.assert_array_equal(strip[top : top + 48, left : left + 48], expected)
            caption = strip[top + 48 : top + 48 + _BAND, left : left + 48]
            assert (caption < 200).any(), "no label or prediction"
    heads = [strip[:_HEAD, _MARGIN + column * (48 + _GAP) :][:, :48] for column in range(4)]
    assert all((head < 128).any() for head in heads)
    assert len({head.tobytes() for head in heads}) == 4


@pytest.mark.parametrize(
    ("steps", "count", "expected"),
    [
        (range(0, 101, 10), 6, [0, 20, 40, 60, 80, 100]),
        (range(0, 101, 10), 1, [100]),
        (range(0, 101, 10), 2, [0, 100]),
        ([0, 10, 20], 6, [0, 10, 20]),
        ([5], 6, [5]),
        # Dense at the end, as after a resumed run: by step, not by position ...
        ([0, 50, 100, 196, 197, 198, 199, 200], 5, [0, 50, 100, 196, 200]),
        # ... and as many as were asked for where too few lie near the wanted steps.
        ([0, 1, 2, 3, 200], 4, [0, 2, 3, 200]),
    ],
)
def test_epochs_are_evenly_spaced_from_first_to_last(tmp_path, steps, count, expected):
    frames = [Frame(tmp_path, step, step) for step in steps]
    assert [frame.step for frame in evenly_spaced(frames, count)] == expected


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"view": "grad_cam"}, r"'grad_cam'\. Allowed are 'photo', 'overlay', 'lovi', .*'fast_cam', 'scale 1'"),
        ({"frames": 0}, "frames=0. Allowed is at least 1"),
        ({"images": [9]}, "Allowed are numbers from 0 to 3"),
    ],
)
def test_what_a_film_has_not_is_refused(tmp_path, options, message):
    small_film(tmp_path)
    with pytest.raises(ValueError, match=message):
        film_strip(tmp_path, **options)


def test_a_frame_that_lacks_an_image_shows_the_others_at_their_places(tmp_path):
    small_film(tmp_path / "whole")
    small_film(tmp_path / "part", missing={(0, 0), (1, 1), (2, 1)})
    whole, part = (film_strip(tmp_path / name, side=48, images=[1, 3]) for name in ("whole", "part"))
    columns = [slice(14 + 54 * column, 14 + 54 * column + 48) for column in range(4)]
    first, other = (slice(30 + 74 * row, 30 + 74 * row + 48) for row in range(2))
    np.testing.assert_array_equal(part[other], whole[other])
    for column, there in zip(columns, (True, True, False, False), strict=True):
        if there:
            np.testing.assert_array_equal(part[first, column], whole[first, column])
        else:
            assert part[first, column].min() == 255
    store = FilmRecords(tmp_path / "part" / "saliency" / "film")
    assert [store.read(frame).slots for frame in store.frames()] == [[1, 2, 3], [0, 2, 3], [0, 2, 3]]
    moving_film(tmp_path / "part", tmp_path / "film.gif", images=[0, 1], side=48)
    with pytest.raises(ValueError, match="numbers from 0 to 3"):
        film_strip(tmp_path / "part", images=[4])


def test_a_damaged_frame_is_named(tmp_path):
    store = small_film(tmp_path)
    whole = store.frames()[1].path.read_bytes()
    for content in (b"", b"no frame", whole[:60]):
        store.frames()[1].path.write_bytes(content)
        with pytest.raises(ValueError, match=r"epoch=0000-step=0000050\.json, which cannot be read"):
            film_strip(tmp_path)


@pytest.mark.parametrize("ending", ["gif", "webp"])
def test_a_moving_picture_has_each_epoch_and_stops_at_the_last(tmp_path, ending):
    small_film(tmp_path)
    file = moving_film(tmp_path, tmp_path / f"film.{ending}", images=2, side=48)
    with Image.open(file) as picture:
        assert picture.n_frames == len(PREDICTIONS)
        pauses, frames = [], []
        for number in range(picture.n_frames):
            picture.seek(number)
            frames.append(np.array(picture.convert("RGB"), dtype=float))
            pauses.append(picture.info["duration"])
    assert pauses[-1] == 2000 > pauses[0]
    assert np.abs(frames[0] - frames[1]).mean() > 1
    with pytest.raises(ValueError, match=r"film\.mp4\. Allowed are names that end in \.gif or \.webp"):
        moving_film(tmp_path, tmp_path / "film.mp4")


def test_the_command_makes_pages_strips_and_moving_pictures(tmp_path, capsys):
    first, second = tmp_path / "first", tmp_path / "second"
    small_film(first)
    small_film(second)
    assert main(["film", str(first)]) == 0
    assert capsys.readouterr().out == f"{first / 'saliency' / 'film.html'}\n"
    assert main(["film", str(first), str(second), "--output", str(tmp_path / "two.html")]) == 0
    assert "second" in (tmp_path / "two.html").read_text()
    files = [str(tmp_path / name) for name in ("a.gif", "a.webp", "a.png")]
    capsys.readouterr()
    options = ["--gif", files[0], "--webp", files[1], "--strip", files[2], "--view", "scale 2", "--images", "1,2"]
    assert main(["film", str(first), *options]) == 0
    assert capsys.readouterr().out.split() == files
    with Image.open(files[2]) as strip:
        assert strip.height < 2 * strip.width
    for arguments, message in (
        ([], "Got 0 runs"),
        ([str(tmp_path / "none")], "there is no folder"),
        ([str(first), "--images", "x", "--gif", files[0]], "--images x"),
        ([str(first), str(second), "--gif", files[0]], "two runs and --gif"),
        ([str(first), "--name", "training"], "films in .* are saliency"),
    ):
        assert main(["film", *arguments]) == 2
        captured = capsys.readouterr().err
        assert re.search(message, captured), captured


def test_a_strip_comes_from_a_remote_store_too(tmp_path):
    small_film(tmp_path)
    for file in (tmp_path / "saliency" / "film").iterdir():
        (RemotePath("memory://film15strip/saliency/film") / file.name).write_bytes(file.read_bytes())
    np.testing.assert_array_equal(film_strip("memory://film15strip"), film_strip(tmp_path))
    assert FilmRecords("memory://film15strip/saliency/film").photo("nothing") == b""
