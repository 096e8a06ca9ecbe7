"""What the cells of a study share: an object of this process, which other processes load from a file."""

from __future__ import annotations

import io
import uuid
from collections import OrderedDict
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import torch

from lightning_saliency.files import file_of_this_machine, write_atomically

Value = TypeVar("Value")

# What this process shares with its cells, for as long as `sharing` lasts.
_SHARED: dict[str, Any] = {}
# What this process has built or loaded for its cells, and can build again, the latest last.
_KEPT: OrderedDict[str, Any] = OrderedDict()
_MAX_KEPT = 64


@dataclass(frozen=True)
class Shared:
    """An object that cells share without being pickled with each of them.

    Attributes:
        key: Its name in the process that made it.
        path: The file from which other processes load it; ``None``: there are none.
    """

    key: str
    path: str | None

    def get(self) -> Any:
        """The object: the very one in the process that made it, elsewhere a copy that is loaded once."""
        return _SHARED[self.key] if self.key in _SHARED else cached(self.key, self._load)

    def _load(self) -> Any:
        if self.path is None:
            raise RuntimeError(f"{self.key} was shared in another process, which kept no file of it.")
        return torch.load(self.path, map_location="cpu", weights_only=False)


def cached(key: str, build: Callable[[], Value]) -> Value:
    """The result of `build`, made once per key in this process; the least recently used results are dropped.

    A key has to name all that the result depends on, the row of the table included where two rows may look alike.
    """
    if key not in _KEPT:
        _KEPT[key] = build()
    _KEPT.move_to_end(key)
    while len(_KEPT) > _MAX_KEPT:
        _KEPT.popitem(last=False)
    value: Value = _KEPT[key]
    return value


@contextmanager
def sharing(folder: Path, elsewhere: bool) -> Iterator[Callable[[str, Any], Shared]]:
    """While the context lasts, objects can be shared with cells: ``share(name, value)``.

    Args:
        folder: Folder of the study; the files are kept below it for as long as the context lasts.
        elsewhere: Whether cells are computed in other processes.

    Yields:
        The function that shares an object.

    Raises:
        TypeError: From that function, if an object is to be sent to other processes and cannot be.
    """
    # Studies of several processes may share a folder.
    run = f"shared-{uuid.uuid4().hex[:8]}"
    files = file_of_this_machine(folder, "folder") / "shared"
    written: list[Path] = []
    before = set(_KEPT)

    def share(name: str, value: Any) -> Shared:
        key, path = f"{run}/{name}", None
        if elsewhere:
            path = files / f"{run}-{name}.pt"
            content = io.BytesIO()
            try:
                torch.save(value, content)
            except Exception as error:  # pickle raises whatever the object's parts raise
                raise TypeError(
                    f"Got a {type(value).__name__} as {name}, which cannot be sent to other processes ({error}). "
                    "Define its class at the top of a module, describe it by class_path and init_args, or use "
                    "workers=1 and engine='local'."
                ) from error
            written.append(path)
            write_atomically(path, content.getvalue())
        _SHARED[key] = value
        return Shared(key, None if path is None else str(path))

    try:
        yield share
    finally:
        for key in [key for key in _SHARED if key.startswith(f"{run}/")]:
            del _SHARED[key]
        for key in set(_KEPT) - before:
            del _KEPT[key]
        for file in written:
            file.unlink(missing_ok=True)
        # Only an empty folder goes: what else is in it is somebody's own.
        with suppress(OSError):
            files.rmdir()
