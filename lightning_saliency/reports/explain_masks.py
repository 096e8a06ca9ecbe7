"""The masks with which explainers ask the network about an image, drawn block by block."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence

from torch import Tensor

from lightning_saliency.explainers import EXPLAINERS, Explainer, MaskBlock, MaskScoringExplainer
from lightning_saliency.functional.masking import blend
from lightning_saliency.pictures.grid import tile_rows
from lightning_saliency.pictures.tensors import Normalization, Picture, displayable

# Masks in a line, and the longer side of each in pixels.
_LINE, _TILE = 8, 160


def explainers_with_masks(explainers: Mapping[str, Explainer], masks: int) -> list[str]:
    """The names of the explainers that score masks, of which pictures can be drawn.

    Args:
        explainers: Name -> explainer.
        masks: How many masks are asked for, for the message.

    Raises:
        ValueError: If there is none.

    Example:
        >>> explainers_with_masks({}, 4)
        Traceback (most recent call last):
        ...
        ValueError: Got masks=4 without an explainer that scores masks. Allowed are masks with group_cam, ...
    """
    found = [name for name, explainer in explainers.items() if isinstance(explainer, MaskScoringExplainer)]
    if not found:
        known = [
            name
            for name, made in EXPLAINERS.items()
            if isinstance(made, type) and issubclass(made, MaskScoringExplainer)
        ]
        raise ValueError(
            f"Got masks={masks} without an explainer that scores masks. Allowed are masks with "
            f"{', '.join(sorted(known))}; name one of them, or leave masks out."
        )
    return found


def without_masks_note(explainers: Collection[str], masked: Collection[str]) -> str:
    """A sentence on the explainers that have no masks; empty where all have.

    >>> without_masks_note(["sise", "grad_cam", "smoe"], ["sise"])
    'No sheets of masks for grad_cam and smoe, which score none.'
    """
    others = [name for name in explainers if name not in masked]
    return f"No sheets of masks for {' and '.join(others)}, which score none." if others else ""


def masks_sheet(
    blocks: Sequence[MaskBlock],
    image: Tensor,
    normalization: Normalization,
    heading: str,
    first: Sequence[tuple[str, Tensor]],
) -> Picture:
    """An explainer's masks of an image, a block below the other, and the image under each of them.

    A mask is white where the image is seen. SISE paper, Fig. 4; Group-CAM paper, Fig. 1.

    Args:
        blocks: The masks, see ``MaskScoringExplainer.mask_blocks``.
        image: ``[3, H, W]``, as the network takes it.
        normalization: Mean and standard deviation by which it was normalised.
        heading: Text of the first row.
        first: Caption and picture ``[3, H, W]`` in [0, 1] of what stands there: the image and its map.

    Returns:
        ``[h, w, 3]`` uint8.

    Example:
        >>> import torch
        >>> masks, scores = torch.rand(2, 16, 16), torch.tensor([0.5, 0.25])
        >>> block = MaskBlock("layer1", ("channel 3", "channel 7"), masks, torch.zeros(3, 16, 16), scores, "Ψ", "", 9)
        >>> masks_sheet([block], torch.rand(3, 16, 16), None, "SISE", [("image", torch.rand(3, 16, 16))]).shape
        (584, 340, 3)
    """
    rows: list[tuple[str, Sequence[tuple[str, Tensor]]]] = [(heading, first)]
    for block in blocks:
        count = len(block.labels)
        title = f"{block.name}: {count} of {block.total} masks, {block.order}" if count else f"{block.name}: no masks"
        if not count:
            rows.append((title, []))
            continue
        seen = blend(image[None], block.baseline, block.masks[None].to(image.dtype))[0]
        under = displayable(seen.cpu(), normalization)[0]
        for begin in range(0, count, _LINE):
            part = range(begin, min(begin + _LINE, count))
            captions = [f"{block.labels[at]}, {block.symbol} {_number(float(block.scores[at]))}" for at in part]
            grey = [block.masks[at].float().cpu().expand(3, -1, -1) for at in part]
            rows.append(("" if begin else title, list(zip(captions, grey, strict=True))))
            rows.append(("", [("", under[at]) for at in part]))
    return tile_rows(rows, _TILE)


def _number(score: float) -> str:
    """A score in few digits.

    >>> _number(0.996), _number(-0.31), _number(0.00064), _number(12.345)
    ('0.996', '-0.310', '0.0006', '12.345')
    """
    return f"{score:.3f}" if abs(score) >= 0.01 or score == 0 else f"{score:.1g}"
