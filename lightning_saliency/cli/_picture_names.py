"""Names for the pictures of images from several folders, so that none takes another's place."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from lightning_saliency.cli._errors import UsageError


def picture_stems(files: Sequence[Path], kinds: Sequence[str], output: Path) -> list[str]:
    """What the names of each image's pictures begin with: its stem, or as much more of its path as sets it apart.

    Names that differ in capitals only are one name, as they are in many file systems.

    Args:
        files: The images, each once.
        kinds: What the pictures of an image are called: ``STEM_KIND.png``.
        output: The folder of the pictures.

    Returns:
        A stem for each image. They depend on which images there are, and not on their order.

    Raises:
        UsageError: If two pictures would have one name all the same, or one would take the place of an image.

    Example:
        >>> files = [Path("a/x.jpg"), Path("b/x.jpg"), Path("b/y.jpg"), Path("b/y.png"), Path("b/z.png")]
        >>> picture_stems(files, ["lovi"], Path("explained"))
        ['a_x', 'b_x', 'y_jpg', 'y_png', 'z']
    """
    forms = [_forms(file) for file in files]
    chosen = [0] * len(files)
    while True:
        stems = [own[number] for own, number in zip(forms, chosen, strict=True)]
        pictures = [[f"{stem}_{kind}.png".casefold() for kind in kinds] for stem in stems]
        often = Counter(picture for own in pictures for picture in own)
        clashing = [number for number, own in enumerate(pictures) if any(often[picture] > 1 for picture in own)]
        if not clashing:
            break
        for number in clashing:
            chosen[number] += 1
            if chosen[number] == len(forms[number]):
                raise UsageError(
                    f"Got the images {', '.join(str(files[other]) for other in clashing)}, whose pictures would have "
                    "the same names. Allowed are images of different names; explain them one after the other, each "
                    "with an --output of its own."
                )
    images = {_place(file): file for file in files}
    for own in pictures:
        for picture in own:
            replaced = images.get(_place(output / picture))
            if replaced is not None:
                raise UsageError(
                    f"Got --output {output}, where a picture would take the place of the image {replaced}. Allowed is "
                    "any other folder; choose one."
                )
    return stems


def _place(file: Path) -> str:
    return os.path.abspath(file).casefold()


def _forms(file: Path) -> list[str]:
    """Stems for a file's pictures, the plainest first: ``x``, ``a_x``, ``x_jpg``, ``a_x_jpg``, ``b_a_x_jpg``, ..."""
    path = Path(os.path.abspath(file))
    folders = path.parts[1:-1]
    whole = f"{path.stem}_{path.suffix[1:]}" if path.suffix else path.stem
    longer = ["_".join([*folders[-count:], whole]) for count in range(1, len(folders) + 1)]
    return [path.stem, "_".join([*folders[-1:], path.stem]), whole, *longer]
