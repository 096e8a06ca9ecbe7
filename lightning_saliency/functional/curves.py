"""Insertion and deletion: how the network's score changes as pixels appear or disappear in the order of their saliency.

The network is a plain callable here and is used as it is: put it in eval mode first (the classes of
`lightning_saliency.metrics` do that).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal, get_args

import torch
from torch import Tensor

from lightning_saliency.checks import check_choice, check_minimum, classes_of_images
from lightning_saliency.functional.class_scores import Score, class_count, class_regions, class_scores
from lightning_saliency.functional.fills import Fill, fill_images

__all__ = ["auc", "deletion_curve", "insertion_curve", "target_scores"]

# Pixels of all images in one pass. On a CPU larger passes are slower per image, since the allocator maps their tensors
# anew each time; on an accelerator they fill it.
_CPU_PIXELS, _ACCELERATOR_PIXELS = 8 * 224 * 224, 128 * 224 * 224


def insertion_curve(
    score_fn: Callable[[Tensor], Tensor],
    images: Tensor,
    saliency: Tensor,
    targets: Tensor | int,
    *,
    steps: int = 100,
    fill: Fill = "blur",
    batch_size: int | Literal["auto"] = "auto",
    score: Score = "softmax",
) -> Tensor:
    r"""The score of the class while the image appears in its baseline, most salient pixels first (Group-CAM, Sec. 4.3).

    At step s of S, exactly round(s · H·W / S) pixels show the image, equal values in reading order; step 0 is the
    baseline, step S the image. Every image passes the network S + 1 times, in chunks shared by all images of the batch;
    no gradients.

    Args:
        score_fn: Images ``[N, C, H, W]`` to logits (or probabilities, see ``score``) ``[N, classes]``, for example a
            network in eval mode; or to one logit ``[N, 1]``, or to logits of pixels, see ``class_scores``: a class's
            pixels are then those that are predicted as it in the whole image.
        images: ``[B, C, H, W]``, as the network takes them.
        saliency: Maps ``[B, H, W]``, any range, finite.
        targets: Class of each image, ``[B]`` int64, or one class for all.
        steps: Number S of steps: 100 is 1 % of the pixels each.
        fill: What replaces the hidden pixels: ``"blur"`` (the paper's), or any fill of
            `lightning_saliency.functional.fills.fill_images`, such as ``"zero"`` or a tensor.
        batch_size: Images in one pass. ``"auto"``: the pixels of 8 images of 224 × 224 on a CPU, of 128 on an
            accelerator.
        score: What turns the output into the score: ``"softmax"``, ``"sigmoid"`` for multi-label heads, ``"logit"``
            for the output as it is, also where ``score_fn`` returns probabilities already.

    Returns:
        ``[B, S + 1]``, float32 (float64 if the output of ``score_fn`` is).

    Raises:
        ValueError: If shapes do not fit, ``saliency`` is not finite, a target is not a class of the network, or an
            option is out of range.
        TypeError: If ``score_fn`` does not return a tensor.

    Example:
        >>> import torch
        >>> images = torch.tensor([[[[1.0, 2.0], [3.0, 4.0]]]])
        >>> def score_fn(images):
        ...     return images.sum((2, 3)) / 10
        >>> insertion_curve(score_fn, images, images[:, 0], 1, steps=4, fill="zero", score="logit")
        tensor([[0.0000, 0.4000, 0.7000, 0.9000, 1.0000]])
    """
    return _curve(score_fn, images, saliency, targets, steps, fill, batch_size, score, inserting=True)


def deletion_curve(
    score_fn: Callable[[Tensor], Tensor],
    images: Tensor,
    saliency: Tensor,
    targets: Tensor | int,
    *,
    steps: int = 100,
    fill: Fill = "blur",
    batch_size: int | Literal["auto"] = "auto",
    score: Score = "softmax",
) -> Tensor:
    r"""The score of the class while the image gives way to its baseline, salient pixels first (Group-CAM, Sec. 4.3).

    At step s of S, exactly round(s · H·W / S) pixels show the baseline, equal values in reading order; step 0 is the
    image, step S the baseline. All else as in `insertion_curve`.

    Args:
        score_fn: Images ``[N, C, H, W]`` to logits (or probabilities, see ``score``) ``[N, classes]``.
        images: ``[B, C, H, W]``, as the network takes them.
        saliency: Maps ``[B, H, W]``, any range, finite.
        targets: Class of each image, ``[B]`` int64, or one class for all.
        steps: Number S of steps.
        fill: What takes the place of the image.
        batch_size: Images in one pass, or ``"auto"``.
        score: ``"softmax"``, ``"sigmoid"``, or ``"logit"``.

    Returns:
        ``[B, S + 1]``, float32 (float64 if the output of ``score_fn`` is).

    Raises:
        ValueError: If shapes do not fit, ``saliency`` is not finite, a target is not a class of the network, or an
            option is out of range.
        TypeError: If ``score_fn`` does not return a tensor.

    Example:
        >>> import torch
        >>> images = torch.tensor([[[[1.0, 2.0], [3.0, 4.0]]]])
        >>> def score_fn(images):
        ...     return images.sum((2, 3)) / 10
        >>> deletion_curve(score_fn, images, images[:, 0], 1, steps=4, fill="zero", score="logit")
        tensor([[1.0000, 0.6000, 0.3000, 0.1000, 0.0000]])
    """
    return _curve(score_fn, images, saliency, targets, steps, fill, batch_size, score, inserting=False)


def auc(curve: Tensor) -> Tensor:
    r"""Area under each curve by the trapezoidal rule, the steps evenly spaced over [0, 1].

    (y₀/2 + y₁ + … + y_{S−1} + y_S/2) / S: a curve of probabilities has an area in [0, 1].

    Args:
        curve: ``[..., S + 1]`` with S of at least 1.

    Returns:
        ``[...]``, float32 (float64 if ``curve`` is).

    Raises:
        ValueError: If there are fewer than two points.

    Example:
        >>> import torch
        >>> auc(torch.tensor([[0.0, 0.5, 1.0], [1.0, 0.0, 0.0]]))
        tensor([0.5000, 0.2500])
    """
    if curve.ndim == 0 or curve.shape[-1] < 2:
        raise ValueError(
            f"Got a curve {list(curve.shape)}. Allowed are [..., S + 1] with at least two points; give one step or "
            "more."
        )
    curve = curve.to(torch.promote_types(curve.dtype, torch.float32))
    return torch.trapezoid(curve, dim=-1) / (curve.shape[-1] - 1)


@torch.no_grad()
def target_scores(
    score_fn: Callable[[Tensor], Tensor],
    images: Tensor,
    targets: Tensor | int,
    *,
    score: Score = "softmax",
    batch_size: int | Literal["auto"] = "auto",
    whole: Tensor | None = None,
) -> Tensor:
    """The score of each image's own class, without gradients.

    Args:
        score_fn: Images ``[N, C, H, W]`` to logits or probabilities ``[N, classes]``.
        images: ``[B, C, H, W]``.
        targets: Class of each image, ``[B]`` int64, or one class for all.
        score: ``"softmax"``, ``"sigmoid"``, or ``"logit"``.
        batch_size: Images in one pass, or ``"auto"``.
        whole: The images before they were masked, ``[B, C, H, W]``, in which the class's pixels are looked for where
            ``score_fn`` returns logits of pixels, see ``class_regions``. ``None``: the images themselves.

    Returns:
        ``[B]``, float32 (float64 if the output of ``score_fn`` is).

    Raises:
        ValueError: If shapes do not fit, a target is not a class of the network, or an option is out of range.
        TypeError: If ``score_fn`` does not return a tensor.

    Example:
        >>> import torch
        >>> target_scores(lambda images: images.mean((2, 3)), torch.ones(2, 4, 1, 1), 3)
        tensor([0.2500, 0.2500])
    """
    indices = torch.arange(len(images), device=images.device)
    whole = images if whole is None else whole
    return _scored(score_fn, images.__getitem__, indices, whole, targets, score, batch_size)


@torch.no_grad()
def _curve(
    score_fn: Callable[[Tensor], Tensor],
    images: Tensor,
    saliency: Tensor,
    targets: Tensor | int,
    steps: int,
    fill: Fill,
    batch_size: int | Literal["auto"],
    score: Score,
    *,
    inserting: bool,
) -> Tensor:
    expected = (images.shape[0], *images.shape[2:])
    if images.ndim != 4 or tuple(saliency.shape) != expected:
        raise ValueError(
            f"Got saliency maps {list(saliency.shape)} for images {list(images.shape)}. Allowed are images "
            "[B, C, H, W] and maps [B, H, W] of one size; resize the maps to the images."
        )
    check_minimum("steps", steps, 1)
    if not bool(saliency.isfinite().all()):
        raise ValueError(
            "Got saliency maps with NaN or infinity. Allowed are finite numbers, which can be put in order; find out "
            "where they come from."
        )
    height, width = images.shape[2:]
    pixels = height * width
    counts = torch.tensor([round(step * pixels / steps) for step in range(steps + 1)], device=images.device)
    order = saliency.flatten(1).argsort(dim=1, descending=True, stable=True)
    position = torch.empty_like(order).scatter_(1, order, torch.arange(pixels, device=order.device).expand_as(order))
    position = position.view(-1, 1, height, width)
    filled = fill_images(images, fill)
    first, then = (filled, images) if inserting else (images, filled)

    def at(jobs: Tensor) -> Tensor:
        image, step = jobs // (steps + 1), jobs % (steps + 1)
        return torch.where(position[image] < counts[step].view(-1, 1, 1, 1), then[image], first[image])

    jobs = torch.arange(len(images) * (steps + 1), device=images.device)
    return _scored(score_fn, at, jobs, images, targets, score, batch_size).view(-1, steps + 1)


def _scored(
    score_fn: Callable[[Tensor], Tensor],
    make: Callable[[Tensor], Tensor],
    jobs: Tensor,
    images: Tensor,
    targets: Tensor | int,
    score: Score,
    batch_size: int | Literal["auto"],
) -> Tensor:
    """The score of ``make(jobs)``, chunk by chunk; the jobs are shared out evenly among the images, in their order."""
    check_choice("score", score, get_args(Score))
    classes = classes_of_images(targets, len(images), images.device)
    if len(images) == 0:
        return images.new_zeros(0, dtype=torch.float32)
    given, size, regions = classes.expand(len(images)), _chunk_size(images, batch_size), None
    lowest, highest = int(given.min()), int(given.max())
    scores = []
    for chunk in torch.split(jobs, size):
        output = score_fn(make(chunk))
        if not isinstance(output, Tensor):
            raise TypeError(
                f"Got {type(output).__name__} from score_fn. Allowed is a tensor [N, classes]; unwrap it, for example "
                "lambda images: model(images).logits."
            )
        shaped = output.ndim in (2, 4) and len(output) == len(chunk)
        if not shaped or lowest < 0 or highest >= class_count(output):
            raise ValueError(
                f"Got scores {list(output.shape)} from score_fn for {len(chunk)} images and the targets {lowest} to "
                f"{highest}. Allowed are scores [{len(chunk)}, classes] with every target among the classes; check "
                "both."
            )
        if output.ndim == 4 and regions is None:
            # A segmentation network's score is read where it sees the class in the whole image.
            parts = zip(torch.split(images, size), torch.split(given, size), strict=True)
            regions = torch.cat([class_regions(score_fn(whole), own) for whole, own in parts])
        of_chunk = chunk // (len(jobs) // len(images))
        seen = None if regions is None else regions[of_chunk]
        scores.append(class_scores(output, score, seen).gather(1, given[of_chunk].unsqueeze(1)).squeeze(1))
    return torch.cat(scores)


def _chunk_size(images: Tensor, batch_size: int | Literal["auto"]) -> int:
    if batch_size == "auto":
        budget = _CPU_PIXELS if images.device.type == "cpu" else _ACCELERATOR_PIXELS
        return max(1, budget // max(1, images.shape[-2] * images.shape[-1]))
    check_minimum("batch_size", batch_size, 1, "give one, or 'auto'")
    return batch_size
