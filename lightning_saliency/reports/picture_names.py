"""Names for the pictures of images from several folders, so that none takes another's place."""

from __future__ import annotations

import hashlib
import os
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

_LONGEST = 120


def picture_names(files: Sequence[Path], kinds: Sequence[str]) -> list[str]:
    """Beginning of each image's pictures' names: its stem, with as much of the path as makes it unique.

    Names that differ only in case are the same name, as in many file systems.

    Args:
        files: The images, each once.
        kinds: The kinds of an image's pictures: their files are called ``NAME_KIND.png``.

    Returns:
        A name for each image. They depend on which images there are, and not on their order.

    Raises:
        ValueError: If two pictures would still have the same name.

    Example:
        >>> files = [Path("a/x.jpg"), Path("b/x.jpg"), Path("b/y.jpg"), Path("b/y.png"), Path("b/z.png")]
        >>> picture_names(files, ["lovi"])
        ['a_x', 'b_x', 'y_jpg', 'y_png', 'z']
    """
    forms = [[_shortened(form) for form in _forms(file)] for file in files]
    chosen = [0] * len(files)
    while True:
        names = [own[number] for own, number in zip(forms, chosen, strict=True)]
        pictures = [[f"{name}_{kind}".casefold() for kind in kinds] for name in names]
        counts = Counter(picture for own in pictures for picture in own)
        clashing = [number for number, own in enumerate(pictures) if any(counts[picture] > 1 for picture in own)]
        if not clashing:
            return names
        for number in clashing:
            chosen[number] += 1
            if chosen[number] == len(forms[number]):
                raise ValueError(
                    f"Got the images {', '.join(str(files[other]) for other in clashing)}, whose pictures would have "
                    "the same names. Allowed are images of different names; explain them one after the other, each "
                    "with its own output folder."
                )


def check_no_image_replaced(pictures: Sequence[Path], images: Sequence[Path]) -> None:
    """Raise if a picture's file is one of the images.

    Raises:
        ValueError: If it is, also if their names differ only in case.
    """
    places = {_place(image): image for image in images}
    for picture in pictures:
        if _place(picture) in places:
            raise ValueError(
                f"Got the output folder {picture.parent}, where a picture would take the place of the image "
                f"{places[_place(picture)]}. Allowed is any other folder; choose one."
            )


def _place(file: Path) -> str:
    return os.path.abspath(file).casefold()


def _forms(file: Path) -> list[str]:
    """Names for a file's pictures, the plainest first: ``x``, ``a_x``, ``x_jpg``, ``a_x_jpg``, ``b_a_x_jpg``, ..."""
    path = Path(os.path.abspath(file))
    folders = path.parts[1:-1]
    whole = f"{path.stem}_{path.suffix[1:]}" if path.suffix else path.stem
    longer = ["_".join([*folders[-count:], whole]) for count in range(1, len(folders) + 1)]
    return [path.stem, "_".join([*folders[-1:], path.stem]), whole, *longer]


def _shortened(name: str) -> str:
    """The name, or of a long one its beginning and a hash: a file's name has room for 255 bytes, with its kind."""
    data = os.fsencode(name)
    if len(data) <= _LONGEST:
        return name
    return f"{os.fsdecode(data[:_LONGEST]).encode(errors='ignore').decode()}-{hashlib.sha256(data).hexdigest()[:8]}"
