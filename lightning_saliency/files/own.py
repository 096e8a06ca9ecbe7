"""A folder's files that this package wrote, so that no other is overwritten."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from lightning_saliency.files.atomic import replacing
from lightning_saliency.files.locations import file_of_this_machine
from lightning_saliency.files.reading import read_text

#: Lists the files written into a folder, each with its hash, as ``sha256sum --check`` reads it.
LIST = ".lightning_saliency.sha256"
_CHUNK = 1 << 20


class OwnFiles:
    """Writes files into a folder, and replaces those alone that were written so and not changed since.

    A hidden file in the folder keeps the hash of every file written. A file that it does not list, or that has another
    content by now, is somebody's own and is refused by name.

    Args:
        folder: The folder, of this machine; made with the first file.

    Raises:
        ValueError: If the folder is a file or a URL.

    Example:
        >>> import tempfile
        >>> folder = tempfile.TemporaryDirectory()
        >>> for text in ("first", "second"):
        ...     file = OwnFiles(folder.name).write("table.md", text)
        >>> file.read_text()
        'second'
        >>> _ = file.write_text("my notes")
        >>> OwnFiles(folder.name).write("table.md", "third")
        Traceback (most recent call last):
        ...
        ValueError: Got ...table.md, which was not written here, or was changed since. ...
        >>> folder.cleanup()
    """

    def __init__(self, folder: str | Path) -> None:
        self.folder = file_of_this_machine(folder, "folder")
        if self.folder.exists() and not self.folder.is_dir():
            raise ValueError(f"Got the folder {self.folder}, which is no folder. Allowed is one; choose another name.")
        self._list = self.folder / LIST
        self._known: dict[str, set[str]] = {}
        if self._list.exists():
            text = read_text(self._list, "list of files written", "Delete it, and move the files away.")
            for line in text.splitlines():
                digest, _, name = line.partition("  ")
                self._known.setdefault(name, set()).add(digest)

    def check(self, *names: str) -> None:
        """Raise if one of these files is there and was not written so.

        Raises:
            ValueError: If it is.
        """
        for name in names:
            path = self.folder / name
            if os.path.lexists(path) and not (path.is_file() and _digest(path) in self._known.get(name, ())):
                raise ValueError(
                    f"Got {path}, which was not written here, or was changed since. It is left as it is; move it away "
                    "or choose another folder."
                )

    @contextmanager
    def replacing(self, name: str) -> Iterator[Path]:
        """A temporary file that takes the file's place at the end, see `lightning_saliency.files.replacing`.

        Raises:
            ValueError: If the file is there and was not written so; nothing is written then.
        """
        self.check(name)
        with replacing(self.folder / name) as temporary:
            yield temporary
            # Noted before it is there, so that a kill in between leaves no file that is not known.
            digest = _digest(temporary)
            self._known.setdefault(name, set()).add(digest)
            with self._list.open("a", encoding="utf-8") as file:
                file.write(f"{digest}  {name}\n")

    def write(self, name: str, content: str | bytes) -> Path:
        """Write a file; texts as UTF-8.

        Args:
            name: Its name in the folder.
            content: What it holds.

        Returns:
            The file.

        Raises:
            ValueError: If the file is there and was not written so.
        """
        with self.replacing(name) as temporary:
            temporary.write_bytes(content.encode() if isinstance(content, str) else content)
        return self.folder / name


def _digest(path: Path) -> str:
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while piece := file.read(_CHUNK):
            digest.update(piece)
    return digest.hexdigest()
