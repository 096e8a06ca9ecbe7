"""Files that are written completely or not at all."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from uuid import uuid4

from lightning_saliency.files.locations import Location, RemotePath, file_of_this_machine, location


@contextmanager
def replacing(path: str | Path) -> Iterator[Path]:
    """A temporary file beside a path that takes its place when the context ends without an exception.

    A reader always sees the complete old file or the complete new one. Its folder is created.

    Args:
        path: The file of this machine to write or to replace.

    Yields:
        The temporary file, to be written inside the context.

    Raises:
        ValueError: If the path is a URL, see `write_atomically`.

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     with replacing(Path(folder) / "results.txt") as temporary:
        ...         _ = temporary.write_text("all of them")
        ...     [file.name for file in Path(folder).iterdir()]
        ['results.txt']
    """
    path = file_of_this_machine(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    # Not longer than the name itself may be, in bytes.
    start = os.fsencode(path.name)[:200].decode(errors="ignore")
    # Two machines that share a folder may have processes of one number.
    temporary = path.with_name(f".{start}.{uuid4().hex[:12]}.tmp")
    try:
        yield temporary
        with temporary.open("r+b") as file:  # Windows flushes only what may be written
            os.fsync(file.fileno())
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def write_atomically(path: str | Path | RemotePath, content: str | bytes) -> Location:
    """Write a file in one step: see `replacing`; on a remote store as one object.

    Args:
        path: The file, of this machine or a URL such as ``s3://bucket/notes.txt``.
        content: Bytes, or a text that is written as UTF-8.

    Returns:
        The file.
    """
    place = location(path)
    data = content.encode() if isinstance(content, str) else content
    if isinstance(place, RemotePath):
        place.write_bytes(data)
        return place
    with replacing(place) as temporary:
        temporary.write_bytes(data)
    return place
