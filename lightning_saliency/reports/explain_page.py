"""The page of explained images: the sheets of each, and how to read them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from lightning_saliency.pictures.tensors import Picture, png_bytes
from lightning_saliency.reports.explain_pictures import KEPT_REMOVED, Drawing, masks_kind
from lightning_saliency.reports.html import ReportPicture, Section, render_page
from lightning_saliency.reports.notices import Made

#: Name of the page, and how many images it shows at most.
PAGE, PAGE_IMAGES = "report.html", 24

_MASKS = (
    "Masks: an explainer that scores masks shows the network the image through each of them. White is seen; in black "
    "stands what the explainer puts there. Below each mask is the image as the network is given it, above it where it "
    "comes from and what the network answers: Ψ is the score of the class, α how much higher it is than under an "
    "empty mask."
)
_KEPT = (
    "Kept and removed pixels: exactly so many of the most salient pixels of each map are left, or taken away, as in "
    "KAR and ROAR. In place of the others, or of these, stands {fill}. Of pixels that are equal, the upper left "
    "ones are taken first."
)
_UNTRAINED = "The network is untrained: its weights are random, and nothing follows for a trained one."


def image_section(name: str, pictures: Mapping[str, Picture]) -> Section:
    """The part of the page on one image: its sheet, those of masks, that of kept and removed pixels.

    Args:
        name: Heading.
        pictures: Kind -> ``[H, W, 3]`` uint8, see ``ExplainedImage``.

    Example:
        >>> import numpy as np
        >>> kinds = ("sise", "sise_overlay", "sise_masks", "kept_removed", "sheet")
        >>> section = image_section("dog.jpg", {kind: np.zeros((2, 2, 3), np.uint8) for kind in kinds})
        >>> [picture.caption for picture in section.pictures]
        ['The image and its maps.', 'Masks: sise.', 'Pixels kept and removed.']
    """
    captions = {
        "sheet": "The image and its maps.",
        **{masks_kind(kind): f"Masks: {kind}." for kind in pictures if masks_kind(kind) in pictures},
        KEPT_REMOVED: "Pixels kept and removed.",
    }
    # As files: of many images, to compress them well takes longer than to explain them.
    shown = [ReportPicture(png_bytes(pictures[kind]), text) for kind, text in captions.items() if kind in pictures]
    return Section(name, (), (), shown)


def explained_page(
    sections: Sequence[Section],
    images: int,
    facts: Sequence[tuple[str, str]],
    notices: Sequence[str],
    drawing: Drawing,
    made: Made | None = None,
) -> str:
    """The page.

    Args:
        sections: One for each image that it shows, see `image_section`.
        images: Number of images that are explained.
        facts: Names and values at the beginning.
        notices: Sentences that no reader must miss.
        drawing: What is drawn.
        made: How the page was made.

    Returns:
        The whole HTML document.

    Example:
        >>> drawing = Drawing(256, 224, ((0.5,), (0.5,)), fractions=(0.1,))
        >>> page = explained_page([Section("dog.jpg")], 30, [("explainers", "sise")], [], drawing)
        >>> "The first of 30 images" in page, "the mean colour" in page, "Masks:" in page
        (True, True, False)
    """
    fill = "the mean colour" if any(drawing.normalization[0]) else "grey"
    text = [
        *([_MASKS] if drawing.masks is not None else []),
        *([_KEPT.format(fill=fill)] if drawing.fractions else []),
    ]
    told = [_UNTRAINED] if drawing.untrained else []
    if len(sections) < images:
        first = "The first" if len(sections) == 1 else f"The first {len(sections)}"
        told.append(f"{first} of {images} images; the pictures of all are beside this page.")
    cut = f", centre crop of {drawing.crop}" if drawing.crop else ""
    given = drawing.resize
    sides = f"shorter side of {given}" if isinstance(given, int) else "×".join(map(str, given))
    size = ("size", f"{sides} pixels{cut}")
    about = [("images", str(images)), *facts, size]
    return render_page(
        "Explained images",
        [Section("How to read the pictures", text), *sections],
        about,
        notices=[*told, *notices],
        made=made,
    )
