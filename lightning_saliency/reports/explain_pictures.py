"""The pictures of one explained image: what is drawn, and what it is called."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
import torch
from PIL import Image, ImageDraw
from torch import Tensor, nn

from lightning_saliency.data.image_files import Resize
from lightning_saliency.explainers import SMOE, Explainer, MaskScoringExplainer
from lightning_saliency.explainers.base import class_logits
from lightning_saliency.explainers.running.state import undisturbed
from lightning_saliency.files import safe_names
from lightning_saliency.functional.class_scores import class_scores, predicted_classes
from lightning_saliency.functional.fills import Fill
from lightning_saliency.functional.visualization import heatmap, highlight, overlay
from lightning_saliency.pictures.tensors import Picture, sheet, shortened, text_font, to_uint8
from lightning_saliency.reports.explain_masks import masks_sheet
from lightning_saliency.reports.masked_pixels import GREY, mask_sheet, tied_share

#: The pictures of no class, by name: all scales in one, the combined map over the grey image, the deeper scales over
#: the photo, the combined map by itself, each scale by itself.
PICTURES = ("lovi", "combined", "overlay", "map", "scales")
#: The kind of the sheet of kept and removed pixels.
KEPT_REMOVED = "kept_removed"
_UNTRAINED = "untrained"
# A picture's longer side in the sheet of kept and removed pixels.
_KEPT_TILE = 224
# As large a share of equal pixels is noted.
_TIED = 0.05

# What networks, explainers and the libraries behind them raise where they are given what they cannot work with.
_FAILURES = (AssertionError, AttributeError, ImportError, LookupError, RuntimeError, TypeError, ValueError)


@dataclass(frozen=True)
class Drawing:
    """How images are read and drawn.

    Args:
        resize: Shorter side of the images in pixels, or both sides, (H, W).
        crop: Side of the centre crop in pixels; 0: the whole image.
        normalization: Mean and standard deviation by which the network's images are normalised.
        untrained: Whether the image in the sheets is stamped so.
        alpha: Share of the grey image in overlays.
        masks: How many masks of each block are drawn; ``None``: none.
        fractions: Shares of the pixels that are kept and removed.
    """

    resize: Resize
    crop: int
    normalization: tuple[Sequence[float], Sequence[float]]
    untrained: bool = False
    alpha: float = 0.25
    masks: int | None = None
    fractions: Sequence[float] = ()

    @property
    def fill(self) -> Fill:
        """What stands where pixels are removed: the mean colour, as in ROAR and KAR; grey where it is not known."""
        mean = self.normalization[0]
        return tuple(mean) if any(mean) else GREY


@contextmanager
def usage_errors(what: str) -> Iterator[None]:
    """Turns failures of networks and explainers into a ValueError that says what failed.

    Args:
        what: What failed, the start of the message.
    """
    try:
        yield
    except _FAILURES as error:
        raise ValueError(f"{what}: {str(error) or type(error).__name__}") from error


def scale_pictures(
    smoe: SMOE, shown: Tensor, images: Tensor, wanted: Sequence[str], alpha: float = 0.25
) -> dict[str, tuple[str, Tensor]]:
    """Pictures of an image's scales.

    Args:
        smoe: The explainer.
        shown: ``[1, 3, H, W]``, the image in [0, 1].
        images: ``[1, 3, H, W]``, the image as the network takes it.
        wanted: Names in ``PICTURES``.
        alpha: Share of the grey image in ``combined``.

    Returns:
        Kind -> caption and tile ``[3, H, W]`` in [0, 1]; of ``scales`` one kind a scale: ``scale_1``, ``scale_2``, ...
    """
    maps, shown = smoe.scales(images), shown.to(images.device)
    found: dict[str, tuple[str, Tensor]] = {}
    for name in wanted:
        if name == "lovi":
            found[name] = "LOVI", maps.lovi()[0]
        elif name == "combined":
            found[name] = name, maps.overlay(shown, alpha)[0]
        elif name == "overlay":
            found[name] = name, highlight(shown, maps.deep())[0]
        elif name == "map":
            found[name] = name, smoe(images)[0].expand(3, -1, -1)
        else:
            for scale, module in enumerate(maps.names):
                found[f"scale_{scale + 1}"] = module or "output", heatmap(maps.maps[:, scale], "inferno")[0]
    return {kind: (caption, tile.cpu()) for kind, (caption, tile) in found.items()}


def scale_sheet(
    pictures: Mapping[str, tuple[str, Tensor]], shown: Tensor, caption: str, untrained: bool = False
) -> Picture:
    """An image and, beside it, pictures of its scales.

    Args:
        pictures: See `scale_pictures`.
        shown: ``[1, 3, H, W]``, the image in [0, 1].
        caption: Text over the image.
        untrained: Whether the image is stamped so.
    """
    tiles = [_stamped(shown[0]) if untrained else shown[0], *(tile for _, tile in pictures.values())]
    return sheet([tiles], [caption, *(caption for caption, _ in pictures.values())], max(shown.shape[-2:]))


def explainer_pictures(
    explainers: Mapping[str, Explainer],
    shown: Tensor,
    images: Tensor,
    targets: Mapping[int, str],
    file: object,
    drawing: Drawing,
) -> dict[str, Picture]:
    """Each explainer's map and overlay for each target, and a sheet: one column per explainer, one row per target.

    Where the drawing asks for them, also a sheet of the masks of each explainer that has some, and one of kept and
    removed pixels.

    Args:
        explainers: Name -> explainer.
        shown: ``[1, 3, H, W]``, the image in [0, 1].
        images: ``[1, 3, H, W]``, the image as the network takes it.
        targets: Class -> text over the image in the sheet's row of that class.
        file: Name of the image in messages.
        drawing: How they are drawn.
    """
    pictures: dict[str, Picture] = {}
    tiles: list[Tensor] = []
    captions: list[str] = []
    of_masks: dict[str, Picture] = {}
    all_maps: dict[str, Tensor] = {}
    names = safe_names(explainers)
    photo = _stamped(shown[0]) if drawing.untrained else shown[0]
    for target, caption in targets.items():
        tiles.append(photo)
        captions.append(caption)
        for name, explainer in explainers.items():
            with usage_errors(f"{name} of {file} failed"):
                maps = explainer(images, target).cpu()
                blocks = None
                if drawing.masks is not None and isinstance(explainer, MaskScoringExplainer):
                    blocks = explainer.mask_blocks(images[0], target, drawing.masks)
            colored = overlay(shown, heatmap(maps), drawing.alpha)[0]
            kind = _kind(names[name], target, len(targets))
            pictures[kind] = to_uint8(maps[0].expand(3, -1, -1))
            pictures[f"{kind}_overlay"] = to_uint8(colored)
            tiles.append(colored)
            captions.append(name)
            all_maps[name if len(targets) == 1 else f"{name}, {caption}"] = maps[0]
            if blocks is not None:
                first = [("image", photo), ("map", colored)]
                heading = f"{name}, {caption}"
                of_masks[masks_kind(kind)] = masks_sheet(blocks, images[0], drawing.normalization, heading, first)
    pictures |= of_masks
    if drawing.fractions:
        pictures[KEPT_REMOVED] = kept_removed_sheet(shown[0], all_maps, drawing)
    pictures["sheet"] = sheet([tiles], captions, max(shown.shape[-2:]), columns=1 + len(explainers))
    return pictures


def kept_removed_sheet(image: Tensor, maps: Mapping[str, Tensor], drawing: Drawing) -> Picture:
    """The image with the most salient pixels of each map kept and removed, see `mask_sheet`.

    A row says so where many pixels are equal, as where a map is zero: which of them are among the most salient is
    decided in reading order, see `top_fraction`.

    Args:
        image: ``[3, H, W]`` in [0, 1].
        maps: Name of the row -> map ``[H, W]``.
        drawing: The shares of the pixels, and what stands where they are removed.
    """
    tile = min(_KEPT_TILE, max(image.shape[-2:]))
    whole = _stamped(image) if drawing.untrained else image
    rows = {}
    for name, saliency in maps.items():
        tied = tied_share(saliency, drawing.fractions)
        note = f": {100 * tied:.0f} % of the pixels are equal, and taken from the upper left on"
        rows[name + (note if tied > _TIED else "")] = saliency
    return mask_sheet(image, rows, ("kar", "roar"), drawing.fractions, tile, drawing.fill, whole)


def picture_kinds(
    explainers: Sequence[str],
    targets: Sequence[int],
    pictures: Sequence[str] = (),
    scales: int = 0,
    masked: Collection[str] = (),
    kept: bool = False,
) -> list[str]:
    """The kinds of pictures of an image, for any predicted class.

    Args:
        explainers: Names of the explainers.
        targets: Classes that are explained; none: the predicted one.
        pictures: Names in ``PICTURES``.
        scales: Number of the network's scales, where ``"scales"`` is among them.
        masked: Names of the explainers of whose masks there is a sheet.
        kept: Whether there is a sheet of kept and removed pixels.

    Example:
        >>> picture_kinds(["sise"], [3, 7])
        ['sise_3', 'sise_7', 'sise_3_overlay', 'sise_7_overlay', 'sheet']
        >>> picture_kinds([], [], ["lovi", "scales"], 2)
        ['lovi', 'scale_1', 'scale_2', 'sheet']
        >>> picture_kinds(["sise"], [], masked=["sise"], kept=True)
        ['sise', 'sise_overlay', 'sise_masks', 'kept_removed', 'sheet']
    """
    names = safe_names(explainers)
    of_masks = [masks_kind(_kind(names[name], target, len(targets))) for name in masked for target in targets or [0]]
    of_targets = [_kind(names[name], target, len(targets)) for name in explainers for target in targets or [0]]
    of_scales = [f"scale_{number}" for number in range(1, scales + 1)]
    of_none = [kind for name in pictures for kind in (of_scales if name == "scales" else [name])]
    own = [KEPT_REMOVED] if kept else []
    return [*of_targets, *(f"{kind}_overlay" for kind in of_targets), *of_none, *of_masks, *own, "sheet"]


def masks_kind(kind: str) -> str:
    """What the sheet of masks is called of an explainer whose map has a kind.

    >>> masks_kind("sise")
    'sise_masks'
    """
    return f"{kind}_masks"


def class_probabilities(network: nn.Module, images: Tensor) -> tuple[Tensor, int]:
    """The probability of each class of one image, ``[classes]``, see ``class_scores``; and the predicted class.

    Args:
        network: Left as it is, run in eval mode.
        images: ``[1, 3, H, W]``, the image as the network takes it.

    Raises:
        ValueError: If the network cannot be run on the image, or returns no class scores.
    """
    size = f"{images.shape[3]}×{images.shape[2]} pixels"
    with usage_errors(f"the network cannot be run on {size}"), undisturbed(network), torch.no_grad():
        returned = network(images.clone())  # it may write to them
    try:
        logits = class_logits(returned, None, images)
    except (TypeError, ValueError) as error:
        raise ValueError(
            f"Got a network without class scores [B, classes]. {error} Wrap the network in a module that returns them; "
            "on the command line, give --model path/file.py:function, a function that builds such a module."
        ) from error
    return class_scores(logits, "softmax")[0].cpu(), int(predicted_classes(logits))


def class_caption(probabilities: Tensor, index: int, names: Sequence[str] | None) -> str:
    """A class and its probability.

    Example:
        >>> class_caption(torch.tensor([0.25, 0.75]), 1, ["cat", "dog"]), class_caption(torch.tensor([0.001]), 0, None)
        ('dog 75%', 'class 0 0.001')
    """
    label = names[index] if names is not None and index < len(names) else f"class {index}"
    share = float(probabilities[index])
    return f"{label} {share:.0%}" if share >= 0.01 else f"{label} {share:.1g}"


def _stamped(image: Tensor) -> Tensor:
    """An image ``[3, H, W]`` in [0, 1] with a red band at its lower edge that says that the network is untrained."""
    picture = Image.fromarray(to_uint8(image))
    draw, font, (width, height) = ImageDraw.Draw(picture), text_font(), picture.size
    draw.rectangle((0, height - 14, width, height), fill=(190, 20, 20))
    draw.text((2, height - 13), shortened(_UNTRAINED, width - 4, draw, font), fill=(255, 255, 255), font=font)
    return torch.from_numpy(np.array(picture)).permute(2, 0, 1).float() / 255


def _kind(explainer: str, target: int, targets: int) -> str:
    """What the pictures of an explainer for a target are called."""
    return f"{explainer}_{target}" if targets > 1 else explainer
