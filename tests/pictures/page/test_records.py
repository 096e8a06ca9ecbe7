"""What is kept of a frame comes back, is bounded, and is found."""

from __future__ import annotations

import json

import pytest
import torch

from lightning_saliency import film
from lightning_saliency.files import location
from lightning_saliency.pictures.page import AlertRecord, FilmRecords, FrameRecord, ImageRecord, find_run
from lightning_saliency.pictures.page.html import page_text, read_film
from lightning_saliency.pictures.page.records import LEVELS, photo_file
from lightning_saliency.pictures.page.slides import _epoch
from tests.pictures.page.films import CLASSES, PREDICTIONS, small_film


def test_a_frame_comes_back_with_its_maps_to_half_a_level(tmp_path):
    maps = [torch.rand(6, 8), torch.rand(3, 4)]
    frame = FrameRecord(
        2, 30, ["a", "b"], [1.0, 2.0], [0.5, 0.25], [(6, 8), (3, 4)], [], [ImageRecord("p", maps, 3, 1)]
    )
    back = FrameRecord.from_json(frame.to_json())
    for ours, theirs in zip(maps, back.images[0].maps, strict=True):
        assert (ours - theirs).abs().max() <= 0.5 / LEVELS + 1e-6
    assert (back.epoch, back.step, back.images[0].label, back.images[0].prediction) == (2, 30, 3, 1)
    assert list(back.scales) == ["a", "b"]
    assert list(back.grids) == [(6, 8), (3, 4)]


def test_large_maps_are_kept_small_and_nan_is_nothing():
    nan = torch.full((300, 200), float("nan"))
    frame = FrameRecord(0, 1, ["a"], [1.0], [float("nan")], [(300, 200)], [], [ImageRecord("p", [nan])])
    back = FrameRecord.from_json(frame.to_json())
    assert list(back.images[0].maps[0].shape) == [64, 43]
    assert back.images[0].maps[0].abs().max() == 0
    assert FrameRecord.from_json(back.to_json()).to_json() == frame.to_json()


def test_small_photos_are_bit_for_bit_and_large_ones_are_not_large():
    assert photo_file(torch.rand(3, 32, 32))[0].endswith(".png")
    name, content = photo_file(torch.rand(3, 900, 600))
    assert name.endswith(".jpg")
    assert len(content) < 60_000


def test_the_frames_stay_within_the_bound_with_the_first_and_the_latest(tmp_path):
    one = small_film(tmp_path / "one")
    size = sum(frame.path.stat().st_size for frame in one.frames()) / 1e6
    small = FilmRecords(tmp_path / "small", max_megabytes=size)
    record = one.read(one.frames()[0])
    for number in range(12):
        small.add(FrameRecord(**{**vars(record), "epoch": number - 1, "step": 50 * number}), {})
    kept = small.frames()
    assert sum(frame.path.stat().st_size for frame in kept) <= size * 1e6
    assert (kept[0].step, kept[-1].step) == (0, 550)


def test_a_photo_is_written_once(tmp_path):
    store = small_film(tmp_path)
    assert len(list(store.folder.glob("photo-*"))) == len(PREDICTIONS[0])


def _frame(number, photo):
    record = ImageRecord(photo, [torch.zeros(2, 2)])
    return FrameRecord(number, 10 * number, ["a"], [1.0], [1.0], [(2, 2)], [], [record])


def _moving_photos(store, numbers):
    """Frames each of which has a photo of its own beside one of all."""
    for number in numbers:
        photos = dict(photo_file(torch.full((3, 8, 8), part / 99)) for part in (99, number))
        photos = {name: content + bytes(1000) for name, content in photos.items()}
        store.add(_frame(number, list(photos)[1]), photos)


@pytest.mark.parametrize("root", ["here", "memory://films/moving"])
def test_photos_are_part_of_the_bound_and_go_with_the_last_frame_that_shows_them(tmp_path, root):
    folder = location(tmp_path if root == "here" else root)
    _moving_photos(FilmRecords(folder, max_megabytes=0.012), range(12))
    (folder / "photo-of-mine.png").write_bytes(bytes(20_000))
    # One that goes on does not know what was written before; a damaged frame shows nothing.
    (folder / "epoch=0000-step=0000001.json").write_bytes(b"damaged")
    store = FilmRecords(folder, max_megabytes=0.012)
    _moving_photos(store, range(12, 40))
    frames = [frame for frame in store.frames() if frame.step != 1]
    assert (frames[0].step, frames[-1].step) == (0, 390)
    assert 3 < len(frames) < 12
    shown = {image.photo for frame in frames for image in store.read(frame).images}
    kept = {path.name for path in folder.iterdir() if path.name.startswith("photo-")} - {"photo-of-mine.png"}
    assert shown <= kept
    assert all(store.photo(name) for name in shown)
    assert (
        sum(len(store.photo(name)) for name in kept) + sum(len(frame.path.read_bytes()) for frame in frames) <= 12_000
    )


def test_values_of_an_epochs_end_join_its_validation_and_old_ones_are_no_new_points(tmp_path):
    store = FilmRecords(tmp_path)
    store.log(0, 31, {"val/loss": 2.0, "nan": float("nan")})
    store.log(0, 32, {"val/loss": 2.0, "train/loss": 3.0}, validated=False)
    store.log(1, 40, {"val/loss": 2.0, "train/loss": 2.5}, validated=False)
    assert FilmRecords(tmp_path).values() == [
        {"epoch": 0, "step": 31, "values": {"val/loss": 2.0, "train/loss": 3.0}},
        {"epoch": 1, "step": 40, "values": {"train/loss": 2.5}},
    ]


def test_rewinding_sets_later_frames_aside_and_forgets_later_values(tmp_path):
    store = small_film(tmp_path)
    FilmRecords(store.folder).rewind(50)
    again = FilmRecords(store.folder)
    assert [frame.step for frame in again.frames()] == [0, 50]
    assert [row["step"] for row in again.values()] == [0, 50]
    assert len(list((store.folder / "rewound").iterdir())) == 1


def test_warnings_come_back_and_stand_on_the_page(tmp_path):
    store = small_film(tmp_path)
    assert store.alerts() == []
    assert "<aside" not in film(tmp_path).read_text()
    alerts = [AlertRecord(0, 50, "A colour.", lowered=1), AlertRecord(1, 100, "In the <b>corner</b>.", (0, 15))]
    store.warn(alerts)
    assert FilmRecords(store.folder).alerts() == alerts
    page = film(tmp_path).read_text()
    assert page.count("<aside") == 2
    assert "SaliencyMonitor warned of a shortcut in epoch 0, lowered in epoch 1</h2>" in page
    assert "<p>In the &lt;b&gt;corner&lt;/b&gt;.</p>" in page
    assert page.count('<rect class="there" x="14" y="0"') == 1
    store.warn([])
    assert "<aside" not in film(tmp_path).read_text()
    (store.folder / "alerts.json").write_text("[{}]")
    with pytest.raises(ValueError, match=r"alerts\.json.*Delete it"):
        store.alerts()


def test_the_first_frame_is_not_called_untrained(tmp_path):
    store = small_film(tmp_path)
    assert [_epoch(store.read(frame)) for frame in store.frames()] == ["start", "epoch 0", "epoch 1"]
    assert '"untrained"' not in film(tmp_path).read_text()


def test_a_film_on_a_remote_store():
    from lightning_saliency.files import RemotePath

    store = small_film(RemotePath("memory://film15/run"))
    page = film("memory://film15/run")
    assert [frame.step for frame in store.frames()] == [0, 50, 100]
    assert page.url == "memory://film15/run/saliency/film.html"
    assert page.read_bytes().startswith(b"<!DOCTYPE html>")


def test_runs_are_found_from_above_and_by_name(tmp_path):
    small_film(tmp_path / "runs" / "digits" / "version_0")
    folder = tmp_path / "runs" / "digits" / "version_0" / "saliency"
    for start in (folder, folder.parent, folder.parent.parent, tmp_path / "runs"):
        assert find_run(start) == folder
    with pytest.raises(ValueError, match=r"holds no frames of a film\. Allowed are"):
        find_run(_empty(tmp_path))
    with pytest.raises(FileNotFoundError, match="no folder"):
        find_run(tmp_path / "nothing")
    small_film(folder.parent / "more")
    (folder.parent / "more" / "saliency").rename(folder.parent / "training")
    with pytest.raises(ValueError, match="has 2 films: saliency, training"):
        find_run(folder.parent)
    assert find_run(folder.parent, "training").name == "training"


def _empty(tmp_path):
    folder = tmp_path / "empty"
    folder.mkdir()
    return folder


def test_a_page_that_would_be_too_large_has_smaller_maps_then_fewer_frames(tmp_path):
    small_film(tmp_path, [PREDICTIONS[0]] * 20, side=64)
    folder = find_run(tmp_path)
    whole = read_film(folder, 20)
    size = sum(map(len, whole.frames)) + sum(map(len, whole.photos.values()))
    smaller = read_film(folder, 0.6 * size / 1e6)
    assert smaller.left_out == 0
    assert json.loads(smaller.frames[0])["images"][0]["grids"][0][0] < 64
    fewer = read_film(folder, 0.15 * size / 1e6)
    assert sum(map(len, fewer.frames)) + sum(map(len, fewer.photos.values())) <= 0.15 * size
    assert fewer.left_out > 0
    assert [json.loads(fewer.frames[place])["step"] for place in (0, -1)] == [0, 950]


def test_two_hundred_frames_of_sixteen_images_are_less_than_twenty_megabytes(tmp_path):
    """Counted on one frame: noise, which nothing compresses, at the size of a ResNet's scales, and large photos."""
    maps = [torch.rand(side, side) for side in (64, 56, 28, 14, 7)]
    image = ImageRecord("p", maps, 1, 2)
    frame = FrameRecord(0, 1, ["s"] * 5, [1.0] * 5, [1.0] * 5, [(112, 112)] * 5, [], [image] * 16)
    photos = 16 * 4 / 3 * len(photo_file(torch.rand(3, 256, 256))[1])
    assert 200 * len(frame.to_json(40)) + photos < 20e6


def test_what_users_wrote_cannot_leave_its_place(tmp_path):
    small_film(tmp_path)
    text = page_text([read_film(find_run(tmp_path), 20)])
    assert CLASSES[1] not in text
    assert "dog \\u003cb>" in text
    assert "http" not in text.replace("http-equiv", "").replace("http://www.w3.org/2000/svg", "")


def test_a_damaged_frame_is_named(tmp_path):
    store = small_film(tmp_path)
    store.frames()[1].path.write_text('{"format": 9}')
    with pytest.raises(ValueError, match=r"epoch=0000-step=0000050\.json.*format 9"):
        film(tmp_path)
