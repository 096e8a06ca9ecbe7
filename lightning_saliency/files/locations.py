"""Where files are: a path of this machine, or a place that only fsspec reaches, such as ``s3://bucket/run``."""

from __future__ import annotations

import os
import posixpath
import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import fsspec

# A drive of Windows has one letter; `Path` makes one slash of two.
_URL = re.compile(r"[A-Za-z][A-Za-z0-9+.-]+(::[^/]*)?:/")
_LOCAL = ("file", "local")


@dataclass(frozen=True)
class RemotePath:
    """A file or folder on a remote store, with those methods of ``pathlib.Path`` that writing a run needs.

    Nothing is connected to before a method asks what is there. Names are joined as they are, so let `safe_name` make
    them. What goes wrong is whatever the store's own package raises, not only ``OSError``.

    Args:
        url: Such as ``"s3://bucket/run"`` or ``"memory://run"``.

    Example:
        >>> folder = RemotePath("memory://docs/run")
        >>> file = folder / "notes.txt"
        >>> file.write_bytes(b"whole")
        >>> file.read_bytes(), [path.name for path in folder.iterdir()], file.name, str(file)
        (b'whole', ['notes.txt'], 'notes.txt', 'memory://docs/run/notes.txt')
        >>> file.unlink()
        >>> file.exists()
        False
    """

    url: str

    def __post_init__(self) -> None:
        object.__setattr__(self, "url", self.url.rstrip("/"))

    def __truediv__(self, name: str) -> RemotePath:
        return RemotePath(f"{self.url}/{name}")

    def __str__(self) -> str:
        return self.url

    @property
    def name(self) -> str:
        """The last part."""
        return posixpath.basename(self.url)

    @property
    def stem(self) -> str:
        """The last part without its ending."""
        return posixpath.splitext(self.name)[0]

    @property
    def suffix(self) -> str:
        """The ending, such as ``".png"``."""
        return posixpath.splitext(self.name)[1]

    @property
    def parent(self) -> RemotePath:
        """The folder that it is in."""
        return RemotePath(posixpath.dirname(self.url))

    @cached_property
    def _place(self) -> tuple[Any, str]:
        system, path = fsspec.core.url_to_fs(self.url)
        # What other processes wrote meanwhile must be seen.
        system.invalidate_cache()
        return system, str(path)

    def exists(self) -> bool:
        """Whether there is such a file or folder."""
        system, path = self._place
        return bool(system.exists(path))

    def is_dir(self) -> bool:
        """Whether it is a folder that holds something."""
        system, path = self._place
        return bool(system.isdir(path))

    def iterdir(self) -> Iterator[RemotePath]:
        """What the folder holds, by name; nothing where there is no such folder."""
        system, path = self._place
        try:
            found = system.ls(path, detail=False, refresh=True)
        except FileNotFoundError:
            found = []
        # Object stores list the folder itself, too.
        entries = {str(entry).strip("/") for entry in found} - {path.strip("/")}
        yield from (self / name for name in sorted(entry.rpartition("/")[2] for entry in entries))

    def size(self) -> int:
        """The file's length in bytes."""
        system, path = self._place
        return int(system.info(path, refresh=True)["size"])

    def mkdir(self) -> None:
        """Make the folder, and those it is in, where the store knows folders."""
        system, path = self._place
        system.makedirs(path, exist_ok=True)

    def read_bytes(self) -> bytes:
        """The file's content."""
        system, path = self._place
        return bytes(system.cat_file(path))

    def write_bytes(self, content: bytes) -> None:
        """Write the file whole; its folder is made. Object stores show it once it is complete."""
        system, path = self._place
        self.parent.mkdir()
        system.pipe_file(path, content)

    def unlink(self, missing_ok: bool = False) -> None:
        """Delete the file."""
        system, path = self._place
        try:
            system.rm_file(path)
        except FileNotFoundError:
            if not missing_ok:
                raise

    def move_to(self, target: RemotePath) -> None:
        """Move the file to another place of the same store."""
        target.write_bytes(self.read_bytes())
        self.unlink()


Location = Path | RemotePath


def location(path: str | Path | RemotePath) -> Location:
    """The place that a path or a URL names, as Lightning reads ``default_root_dir``.

    Example:
        >>> location("runs/first"), location("s3://bucket/run")
        (PosixPath('runs/first'), RemotePath(url='s3://bucket/run'))
        >>> location("file:///tmp/run")
        PosixPath('/tmp/run')
    """
    if isinstance(path, RemotePath):
        return path
    text = os.fspath(path)
    if "://" not in text:
        return Path(text)
    scheme = text.partition("://")[0]
    if scheme in _LOCAL:
        return Path(fsspec.core.url_to_fs(text)[1])
    return RemotePath(text)


def file_of_this_machine(path: str | Path, what: str = "file") -> Path:
    """The path, unless it is a URL: these are no paths of this machine, and no folder ``s3:`` is to be made.

    Args:
        path: A path or ``file://`` URL.
        what: What it is, for the message.

    Raises:
        ValueError: If it is the URL of a remote place.

    Example:
        >>> file_of_this_machine("maps/train.npy")
        PosixPath('maps/train.npy')
    """
    text = os.fspath(path)
    if text.startswith(tuple(f"{scheme}://" for scheme in _LOCAL)):
        return Path(fsspec.core.url_to_fs(text)[1])
    if _URL.match(text):
        raise ValueError(
            f"Got the {what} {text}, which is on no disk of this machine. Allowed are paths of this machine; give one, "
            "and copy from there or to there."
        )
    return Path(text)
