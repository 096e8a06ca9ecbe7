"""Files that are written completely or not at all."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def replacing(path: str | Path) -> Iterator[Path]:
    """A temporary file beside a path that takes its place when the context ends without an exception.

    A reader always sees the complete old file or the complete new one. Its folder is created.

    Args:
        path: The file to write or to replace.

    Yields:
        The temporary file, to be written inside the context.

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     with replacing(Path(folder) / "results.txt") as temporary:
        ...         _ = temporary.write_text("all of them")
        ...     [file.name for file in Path(folder).iterdir()]
        ['results.txt']
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        yield temporary
        with temporary.open("rb") as file:
            os.fsync(file.fileno())
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def write_atomically(path: str | Path, content: str | bytes) -> Path:
    """Write a file in one step, see `replacing`.

    Args:
        path: The file.
        content: Bytes, or a text that is written as UTF-8.

    Returns:
        The file.
    """
    with replacing(path) as temporary:
        temporary.write_bytes(content.encode() if isinstance(content, str) else content)
    return Path(path)
