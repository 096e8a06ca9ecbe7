"""The film on disk: names, bound and thinning, whole files only, and a run that goes on when the disk does not."""

from __future__ import annotations

import os
import tempfile
import warnings
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from lightning_saliency.pictures import film as film_module
from lightning_saliency.pictures.film import Film, Frame


def noise(seed: int, height: int = 12, width: int = 16) -> np.ndarray:
    """A picture that PNG cannot compress, so that sizes are known: about 3·height·width bytes."""
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)


def read(path: Path) -> np.ndarray:
    with Image.open(path) as image:
        assert image.format == "PNG"
        return np.array(image)


def everything_in(folder: Path, prefix: str = "") -> list[str]:
    return sorted(prefix + path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())


def fill(film: Film, epochs: int, steps: int = 10, view: str = "lovi") -> None:
    for epoch in range(-1, epochs):
        film.add(view, noise(epoch + 1), epoch=epoch, step=(epoch + 1) * steps)


def test_files_are_named_by_epoch_and_step_and_hold_the_picture_bit_for_bit(tmp_path: Path) -> None:
    film = Film(tmp_path / "film")
    assert film.views() == []
    assert film.frames("lovi") == []
    start = film.add("lovi", noise(0), epoch=-1, step=0)
    third = film.add("lovi", noise(1), epoch=3, step=150)
    film.add("combined", noise(2), epoch=12345, step=123456789)
    assert everything_in(tmp_path / "film") == [
        "combined/epoch=12345-step=123456789.png",
        "lovi/epoch=0003-step=0000150.png",
        "lovi/start-step=0000000.png",
    ]
    assert film.views() == ["combined", "lovi"]
    assert start is not None
    assert third is not None
    assert film.frames("lovi") == [Frame(start, -1, 0), Frame(third, 3, 150)]
    assert [frame.label for frame in film.frames("lovi")] == ["start", "epoch 3"]
    assert film.frames("combined")[0].step == 123456789
    np.testing.assert_array_equal(read(start), noise(0))
    np.testing.assert_array_equal(read(third), noise(1))


def test_frames_are_sorted_by_step_whatever_the_order_they_came_in(tmp_path: Path) -> None:
    film = Film(tmp_path)
    for epoch, step in ((2, 30), (0, 10), (-1, 0), (0, 0), (1, 9_999_999), (10, 20_000_000)):
        film.add("lovi", noise(0), epoch=epoch, step=step)
    assert [(frame.epoch, frame.step) for frame in film.frames("lovi")] == [
        *((-1, 0), (0, 0), (0, 10), (2, 30), (1, 9_999_999), (10, 20_000_000))
    ]


def test_a_non_contiguous_picture_is_kept_as_it_looks(tmp_path: Path) -> None:
    picture = noise(0).transpose(1, 0, 2)[::-1]
    path = Film(tmp_path).add("lovi", picture, epoch=0, step=1)
    assert path is not None
    np.testing.assert_array_equal(read(path), picture)


def test_a_resumed_run_goes_on_with_the_same_film_and_replaces_what_it_repeats(tmp_path: Path) -> None:
    fill(Film(tmp_path), epochs=3)
    resumed = Film(tmp_path)
    again = resumed.add("lovi", noise(100), epoch=2, step=30)
    resumed.add("lovi", noise(101), epoch=3, step=40)
    assert [frame.epoch for frame in resumed.frames("lovi")] == [-1, 0, 1, 2, 3]
    assert again is not None
    np.testing.assert_array_equal(read(again), noise(100))


@pytest.mark.parametrize(
    ("view", "folder"),
    [
        ("lovi", "lovi"),
        ("validate/lovi", "validate_lovi"),
        ("../../escape", "escape"),
        (".hidden", "hidden"),
        ("layer1.0 relu:input", "layer1.0_relu_input"),
        ("größe", "größe"),
        ("x" * 300, "x" * 63 + "-0d4e2ca9"),
        ("nul", "99e62427"),
    ],
)
def test_view_names_become_safe_folder_names(tmp_path: Path, view: str, folder: str) -> None:
    film = Film(tmp_path / "run" / "film")
    path = film.add(view, noise(0), epoch=0, step=1)
    assert path == tmp_path / "run" / "film" / folder / "epoch=0000-step=0000001.png"
    assert everything_in(tmp_path) == [f"run/film/{folder}/epoch=0000-step=0000001.png"]
    assert film.views() == [folder]
    assert film.frames(view) == film.frames(folder) != []


@pytest.mark.parametrize("known", [True, False])
@pytest.mark.parametrize(
    "views", [("validate/lovi", "validate lovi"), ("lovi", "LOVI"), ("", "."), ("é", "e\u0301", "..")]
)
def test_no_two_views_share_a_folder(tmp_path: Path, views: tuple[str, ...], known: bool) -> None:
    film = Film(tmp_path / "film", views=views if known else ())
    for number, view in enumerate(views):
        film.add(view, noise(number), epoch=0, step=1)
        film.add(view, noise(number), epoch=1, step=2)
    for number, view in enumerate(views):
        assert [frame.epoch for frame in film.frames(view)] == [0, 1]
        np.testing.assert_array_equal(read(film.frames(view)[0].path), noise(number))
    assert len({name.casefold() for name in film.views()}) == len(views)
    assert everything_in(tmp_path) == everything_in(tmp_path / "film", "film/")


@pytest.mark.parametrize(
    "picture",
    [
        np.zeros((4, 4, 3), np.float32),
        np.zeros((3, 4, 5), np.uint8),
        np.zeros((4, 4), np.uint8),
        np.zeros((0, 4, 3), np.uint8),
    ],
)
def test_what_is_no_picture_is_refused(tmp_path: Path, picture: np.ndarray) -> None:
    with pytest.raises(ValueError, match=r"\[H, W, 3\]"):
        Film(tmp_path).add("lovi", picture, epoch=0, step=0)


@pytest.mark.parametrize(("epoch", "step"), [(-2, 0), (0, -1)])
def test_times_before_the_start_are_refused(tmp_path: Path, epoch: int, step: int) -> None:
    with pytest.raises(ValueError, match=f"epoch={epoch}, step={step}"):
        Film(tmp_path).add("lovi", noise(0), epoch=epoch, step=step)


@pytest.mark.parametrize("bound", [0.0, -1.0, float("nan")])
def test_a_bound_that_is_none_is_refused(tmp_path: Path, bound: float) -> None:
    with pytest.raises(ValueError, match="max_megabytes"):
        Film(tmp_path, bound)


def size_of(film: Film) -> int:
    return sum(frame.path.stat().st_size for view in film.views() for frame in film.frames(view))


adds = st.lists(
    st.tuples(st.sampled_from(["lovi", "combined"]), st.integers(0, 60), st.integers(4, 16)), min_size=1, max_size=30
)


@settings(max_examples=40, deadline=None)
@given(adds=adds, kilobytes=st.integers(1, 12))
def test_the_bound_holds_and_the_first_and_the_latest_frames_stay(
    adds: list[tuple[str, int, int]], kilobytes: int
) -> None:
    with tempfile.TemporaryDirectory() as folder, warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)
        film = Film(Path(folder), max_megabytes=kilobytes / 1000)
        added: dict[str, set[int]] = {"lovi": set(), "combined": set()}
        for seed, (view, step, side) in enumerate(adds):
            picture = noise(seed, side, side)
            path = film.add(view, picture, epoch=step, step=step)
            added[view].add(step)
            assert path is not None
            np.testing.assert_array_equal(read(path), picture)
            for name, steps in added.items():
                kept = [frame.step for frame in film.frames(name)]
                assert set(kept) <= steps
                if steps:
                    assert kept[0] == min(steps)
                    assert kept[-1] == max(steps)
            # What may not be deleted: both ends of each view, and the frame just made where it is neither.
            protected = sum(min(2, len(steps)) for steps in added.values()) + (
                min(added[view]) < step < max(added[view])
            )
            frames = sum(len(film.frames(name)) for name in added)
            assert size_of(film) <= kilobytes * 1000 or frames == protected
        assert not [name for name in everything_in(Path(folder)) if not name.endswith(".png")]


def test_a_full_film_loses_every_second_frame(tmp_path: Path) -> None:
    size = Film(tmp_path / "one").add("lovi", noise(0), epoch=0, step=0).stat().st_size  # type: ignore[union-attr]
    film = Film(tmp_path / "film", max_megabytes=9.5 * size / 1e6)
    fill(film, epochs=8)
    assert [frame.epoch for frame in film.frames("lovi")] == [-1, 0, 1, 2, 3, 4, 5, 6, 7]
    film.add("lovi", noise(9), epoch=8, step=90)
    assert [frame.epoch for frame in film.frames("lovi")] == [-1, 1, 3, 5, 7, 8]


def test_all_views_are_thinned_together(tmp_path: Path) -> None:
    size = Film(tmp_path / "one").add("lovi", noise(0), epoch=0, step=0).stat().st_size  # type: ignore[union-attr]
    film = Film(tmp_path / "film", max_megabytes=10.5 * size / 1e6)
    for epoch in range(6):
        for view in ("combined", "lovi"):
            film.add(view, noise(epoch), epoch=epoch, step=epoch)
    assert [frame.epoch for frame in film.frames("combined")] == [0, 2, 4, 5]
    assert [frame.epoch for frame in film.frames("lovi")] == [0, 2, 4, 5]


def test_a_long_film_covers_the_whole_run_evenly(tmp_path: Path) -> None:
    """Halving by position alone would leave nothing of the first two thirds of such a run but its first frame."""
    size = Film(tmp_path / "one").add("lovi", noise(0, 4, 4), epoch=0, step=0).stat().st_size  # type: ignore[union-attr]
    film = Film(tmp_path / "film", max_megabytes=24.5 * size / 1e6)
    for epoch in range(400):
        film.add("lovi", noise(epoch, 4, 4), epoch=epoch, step=epoch)
    gaps = np.diff([frame.step for frame in film.frames("lovi")])
    assert len(gaps) >= 11
    assert gaps.max() <= 3 * 399 / len(gaps)


def test_thinning_is_said_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    said: list[str] = []
    monkeypatch.setattr(film_module, "rank_zero_info", said.append)
    film = Film(tmp_path, max_megabytes=0.004)
    fill(film, epochs=3)
    assert said == []
    fill(film, epochs=30)
    assert len(said) == 1
    assert "0.004 MB" in said[0]


def test_a_bound_too_small_for_two_frames_keeps_them_and_warns_once(tmp_path: Path) -> None:
    film = Film(tmp_path, max_megabytes=0.001)
    with pytest.warns(RuntimeWarning, match=r"max_megabytes=0\.001") as caught:
        fill(film, epochs=5)
    assert len(caught) == 1
    assert caught[0].filename == __file__
    assert [frame.epoch for frame in film.frames("lovi")] == [-1, 4]


def test_only_frames_are_counted_and_deleted(tmp_path: Path) -> None:
    strange = [tmp_path / "notes.txt", tmp_path / "lovi" / "epoch=1.png", tmp_path / "other" / "big.bin"]
    for path in strange:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"x" * 100_000)
    film = Film(tmp_path, max_megabytes=0.004)
    fill(film, epochs=2)
    assert len(film.frames("lovi")) == 3
    fill(film, epochs=20)
    assert film.views() == ["lovi"]
    assert all(path.stat().st_size == 100_000 for path in strange)


def test_a_frame_appears_only_when_it_is_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    film = Film(tmp_path)
    target = tmp_path / "lovi" / "epoch=0001-step=0000010.png"
    film.add("lovi", noise(0), epoch=1, step=10)
    seen: list[Path] = []
    replace = os.replace

    def watched(source: Path, destination: Path) -> None:
        assert destination == target
        assert source.parent == target.parent
        np.testing.assert_array_equal(read(source), noise(1))
        np.testing.assert_array_equal(read(target), noise(0))
        assert [frame.path for frame in film.frames("lovi")] == [target]
        seen.append(source)
        replace(source, destination)

    monkeypatch.setattr(os, "replace", watched)
    film.add("lovi", noise(1), epoch=1, step=10)
    assert len(seen) == 1
    np.testing.assert_array_equal(read(target), noise(1))
    assert everything_in(tmp_path) == ["lovi/epoch=0001-step=0000010.png"]


def test_a_repeated_frame_clears_what_a_killed_run_left_of_it(tmp_path: Path) -> None:
    film = Film(tmp_path)
    path = film.add("lovi", noise(0), epoch=1, step=10)
    assert path is not None
    path.with_name(f".{path.name}.99999.tmp").write_bytes(b"half")
    film.add("lovi", noise(1), epoch=1, step=10)
    assert everything_in(tmp_path) == ["lovi/epoch=0001-step=0000010.png"]


def test_an_unwritable_folder_is_one_warning_and_tried_for_three_frames(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    film = Film(tmp_path / "file" / "film")
    with pytest.warns(RuntimeWarning, match="could not keep start-step") as caught:
        results = [
            film.add(view, noise(0), epoch=epoch, step=epoch + 1)
            for epoch in range(-1, 2)
            for view in ("lovi", "combined")
        ]
    assert results == [None] * 6
    assert len(caught) == 1
    assert caught[0].filename == __file__
    (tmp_path / "file").unlink()
    assert film.add("lovi", noise(0), epoch=2, step=9) is None
    assert film.views() == []
    assert film.frames("lovi") == []


def test_a_full_disk_leaves_whole_frames_only_and_a_frame_is_kept_as_soon_as_it_can_be(tmp_path: Path) -> None:
    """The process's own limit on the size of a file stands in for the disk: the write fails half-way."""
    resource = pytest.importorskip("resource")
    film = Film(tmp_path)
    fill(film, epochs=1)
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)

    def add_to_a_full_disk() -> Path | None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (4096, limits[1]))
        try:
            return film.add("lovi", noise(7, 64, 64), epoch=1, step=20)
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, limits)

    with pytest.warns(RuntimeWarning, match="could not keep epoch=0001"):
        failed = add_to_a_full_disk()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        after = film.add("lovi", noise(8), epoch=2, step=30)
    assert failed is None
    assert after is not None
    kept = ["lovi/epoch=0000-step=0000010.png", "lovi/epoch=0002-step=0000030.png", "lovi/start-step=0000000.png"]
    assert everything_in(tmp_path) == kept
    np.testing.assert_array_equal(read(film.frames("lovi")[1].path), noise(1))
    np.testing.assert_array_equal(read(after), noise(8))


@pytest.mark.parametrize("root", ["memory://films/thin", "memory://films/deep/er", "memory://other"])
def test_a_film_on_a_remote_store_is_as_one_here(tmp_path: Path, root: str) -> None:
    here, there = Film(tmp_path, 0.004), Film(root, 0.004)
    for film in (here, there):
        fill(film, epochs=9)
        fill(film, epochs=2, view="combined/../x")
    assert here.views() == there.views()
    for view in here.views():
        ours, theirs = here.frames(view), there.frames(view)
        assert [(frame.path.name, frame.epoch, frame.step) for frame in ours] == [
            (frame.path.name, frame.epoch, frame.step) for frame in theirs
        ]
        assert [frame.path.read_bytes() for frame in ours] == [frame.path.read_bytes() for frame in theirs]
    assert len(there.frames("lovi")) < 10, "it is thinned out, too"


@pytest.mark.parametrize(
    "error", [OSError("no connection"), RuntimeError("no credentials"), ImportError("install s3fs")]
)
def test_a_remote_store_that_fails_ends_the_film_and_nothing_else(monkeypatch, error: Exception) -> None:
    def fail(*_: object) -> None:
        raise error

    film = Film("memory://failing")
    monkeypatch.setattr(film_module, "write_atomically", fail)
    with pytest.warns(RuntimeWarning, match=f"memory://failing could not keep .*{error}"):
        assert film.add("lovi", noise(0), epoch=0, step=1) is None
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert film.add("lovi", noise(0), epoch=1, step=2) is None


@pytest.mark.parametrize("root", ["here", "memory://rewound/a", "memory://rewound/b"])
def test_frames_after_the_step_at_which_a_run_goes_on_are_set_aside(tmp_path: Path, root: str) -> None:
    folder = str(tmp_path / root) if root == "here" else root
    fill(Film(folder), epochs=4)
    fill(Film(folder), epochs=4, view="combined")
    film = Film(folder)
    film.rewind(20)
    for view in ("lovi", "combined"):
        assert [frame.epoch for frame in film.frames(view)] == [-1, 0, 1]
        assert [frame.epoch for frame in Film(f"{folder}/rewound").frames(view)] == [2, 3]
    film.rewind(20)
    fill(film, epochs=3)
    assert (film.views(), len(film.frames("lovi"))) == (["combined", "lovi"], 4)
