"""The film for a slide or a README: a strip of epochs side by side, or a moving picture."""

from __future__ import annotations

import io
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

import numpy as np
from PIL import Image, ImageDraw

from lightning_saliency.files import Location, RemotePath, location, write_atomically
from lightning_saliency.pictures.frames import evenly_spaced
from lightning_saliency.pictures.keys import KEY_HEIGHT, draw_key
from lightning_saliency.pictures.page.find import RECORDS, find_run
from lightning_saliency.pictures.page.records import FrameRecord
from lightning_saliency.pictures.page.store import FilmRecords
from lightning_saliency.pictures.page.tiles import check_view, tile
from lightning_saliency.pictures.tensors import Picture, shortened, text_font

_PAPER, _INK, _MUTED, _RIGHT, _WRONG = (255, 255, 255), (27, 30, 35), (98, 106, 117), (23, 112, 63), (179, 54, 29)
_GAP, _BAND, _HEAD, _MARGIN = 6, 20, 30, 14
_TITLES = {"photo": "photo", "overlay": "overlay", "lovi": "LOVI", "combined": "combined"}


def film_strip(
    run: str | Path | RemotePath,
    view: str = "overlay",
    *,
    frames: int = 6,
    images: Sequence[int] | int = 4,
    side: int = 160,
    name: str | None = None,
) -> Picture:
    """A picture with a row for each image and a column for each of some epochs, labelled, fit for a slide.

    Args:
        run: See `film`.
        view: ``"overlay"``, ``"lovi"``, ``"combined"``, ``"photo"``, ``"scale 1"``, …, or a view of a class.
        frames: Maximum number of epochs, evenly spaced over the run, with the first and the latest (1: the latest).
        images: Numbers of images, from 0, or how many of the first.
        side: The longer side of a tile in pixels.
        name: The monitor's name, where a run has several.

    Returns:
        ``[H, W, 3]`` uint8.

    Raises:
        ValueError: If an argument is out of its range, the film has no such view, or a frame cannot be read.
    """
    store, shown = _read(run, name, frames)
    chosen = _chosen(images, shown)
    check_view(view, shown[0])
    width = 2 * _MARGIN + (1 + len(shown)) * (side + _GAP) - _GAP
    canvas = Image.new("RGB", (width, _HEAD + len(chosen) * (side + _BAND + _GAP) + KEY_HEIGHT + _MARGIN), _PAPER)
    draw = ImageDraw.Draw(canvas)
    font, small = text_font(14), text_font(11)
    for column, text in enumerate(["photo", *(_epoch(record) for record in shown)]):
        draw.text((_MARGIN + column * (side + _GAP), 8), text, fill=_INK, font=font)
    for row, slot in enumerate(chosen):
        top = _HEAD + row * (side + _BAND + _GAP)
        latest = next(record for record in reversed(shown) if slot in record.slots)
        for column, record in enumerate([latest, *shown]):
            if slot not in record.slots:
                continue
            index = record.slots.index(slot)
            left = _MARGIN + column * (side + _GAP)
            photo = store.photo(record.images[index].photo)
            _paste(canvas, tile(record, index, view if column else "photo", photo, side), left, top, side)
            text, color = _guess(record, index) if column else (_label(record, index), _INK)
            draw.text((left, top + side + 3), shortened(text, side, draw, small), fill=color, font=small)
    if view != "photo":
        draw_key(canvas, "hue" if view == "lovi" else "heat", _MARGIN, _HEAD + len(chosen) * (side + _BAND + _GAP))
    return np.array(canvas)


def moving_film(
    run: str | Path | RemotePath,
    output: str | Path | RemotePath,
    views: Sequence[str] = ("photo", "overlay", "lovi"),
    *,
    frames: int = 24,
    images: Sequence[int] | int = 4,
    side: int = 160,
    seconds: float = 8.0,
    name: str | None = None,
) -> Location:
    """The film as a moving picture that any README or slide plays: a column for each image, a row for each view.

    Args:
        run: See `film`.
        output: The file; its ending says whether it is a ``.gif`` or a ``.webp``, which is smaller.
        views: See `film_strip`.
        frames: Maximum number of epochs, evenly spaced over the run.
        images: Numbers of images, from 0, or how many of the first.
        side: The longer side of a tile in pixels.
        seconds: How long it lasts at most, without the stop at the end; each epoch from 0.08 to 0.8 seconds.
        name: The monitor's name, where a run has several.

    Returns:
        The file.

    Raises:
        ValueError: If an argument is out of its range, the film has no such view, or a frame cannot be read.
        OSError: If it cannot be written.
    """
    place = location(output)
    if place.suffix not in (".gif", ".webp"):
        raise ValueError(f"Got the file {output}. Allowed are names that end in .gif or .webp; give one.")
    store, shown = _read(run, name, frames)
    chosen = _chosen(images, shown)
    for view in views:
        check_view(view, shown[0])
    pictures = [
        _moment(store, record, views, chosen, side, number / max(1, len(shown) - 1))
        for number, record in enumerate(shown)
    ]
    pause = min(800, max(80, round(1000 * seconds / len(pictures))))
    content = _animation(pictures, [pause] * (len(pictures) - 1) + [2000], "GIF" if place.suffix == ".gif" else "WEBP")
    return write_atomically(place, content)


def _moment(
    store: FilmRecords, record: FrameRecord, views: Sequence[str], chosen: Sequence[int], side: int, share: float
) -> Image.Image:
    name = 70
    width = _MARGIN + name + len(chosen) * (side + _GAP) - _GAP + _MARGIN
    canvas = Image.new("RGB", (width, _HEAD + _BAND + len(views) * (side + _GAP) + _MARGIN), _PAPER)
    draw = ImageDraw.Draw(canvas)
    font, small = text_font(15), text_font(11)
    draw.text((_MARGIN, 8), _epoch(record), fill=_INK, font=font)
    left = _MARGIN + name
    draw.rectangle((left, 17, width - _MARGIN, 19), fill=(226, 227, 224))
    draw.rectangle((left, 16, left + round(share * (width - _MARGIN - left)), 20), fill=(47, 95, 208))
    for column, slot in enumerate(chosen):
        if slot not in record.slots:
            continue
        index = record.slots.index(slot)
        left = _MARGIN + name + column * (side + _GAP)
        label = _label(record, index)
        guess, color = _guess(record, index)
        draw.text((left, _HEAD), shortened(label, side, draw, small), fill=_INK, font=small)
        draw.text(
            (left + side, _HEAD),
            shortened(guess, max(0, side - 6 - round(draw.textlength(label, small))), draw, small),
            fill=color,
            font=small,
            anchor="ra",
        )
        photo = store.photo(record.images[index].photo)
        for row, view in enumerate(views):
            top = _HEAD + _BAND + row * (side + _GAP)
            _paste(canvas, tile(record, index, view, photo, side), left, top, side)
    for row, view in enumerate(views):
        top = _HEAD + _BAND + row * (side + _GAP)
        draw.text(
            (_MARGIN, top + 2), shortened(_TITLES.get(view, view), name - 4, draw, small), fill=_MUTED, font=small
        )
    return canvas


def _read(run: str | Path | RemotePath, name: str | None, frames: int) -> tuple[FilmRecords, list[FrameRecord]]:
    if frames < 1:
        raise ValueError(f"Got frames={frames}. Allowed is at least 1; give the number of epochs to show.")
    store = FilmRecords(find_run(run, name) / RECORDS)
    return store, [store.read(frame) for frame in evenly_spaced(store.frames(), frames)]


def _chosen(images: Sequence[int] | int, shown: Sequence[FrameRecord]) -> list[int]:
    """The slots of the images that are wanted, of those that are in any of the frames."""
    known = sorted({slot for record in shown for slot in record.slots})
    chosen = known[: max(0, images)] if isinstance(images, int) else list(images)
    if not chosen or not set(chosen) <= set(known):
        allowed = f"from 0 to {known[-1]}" if known == list(range(len(known))) else ", ".join(map(str, known))
        raise ValueError(f"Got images={images}. Allowed are numbers {allowed}, or how many of the first; give them.")
    return chosen


def _paste(canvas: Image.Image, picture: Picture, left: int, top: int, side: int) -> None:
    height, width = picture.shape[:2]
    canvas.paste(Image.fromarray(picture), (left + (side - width) // 2, top + (side - height) // 2))


def _epoch(record: FrameRecord) -> str:
    return "start" if record.epoch < 0 else f"epoch {record.epoch}"


def _named(record: FrameRecord, number: int | None) -> str | None:
    return None if number is None or number < 0 else record.classes.get(number, str(number))


def _label(record: FrameRecord, index: int) -> str:
    return _named(record, record.images[index].label) or f"image {record.slots[index] + 1}"


def _guess(record: FrameRecord, index: int) -> tuple[str, tuple[int, int, int]]:
    image = record.images[index]
    guess = _named(record, image.prediction)
    if guess is None:
        return "", _MUTED
    if image.label is None or image.label < 0:
        return f"→ {guess}", _MUTED
    return (f"✓ {guess}", _RIGHT) if image.label == image.prediction else (f"✗ {guess}", _WRONG)


def _animation(pictures: Sequence[Image.Image], pauses: Sequence[int], form: Literal["GIF", "WEBP"]) -> bytes:
    file = io.BytesIO()
    if form == "WEBP":
        pictures[0].save(
            file, form, save_all=True, append_images=pictures[1:], duration=list(pauses), loop=0, quality=80, method=4
        )
        return file.getvalue()
    # One palette for all, so that what does not move does not flicker; made of every second pixel each way.
    height = pictures[0].height // 2
    whole = Image.new("RGB", (pictures[0].width // 2, height * len(pictures)))
    for number, picture in enumerate(pictures):
        whole.paste(picture.resize((whole.width, height), Image.Resampling.NEAREST), (0, number * height))
    palette = whole.quantize(256, method=Image.Quantize.MEDIANCUT, kmeans=1)
    colors = palette.getpalette() or []
    # The paper stays white.
    lightest = max(range(0, len(colors), 3), key=lambda place: sum(colors[place : place + 3]))
    palette.putpalette(colors[:lightest] + list(_PAPER) + colors[lightest + 3 :])
    plain = [picture.quantize(palette=palette, dither=Image.Dither.FLOYDSTEINBERG) for picture in pictures]
    plain[0].save(file, form, save_all=True, append_images=plain[1:], duration=list(pauses), loop=0, optimize=True)
    return file.getvalue()
