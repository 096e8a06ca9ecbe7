"""The pictures of one explained image: what is drawn, and what it is called."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from lightning_saliency.explainers import SMOE, Explainer
from lightning_saliency.explainers._state import undisturbed
from lightning_saliency.explainers.base import class_logits
from lightning_saliency.functional.class_scores import class_scores, predicted_classes
from lightning_saliency.functional.visualization import heatmap, overlay
from lightning_saliency.pictures.tensors import Picture, sheet, to_uint8

# What networks, explainers and the libraries behind them raise where they are given what they cannot work with.
_FAILURES = (AssertionError, AttributeError, ImportError, LookupError, RuntimeError, TypeError, ValueError)


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


def lovi_pictures(smoe: SMOE, shown: Tensor, images: Tensor, caption: str) -> dict[str, Picture]:
    """The scales of an image in one LOVI picture, the combined map over the image, and a sheet of both beside it.

    Args:
        smoe: The explainer.
        shown: ``[1, 3, H, W]``, the image in [0, 1].
        images: ``[1, 3, H, W]``, the image as the network takes it.
        caption: Text over the image in the sheet.
    """
    maps = smoe.scales(images)
    lovi, combined = maps.lovi()[0].cpu(), maps.overlay(shown.to(images.device))[0].cpu()
    side_by_side = sheet([[shown[0], lovi, combined]], [caption, "LOVI", "combined"], max(shown.shape[-2:]))
    return {"lovi": to_uint8(lovi), "combined": to_uint8(combined), "sheet": side_by_side}


def explainer_pictures(
    explainers: Mapping[str, Explainer],
    shown: Tensor,
    images: Tensor,
    targets: Mapping[int, str],
    file: object,
) -> dict[str, Picture]:
    """Each explainer's map and overlay for each target, and a sheet: one column per explainer, one row per target.

    Args:
        explainers: Name -> explainer.
        shown: ``[1, 3, H, W]``, the image in [0, 1].
        images: ``[1, 3, H, W]``, the image as the network takes it.
        targets: Class -> text over the image in the sheet's row of that class.
        file: Name of the image in messages.
    """
    pictures: dict[str, Picture] = {}
    tiles: list[Tensor] = []
    captions: list[str] = []
    for target, caption in targets.items():
        tiles.append(shown[0])
        captions.append(caption)
        for name, explainer in explainers.items():
            with usage_errors(f"{name} of {file} failed"):
                maps = explainer(images, target).cpu()
            colored = overlay(shown, heatmap(maps))[0]
            kind = _kind(name, target, len(targets))
            pictures[kind] = to_uint8(maps[0].expand(3, -1, -1))
            pictures[f"{kind}_overlay"] = to_uint8(colored)
            tiles.append(colored)
            captions.append(name)
    pictures["sheet"] = sheet([tiles], captions, max(shown.shape[-2:]), columns=1 + len(explainers))
    return pictures


def picture_kinds(explainers: Sequence[str], targets: Sequence[int]) -> list[str]:
    """The kinds of pictures of an image, for any predicted class.

    Args:
        explainers: Names of the explainers; none: LOVI pictures.
        targets: Classes that are explained; none: the predicted one.

    Example:
        >>> picture_kinds(["sise"], [3, 7])
        ['sise_3', 'sise_7', 'sise_3_overlay', 'sise_7_overlay', 'sheet']
    """
    if not explainers:
        return ["lovi", "combined", "sheet"]
    of_targets = [_kind(name, target, len(targets)) for name in explainers for target in targets or [0]]
    return [*of_targets, *(f"{kind}_overlay" for kind in of_targets), "sheet"]


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
        returned = network(images)
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


def _kind(explainer: str, target: int, targets: int) -> str:
    """What the pictures of an explainer for a target are called."""
    name = "".join(letter if letter.isalnum() or letter in "-_." else "_" for letter in explainer)
    return f"{name}_{target}" if targets > 1 else name
