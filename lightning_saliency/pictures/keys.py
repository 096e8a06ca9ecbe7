"""The colours of maps and of LOVI, and what they mean, in one line of a picture."""

from __future__ import annotations

from typing import Literal

import numpy as np
from PIL import Image, ImageDraw

from lightning_saliency.functional.visualization import color_table
from lightning_saliency.pictures.tensors import text_font

Key = Literal["heat", "hue"]
#: Height of a line, in pixels.
KEY_HEIGHT = 22
_MUTED = (98, 106, 117)
_BAR = 96
_WORDS = {"heat": ("little information", "much"), "hue": ("LOVI: first scale", "last, white: all, dark: none")}


def draw_key(canvas: Image.Image, kind: Key, left: int, top: int) -> None:
    """Draw the colours between the words for their ends.

    Args:
        canvas: An RGB image.
        kind: ``"heat"``, of a map, or ``"hue"``, of LOVI.
        left: Where it begins, in pixels.
        top: Where the line begins, in pixels.
    """
    draw, font = ImageDraw.Draw(canvas), text_font(12)
    before, after = _WORDS[kind]
    table = np.round(255 * np.array(color_table(kind))).astype(np.uint8)
    if kind == "hue":
        table = table[::-1]  # from the first scale to the last
    bar = np.repeat(table[np.linspace(0, len(table) - 1, _BAR).astype(int)][None], 10, axis=0)
    draw.text((left, top + 3), before, fill=_MUTED, font=font)
    place = left + round(draw.textlength(before, font)) + 7
    canvas.paste(Image.fromarray(bar), (place, top + 6))
    draw.text((place + _BAR + 7, top + 3), after, fill=_MUTED, font=font)
