"""Files here and on remote stores: written whole, found again, and no folder of this machine named after a URL."""

from __future__ import annotations

import os
import pickle
from pathlib import Path

import pytest

from lightning_saliency.files import RemotePath, file_of_this_machine, location, replacing, write_atomically


@pytest.mark.parametrize("url", ["memory://one/run", "memory://two", "memory://three/deep/er"])
def test_a_remote_folder_holds_what_is_written(url: str) -> None:
    folder = location(url)
    assert isinstance(folder, RemotePath)
    assert not folder.exists()
    assert list(folder.iterdir()) == []
    write_atomically(f"{url}/view/a.txt", "first")
    file = write_atomically(folder / "view" / "a.txt", b"second")
    write_atomically(folder / "b.txt", "beside")
    assert file.read_bytes() == b"second"
    assert [path.name for path in folder.iterdir()] == ["b.txt", "view"]
    assert ((folder / "view").is_dir(), (folder / "b.txt").is_dir()) == (True, False)
    assert isinstance(file, RemotePath)
    assert (file.stem, file.suffix, file.size(), str(file.parent)) == ("a", ".txt", 6, f"{url}/view")
    again = pickle.loads(pickle.dumps(file))
    assert again.read_bytes() == b"second"
    file.move_to(folder / "moved.txt")
    assert (folder / "moved.txt").read_bytes() == b"second"
    with pytest.raises(FileNotFoundError):
        file.unlink()
    file.unlink(missing_ok=True)


def test_paths_and_urls_of_this_machine_are_paths(tmp_path: Path) -> None:
    assert location(tmp_path) == location(str(tmp_path)) == location(f"file://{tmp_path}") == tmp_path
    assert file_of_this_machine(f"file://{tmp_path}/a") == tmp_path / "a"
    assert file_of_this_machine("C:/maps") == Path("C:/maps")


@pytest.mark.parametrize("given", ["s3://bucket/maps", Path("gs://bucket/maps"), "memory://maps"])
def test_what_has_to_lie_on_a_disk_is_refused_elsewhere(tmp_path, monkeypatch, given) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ValueError, match=r"on no disk of this machine\. Allowed are paths"):
        file_of_this_machine(given)
    with pytest.raises(ValueError, match="on no disk"), replacing(given):
        pass
    assert list(tmp_path.iterdir()) == []


def test_a_file_with_the_longest_name_is_replaced(tmp_path: Path) -> None:
    path = tmp_path / ("é" * 127)
    for text in ("first", "second"):
        write_atomically(path, text)
        assert [(file.name, file.read_text()) for file in tmp_path.iterdir()] == [(path.name, text)]
    assert len(os.fsencode(path.name)) == 254


def test_two_machines_whose_processes_have_one_number_write_apart(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr(os, "getpid", lambda: 1)  # as of the first process in a container
    with replacing(tmp_path / "a") as first, replacing(tmp_path / "a") as second:
        assert first != second
        first.write_text("one")
        second.write_text("the other")
    assert (tmp_path / "a").read_text() == "one"
    assert len(list(tmp_path.iterdir())) == 1


def test_what_is_flushed_may_be_written(tmp_path: Path, monkeypatch) -> None:
    """Windows flushes no other file."""
    flushed = []

    def flush(number: int) -> None:
        flushed.append(os.write(number, b""))

    monkeypatch.setattr(os, "fsync", flush)
    write_atomically(tmp_path / "a", "all of it")
    assert flushed == [0]
    assert (tmp_path / "a").read_text() == "all of it"
