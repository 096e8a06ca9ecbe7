"""Stores of maps: what is kept, what a kill leaves behind, and what is refused."""

from __future__ import annotations

import json
import multiprocessing
import os
import pickle
import signal
import time
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from lightning_saliency.data import SaliencyStore, SaliencyStoreError
from lightning_saliency.data.masked import store as saliency_store
from lightning_saliency.data.masked.store import rank_levels
from lightning_saliency.data.masked.store_files import write_pieces

FINGERPRINTS = {"weights": "a", "explainer": "b", "data": "c"}


def written(path: Path, count: int = 6, size: tuple[int, int] = (4, 5)) -> tuple[SaliencyStore, torch.Tensor]:
    maps = torch.rand(count, *size)
    store = SaliencyStore.create(path, count, size, FINGERPRINTS)
    store.write(range(count), maps)
    return store, maps


def test_levels_are_ranks_counted_one_by_one():
    maps = torch.randint(0, 9, (3, 4, 5)).float()
    for map_, levels in zip(maps, rank_levels(maps), strict=True):
        for place in np.ndindex(4, 5):
            less = sum(int(map_[other] < map_[place]) for other in np.ndindex(4, 5))
            assert levels[place] == 256 * less // 20


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64, torch.int32, torch.uint8])
def test_levels_of_other_dtypes_and_large_maps(dtype):
    maps = (torch.rand(2, 64, 64) * 200).to(dtype)
    levels = rank_levels(maps)
    order = maps.double().flatten(1)
    for values, ranks in zip(order, levels.flatten(1), strict=True):
        assert (ranks[values.argsort()].int().diff() >= 0).all()
        assert ranks.max() > 250
    assert rank_levels(torch.full((1, 3, 3), 7.0)).eq(0).all()
    assert rank_levels(torch.rand(0, 3, 3)).shape == (0, 3, 3)


def test_what_is_written_is_read_in_any_form_of_index(tmp_path):
    _, maps = written(tmp_path / "deep" / "train")
    store = SaliencyStore.open(tmp_path / "deep" / "train.npy", FINGERPRINTS)
    expected = rank_levels(maps)
    assert (len(store), store.size, store.complete) == (6, (4, 5), True)
    assert torch.equal(store[2], expected[2])
    assert torch.equal(store[-1], expected[-1])
    assert torch.equal(store[1:4], expected[1:4])
    assert torch.equal(store[[5, 0, 5]], expected[[5, 0, 5]])
    assert torch.equal(store[torch.tensor([[3, 1]])], expected[[3, 1]][None])
    assert store[[]].shape == (0, 4, 5)
    assert store[torch.arange(6) % 2 == 0].shape == (3, 4, 5)
    store[0].fill_(9)
    assert torch.equal(store[0], expected[0])
    assert torch.equal(torch.from_numpy(np.load(tmp_path / "deep" / "train.npy")), expected)
    with pytest.raises(IndexError):
        store[6]


def test_rows_come_in_any_order_and_twice(tmp_path):
    maps = torch.rand(4, 3, 3)
    store = SaliencyStore.create(tmp_path / "a", 4, (3, 3), FINGERPRINTS)
    store.write(torch.tensor([3, 1]), maps[[3, 1]])
    assert store.missing().tolist() == [0, 2]
    assert (store.has([1, 3]), store.has([1, 2]), store.complete) == (True, False, False)
    store.write([1, 0], maps[[1, 0]])
    store.write([], maps[:0])
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # what is not written yet is not damaged
        assert not store.finish()
    store.write([2], maps[2:3])
    assert store.finish()
    assert torch.equal(SaliencyStore.open(tmp_path / "a")[:], rank_levels(maps))


def test_an_unfinished_store_is_taken_up_and_not_opened(tmp_path):
    first = SaliencyStore.create(tmp_path / "a", 3, (2, 2), FINGERPRINTS)
    first.write([1], torch.rand(1, 2, 2))
    kept = first[1]
    with pytest.raises(SaliencyStoreError, match=r"incomplete: 2 of its 3 maps .* Run what writes it again"):
        SaliencyStore.open(tmp_path / "a")
    again = SaliencyStore.create(tmp_path / "a.npy", 3, (2, 2), FINGERPRINTS)
    assert again.missing().tolist() == [0, 2]
    assert torch.equal(again[1], kept)


@pytest.mark.parametrize("part", ["weights", "explainer", "data"])
def test_other_maps_are_refused_by_name(tmp_path, part):
    written(tmp_path / "a")
    other = {**FINGERPRINTS, part: "other"}
    with pytest.raises(SaliencyStoreError, match=f"maps of other {part} than"):
        SaliencyStore.open(tmp_path / "a", other)
    with pytest.raises(SaliencyStoreError, match=f"begun for other {part} than"):
        SaliencyStore.create(tmp_path / "a", 6, (4, 5), other)
    with pytest.raises(SaliencyStoreError, match="other number of images, size of maps than"):
        SaliencyStore.create(tmp_path / "a", 7, (4, 4), FINGERPRINTS)
    SaliencyStore.open(tmp_path / "a", {"data": "c"})
    with pytest.raises(SaliencyStoreError, match="maps of other labels than"):
        SaliencyStore.open(tmp_path / "a", {"data": "c", "labels": "d"})


def test_truncated_files_are_refused(tmp_path):
    written(tmp_path / "a")
    maps, marks = tmp_path / "a.npy", tmp_path / "a.written"
    whole = maps.read_bytes()
    for content in (whole[:-1], whole[:40], b""):
        maps.write_bytes(content)
        with pytest.raises(SaliencyStoreError, match="missing, truncated or damaged"):
            SaliencyStore.open(tmp_path / "a")
        with pytest.raises(SaliencyStoreError, match="missing, truncated or damaged"):
            SaliencyStore.create(tmp_path / "a", 6, (4, 5), FINGERPRINTS)
    maps.write_bytes(whole)
    marks.write_bytes(b"\x01" * 5)
    with pytest.raises(SaliencyStoreError, match=r"a\.written missing or cut short. Allowed is a file of 6 bytes"):
        SaliencyStore.open(tmp_path / "a")


def others(path: Path) -> None:
    np.save(path, np.random.default_rng(0).integers(0, 255, (6, 4, 5), dtype=np.uint8))


@pytest.mark.parametrize(
    ("name", "harm"),
    [
        ("a.npy", Path.unlink),
        ("a.npy", lambda path: np.save(path, np.zeros((6, 4, 5), np.uint8))),
        ("a.npy", others),
        ("a.npy", lambda path: path.write_bytes(path.read_bytes()[:-20] + bytes(20))),
        ("a.written", Path.unlink),
        ("a.written", lambda path: path.write_bytes(bytes(6))),
        ("a.written", lambda path: path.write_bytes(b"\1" * 6)),
    ],
)
def test_a_file_that_was_lost_or_made_anew_is_noticed_and_its_maps_are_missing(tmp_path, name, harm):
    _, maps = written(tmp_path / "a")
    harm(tmp_path / name)
    with pytest.raises(SaliencyStoreError, match=r"a\.(npy|written).*(missing|damaged)"):
        SaliencyStore.open(tmp_path / "a")
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        again = SaliencyStore.create(tmp_path / "a", 6, (4, 5), FINGERPRINTS)
    lost = again.missing().tolist()
    assert lost
    # Marks of nothing are those of a store that was begun and no more.
    assert bool(said) or (tmp_path / name).read_bytes() == bytes(6)
    assert not again.complete
    with pytest.raises(SaliencyStoreError, match="incomplete"):
        SaliencyStore.open(tmp_path / "a")
    again.write(lost, maps[lost])
    assert torch.equal(SaliencyStore.open(tmp_path / "a")[:], rank_levels(maps))


def test_of_a_store_whose_maps_are_lost_none_is_left_by_the_chance_of_its_checksum(tmp_path):
    """Of a thousand maps, some have the checksum of the zeros that take their place."""
    written(tmp_path / "a", count=1000)
    (tmp_path / "a.npy").unlink()
    with pytest.warns(RuntimeWarning, match="All 1000 are missing now"):
        assert len(SaliencyStore.create(tmp_path / "a", 1000, (4, 5), FINGERPRINTS).missing()) == 1000


def test_a_map_that_was_changed_is_never_handed_out(tmp_path):
    _, maps = written(tmp_path / "a", count=300)
    data = bytearray((tmp_path / "a.npy").read_bytes())
    data[-20 * (300 - 7)] ^= 1
    (tmp_path / "a.npy").write_bytes(data)
    opened = SaliencyStore.open(tmp_path / "a")
    assert torch.equal(opened[[6, 8]], rank_levels(maps)[[6, 8]])
    for where in (7, [3, 7], slice(5, 9), torch.arange(300) == 7, torch.tensor([[7, 8]])):
        with pytest.raises(SaliencyStoreError, match=r"a\.npy is damaged: 1 maps .* row 7\. Run what writes it again"):
            opened[where]
    again = SaliencyStore.create(tmp_path / "a", 300, (4, 5), FINGERPRINTS)
    assert again.has([6, 8])
    assert not again.has([6, 7])
    with pytest.warns(RuntimeWarning, match="1 of the 300 maps .* count as missing"):
        assert not again.finish()
    assert again.missing().tolist() == [7]
    again.write([7], maps[7:8])
    assert again.finish()


def test_a_store_that_was_opened_for_reading_is_looked_through_and_not_changed(tmp_path):
    written(tmp_path / "a", count=300)
    opened = SaliencyStore.open(tmp_path / "a")
    assert opened.finish()
    data = bytearray((tmp_path / "a.npy").read_bytes())
    data[-20 * (300 - 7)] ^= 1
    (tmp_path / "a.npy").write_bytes(data)
    marks = (tmp_path / "a.written").read_bytes()
    assert not opened.finish()
    assert (tmp_path / "a.written").read_bytes() == marks


def test_a_map_that_is_written_anew_is_missing_until_it_is_there(tmp_path, monkeypatch):
    store, _ = written(tmp_path / "a")
    done = []

    def killed(path, pieces):
        if path.suffix == ".npy":
            raise KeyboardInterrupt
        done.append(path.suffix)
        write_pieces(path, pieces)

    monkeypatch.setattr(saliency_store, "write_pieces", killed)
    with pytest.raises(KeyboardInterrupt):
        store.write([2], torch.arange(20).view(1, 4, 5).flip(2))
    monkeypatch.undo()
    assert done == [".written"]
    assert SaliencyStore.create(tmp_path / "a", 6, (4, 5), FINGERPRINTS).missing().tolist() == [2]


def test_a_store_does_not_lie_on_a_remote_store(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for path in ("s3://bucket/maps", "memory://maps.npy"):
        for use in (lambda path: SaliencyStore.create(path, 1, (2, 2), {}), SaliencyStore.open):
            with pytest.raises(ValueError, match="on no disk of this machine"):
                use(path)
    assert list(tmp_path.iterdir()) == []


def test_files_that_do_not_belong_together_are_refused(tmp_path):
    written(tmp_path / "a")
    np.save(tmp_path / "a.npy", np.zeros((6, 4, 4), np.uint8))
    with pytest.raises(SaliencyStoreError, match=r"uint8 \[6, 4, 4\], but its sidecar says uint8 \[6, 4, 5\]"):
        SaliencyStore.open(tmp_path / "a")
    np.save(tmp_path / "a.npy", np.array([{"pickled": 1}]), allow_pickle=True)
    with pytest.raises(SaliencyStoreError, match="damaged"):
        SaliencyStore.open(tmp_path / "a")


def test_sidecars_that_are_none(tmp_path):
    with pytest.raises(SaliencyStoreError, match=r"no store .*a\.npy: a\.json is missing"):
        SaliencyStore.open(tmp_path / "a")
    written(tmp_path / "a")
    sidecar = tmp_path / "a.json"
    content = json.loads(sidecar.read_text())
    for text, message in (("{", "damaged"), ("[]", "no sidecar"), (json.dumps({**content, "format": 0}), "version")):
        sidecar.write_text(text)
        with pytest.raises(SaliencyStoreError, match=message):
            SaliencyStore.open(tmp_path / "a")
    sidecar.unlink()
    with pytest.raises(SaliencyStoreError, match=r"has no a\.json and so is no store"):
        SaliencyStore.create(tmp_path / "a", 6, (4, 5), FINGERPRINTS)


@pytest.mark.parametrize("left", [(), ("a.npy",), ("a.written",)])
def test_a_kill_while_a_store_is_created_leaves_nothing_in_the_way(tmp_path, left):
    SaliencyStore.create(tmp_path / "a", 3, (2, 2), FINGERPRINTS)
    for file in ("a.npy", "a.written"):
        if file not in left:
            (tmp_path / file).unlink()
    store = SaliencyStore.create(tmp_path / "a", 3, (2, 2), FINGERPRINTS)
    assert store.missing().tolist() == [0, 1, 2]
    assert sorted(file.name for file in tmp_path.iterdir()) == ["a.json", "a.npy", "a.written"]


def test_a_row_is_marked_only_once_its_map_is_on_the_disk(tmp_path, monkeypatch):
    store = SaliencyStore.create(tmp_path / "a", 2, (2, 2), FINGERPRINTS)

    def fail(*_):
        raise OSError("disk")

    for sync in ("fsync", "fdatasync"):
        monkeypatch.setattr(os, sync, fail, raising=False)
    with pytest.raises(OSError, match="disk"):
        store.write([0, 1], torch.rand(2, 2, 2))
    monkeypatch.undo()
    assert SaliencyStore.create(tmp_path / "a", 2, (2, 2), FINGERPRINTS).missing().tolist() == [0, 1]


@pytest.mark.parametrize("rows", [[5], [2, 3, 4], [7, 1, 2, 9, 8, 1]])
def test_no_byte_is_written_but_those_of_the_rows(tmp_path, monkeypatch, rows):
    store = SaliencyStore.create(tmp_path / "a", 10, (3, 5), FINGERPRINTS)
    before = (tmp_path / "a.npy").stat().st_size - 150
    written: dict[str, list[tuple[int, int]]] = {"a.npy": [], "a.written": []}

    def noted(path, pieces):
        kept = list(pieces)
        written[path.name] += [(start, start + len(content)) for start, content in kept]
        write_pieces(path, kept)

    monkeypatch.setattr(saliency_store, "write_pieces", noted)
    maps = torch.rand(len(rows), 3, 5)
    store.write(rows, maps)
    places = {place for start, end in written["a.npy"] for place in range(start, end)}
    assert places == {before + 15 * row + pixel for row in rows for pixel in range(15)}
    assert {place for start, end in written["a.written"] for place in range(start, end)} == set(rows)
    assert len(written["a.npy"]) == {1: 1, 3: 1, 6: 5}[len(rows)]
    last = {row: place for place, row in enumerate(rows)}
    assert torch.equal(store[list(last)], rank_levels(maps[list(last.values())]))
    assert sorted(set(range(10)) - set(store.missing().tolist())) == sorted(last)


@pytest.mark.parametrize("damaged", [False, True])
def test_what_another_machine_wrote_is_seen_at_the_end(tmp_path, damaged):
    maps = torch.rand(2, 2, 2)
    store = SaliencyStore.create(tmp_path / "a", 2, (2, 2), FINGERPRINTS)
    store.write([0], maps[:1])
    whole = SaliencyStore.create(tmp_path / "whole", 2, (2, 2), FINGERPRINTS)
    whole.write([0, 1], maps)
    # As where mapped files are older than the files: these stay mapped, and others take their place.
    for file in ("npy", "written"):
        (tmp_path / f"a.{file}").rename(tmp_path / f"old.{file}")
        (tmp_path / f"whole.{file}").rename(tmp_path / f"a.{file}")
    assert store.missing().tolist() == [1]
    if damaged:
        data = bytearray((tmp_path / "a.npy").read_bytes())
        data[-1] ^= 1
        (tmp_path / "a.npy").write_bytes(data)
        with pytest.warns(RuntimeWarning, match="1 of the 2 maps"):
            assert not store.finish()
    else:
        assert store.finish()
    assert store.complete is not damaged


def test_wrong_arguments_are_refused(tmp_path):
    store = SaliencyStore.create(tmp_path / "a", 3, (2, 2), FINGERPRINTS)
    with pytest.raises(ValueError, match=r"maps \[1, 2, 3\] for 1 rows .* Allowed is \[1, 2, 2\]"):
        store.write([0], torch.rand(1, 2, 3))
    with pytest.raises(ValueError, match=r"rows from -1 to 0. Allowed are 0 to 2"):
        store.write([0, -1], torch.rand(2, 2, 2))
    with pytest.raises(ValueError, match="Got saliency maps with NaN"):
        store.write([0], torch.full((1, 2, 2), float("nan")))
    assert store.missing().tolist() == [0, 1, 2]
    with pytest.raises(ValueError, match="count=0"):
        SaliencyStore.create(tmp_path / "b", 0, (2, 2), {})
    with pytest.raises(ValueError, match="size="):
        SaliencyStore.create(tmp_path / "b", 1, (2, 0), {})
    written(tmp_path / "c")
    with pytest.raises(SaliencyStoreError, match="opened for reading"):
        SaliencyStore.open(tmp_path / "c").write([0], torch.rand(1, 4, 5))


def test_the_smallest_store_and_its_last_row(tmp_path):
    store = SaliencyStore.create(tmp_path / "a", 1, (1, 1), FINGERPRINTS)
    for rows in ([1], [-1], [0, 1]):
        with pytest.raises(ValueError, match="Allowed are 0 to 0"):
            store.write(rows, torch.rand(len(rows), 1, 1))
    assert store.missing().tolist() == [0]
    store.write([0], torch.rand(1, 1, 1))
    assert store.complete
    opened = SaliencyStore.open(tmp_path / "a")
    assert opened[[]].shape == opened[range(0)].shape == (0, 1, 1)
    assert opened[[0, 0]].tolist() == [[[0]], [[0]]]


def test_a_store_goes_to_other_processes_by_its_path(tmp_path):
    _, maps = written(tmp_path / "a")
    store = SaliencyStore.open(tmp_path / "a")
    sent = pickle.dumps(store)
    assert len(sent) < 1000
    assert torch.equal(pickle.loads(sent)[:], rank_levels(maps))
    half = SaliencyStore.create(tmp_path / "b", 3, (2, 2), FINGERPRINTS)
    assert pickle.loads(pickle.dumps(half)).missing().tolist() == [0, 1, 2]


def _write_every_second(path: str, rank: int, maps: torch.Tensor) -> None:
    store = SaliencyStore.create(path, len(maps), tuple(maps.shape[1:]), FINGERPRINTS)
    for start in range(rank * 5, len(maps), 10):
        rows = range(start, min(start + 5, len(maps)))
        store.write(rows, maps[list(rows)])


def test_two_processes_write_one_store(tmp_path):
    maps = torch.rand(43, 3, 4)
    SaliencyStore.create(tmp_path / "a", 43, (3, 4), FINGERPRINTS)
    context = multiprocessing.get_context("fork")
    workers = [context.Process(target=_write_every_second, args=(str(tmp_path / "a"), rank, maps)) for rank in (0, 1)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join(60)
        assert worker.exitcode == 0
    assert torch.equal(SaliencyStore.open(tmp_path / "a")[:], rank_levels(maps))


def _write_slowly(path: str, said: Any, pause: float = 0.0) -> None:
    torch.manual_seed(3)
    maps = torch.rand(60, 8, 8)
    store = SaliencyStore.create(path, 60, (8, 8), {"weights": "a"})
    for row in store.missing().tolist():
        store.write([row], maps[row : row + 1])
        said.send(row)
        time.sleep(60 if pause and row == 40 else pause)


@pytest.mark.skipif(not hasattr(signal, "SIGKILL"), reason="no SIGKILL")
def test_a_killed_writer_loses_at_most_the_row_it_was_writing(tmp_path):
    context = multiprocessing.get_context("fork")
    heard, said = context.Pipe(duplex=False)
    process = context.Process(target=_write_slowly, args=(str(tmp_path / "a"), said, 0.002))
    process.start()
    rows = [heard.recv() for _ in range(20)]
    time.sleep(0.003)
    os.kill(process.pid, signal.SIGKILL)
    process.join(60)
    left = SaliencyStore.create(tmp_path / "a", 60, (8, 8), {"weights": "a"}).missing().tolist()
    assert set(rows).isdisjoint(left)
    assert 19 <= len(left) <= 40
    _write_slowly(str(tmp_path / "a"), said)
    while heard.poll():
        rows.append(heard.recv())
    # The kill may fall between the writing of a row and the word of it.
    assert len(set(range(60)) - set(rows) - set(left)) <= 1
    torch.manual_seed(3)
    assert torch.equal(SaliencyStore.open(tmp_path / "a")[:], rank_levels(torch.rand(60, 8, 8)))
