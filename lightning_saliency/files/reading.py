"""Reading files of the user's: whatever is wrong with one, the error names the file and the reason."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from lightning_saliency.files.locations import RemotePath


@contextmanager
def reading(
    path: str | Path | RemotePath,
    what: str,
    remedy: str = "Check it, or give another.",
    error: type[ValueError] = ValueError,
) -> Iterator[None]:
    """Turn all that reading a file raises into one error that names the file and the reason.

    A file that is not there stays a ``FileNotFoundError``. Only what reads and parses belongs inside: a defect in other
    code would be told as one of the file.

    Args:
        path: The file.
        what: What it is to be, such as ``"checkpoint"``.
        remedy: What to do.
        error: What is raised.

    Example:
        >>> with reading("scores.json", "file of scores"):
        ...     json.loads("{")
        Traceback (most recent call last):
        ...
        ValueError: Got the file of scores scores.json, which cannot be read: JSONDecodeError: Expecting property name
        enclosed in double quotes: line 1 column 2 (char 1). Check it, or give another.
    """
    try:
        yield
    except FileNotFoundError as caught:
        raise FileNotFoundError(
            f"Got {path} as {what}, where there is no file. Give its path from the current folder."
        ) from caught
    # Parsers meet damaged files with whatever they like: EOFError, struct.error, RecursionError, KeyError.
    except Exception as caught:
        if isinstance(caught, ValueError) and str(path) in str(caught):
            raise  # it says which file
        raise error(f"Got the {what} {path}, which cannot be read: {_reason(caught)}. {remedy}") from caught


def read_text(
    path: str | Path | RemotePath, what: str, remedy: str = "Check it, or give another.", encoding: str = "utf-8-sig"
) -> str:
    """A text file's content; a byte-order mark is no part of it.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If it is a folder, may not be read, or is not text.
    """
    with reading(path, what, remedy):
        data = path.read_bytes() if isinstance(path, RemotePath) else Path(path).read_bytes()
        return data.decode(encoding)


def read_json(path: str | Path, what: str, remedy: str = "Check it, or give another.") -> Any:
    """A JSON file's content.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If it cannot be read, or is no JSON.
    """
    text = read_text(path, what, remedy)
    with reading(path, what, remedy):
        return json.loads(text)


def _reason(error: Exception) -> str:
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    lines = str(error).strip().splitlines()
    text = (lines[0] if lines else "").rstrip(".")
    if len(text) > 300:
        text = text[:300] + " …"
    if isinstance(error, KeyError):
        return f"it has no {text}"
    return f"{type(error).__name__}: {text}" if text else type(error).__name__
