"""Pictures as PNG, each encoded once however many places it goes to."""

from __future__ import annotations

import io

import numpy as np
import numpy.typing as npt
from PIL import Image

_latest: tuple[npt.NDArray[np.uint8], bytes] | None = None


def png_bytes(picture: npt.NDArray[np.uint8]) -> bytes:
    """The picture ``[H, W, 3]`` uint8 as a PNG file.

    The latest result is kept: a training waits while a picture is encoded, and the same one goes to a logger and into
    the film.

    Example:
        >>> png_bytes(np.zeros((2, 3, 3), np.uint8))[1:4]
        b'PNG'
    """
    global _latest
    latest = _latest
    if latest is None or not np.array_equal(latest[0], picture):
        buffer = io.BytesIO()
        # A quarter of the default level's time for a fifth more bytes.
        Image.fromarray(picture).save(buffer, format="PNG", compress_level=1)
        latest = _latest = picture.copy(), buffer.getvalue()
    return latest[1]
