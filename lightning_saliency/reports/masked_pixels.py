"""Pictures of images whose most salient pixels are kept or removed, as ROAR and KAR show them to networks."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence

from torch import Tensor

from lightning_saliency.checks import is_within
from lightning_saliency.functional.fills import Fill
from lightning_saliency.functional.masking import keep_most_salient, remove_most_salient, top_fraction
from lightning_saliency.pictures.grid import picture_grid
from lightning_saliency.pictures.tensors import Picture

#: What becomes of the most salient pixels, by mode.
VERBS = {"kar": "kept", "roar": "removed"}
#: The grey of removed pixels where the mean colour is not known.
GREY = 0.5


def check_fractions(fractions: Collection[float]) -> None:
    """Refuse shares of the pixels that leave nothing to be seen.

    Raises:
        ValueError: If one is no number in (0, 1).

    Example:
        >>> check_fractions([10])
        Traceback (most recent call last):
        ...
        ValueError: Got the fraction 10. Allowed are shares in (0, 1), at whose ends nothing is left to be ...
    """
    for fraction in fractions:
        if not (is_within(fraction, 0, 1) and 0 < fraction < 1):
            raise ValueError(
                f"Got the fraction {fraction}. Allowed are shares in (0, 1), at whose ends nothing is left to be "
                "compared; divide per cent by 100."
            )


def mask_sheet(
    image: Tensor,
    maps: Mapping[str, Tensor],
    modes: Sequence[str],
    fractions: Sequence[float],
    tile: int = 88,
    fill: Fill = GREY,
    whole: Tensor | None = None,
) -> Picture:
    """An image with its most salient pixels kept or removed (SMOE paper, Fig. 3 and 9): one row per method.

    The pixels are those of `keep_most_salient` and `remove_most_salient`.

    Args:
        image: ``[3, H, W]`` in [0, 1].
        maps: Method -> its map ``[H, W]`` of the image, of any real dtype.
        modes: Any of ``"kar"`` and ``"roar"``.
        fractions: Shares of the pixels kept or removed, in [0, 1]; one column each.
        tile: The longer side of a picture, in pixels.
        fill: What stands where pixels are removed, see `fill_images`, in the image's [0, 1].
        whole: ``[3, H, W]``, what the first column shows in the image's place.

    Returns:
        ``[h, w, 3]`` uint8.

    Raises:
        ValueError: If a map has another size than the image.

    Example:
        >>> import torch
        >>> mask_sheet(torch.rand(3, 32, 32), {"smoe": torch.rand(32, 32)}, ["kar", "roar"], [0.1, 0.5], tile=32).shape
        (74, 192, 3)
    """
    columns = [(mode, fraction) for mode in sorted(modes) for fraction in sorted(fractions)]
    rows = {}
    for method, saliency in maps.items():
        rows[method] = [image if whole is None else whole]
        for mode, fraction in columns:
            change = keep_most_salient if mode == "kar" else remove_most_salient
            rows[method].append(change(image[None], saliency[None], fraction, fill)[0])
    captions = ["whole", *(f"{100 * fraction:g} % {VERBS.get(mode, mode)}" for mode, fraction in columns)]
    return picture_grid(captions, rows, tile)


def tied_share(saliency: Tensor, fractions: Sequence[float]) -> float:
    """The share of the pixels among whose equal values the most salient ones end; 0 where they end between two values.

    Of several shares of most salient pixels, the one that ends among most counts.

    Args:
        saliency: ``[H, W]``.
        fractions: Shares of the pixels, in (0, 1).

    Example:
        >>> import torch
        >>> [tied_share(torch.tensor([[3.0, second, 0.0, 0.0]]), [0.5]) for second in (2.0, 0.0)]
        [0.0, 0.75]
    """
    values = saliency.flatten()
    shares = [0.0]
    for fraction in fractions:
        chosen = top_fraction(saliency, fraction).flatten()
        if bool(chosen.any()) and bool((values[~chosen] == values[chosen].min()).any()):
            shares.append(float((values == values[chosen].min()).float().mean()))
    return max(shares)
