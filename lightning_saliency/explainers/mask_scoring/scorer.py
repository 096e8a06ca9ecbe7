"""Scores of masked images: the one primitive that Group-CAM, Score-CAM, RISE and SISE are built on."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack
from functools import partial
from time import perf_counter
from types import TracebackType
from typing import Any, Literal, TypeVar, get_args

import torch
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from torch import Tensor, nn
from typing_extensions import Self

from lightning_saliency.checks import check_choice, check_minimum
from lightning_saliency.explainers.base import (
    Output,
    as_ordinary,
    check_range,
    checked_targets,
    class_logits,
    undisturbed,
    unwrap,
)
from lightning_saliency.explainers.mask_scoring.budget import CURRENT_BUDGET
from lightning_saliency.explainers.mask_scoring.distinct_masks import distinct_jobs
from lightning_saliency.explainers.mask_scoring.fast_forward import FastCopy
from lightning_saliency.explainers.mask_scoring.masked_images import masked_images
from lightning_saliency.explainers.mask_scoring.precisions import PRECISIONS, Precision, native_precision
from lightning_saliency.functional.class_scores import Score, class_count, class_regions, class_scores
from lightning_saliency.functional.fills import Fill, fill_images

Targets = Tensor | int | Callable[[Any], Tensor]
Made = TypeVar("Made")

# Pixels of one pass: 4 images of 224² on a CPU, where larger passes are slower per image because the allocator maps
# their tensors anew each time (2 to 4 were the fastest of 2 to 32 for ResNet-50 and MobileNetV2, 32 to 98 at 64², and 8
# in bfloat16); 128 images on an accelerator, which needs them to be busy. Twice as many in half precision.
_PIXELS = {"cpu": 4 * 224 * 224}
_ACCELERATOR_PIXELS = 128 * 224 * 224
_MAX_IMAGES = 256


def score_masks(
    model: nn.Module,
    images: Tensor,
    masks: Tensor | Iterable[Tensor],
    targets: Targets,
    *,
    fill: Fill = "blur",
    batch_size: int | Literal["auto"] = "auto",
    score: Score = "softmax",
    output: Output = None,
    precision: Precision | None = None,
    fast: bool = False,
    progress: bool = False,
) -> Tensor:
    """The network's score of each image under each of its masks, I ⊙ M + fill ⊙ (1 − M).

    All pairs of image and mask are shared out into chunks, whichever image they belong to; the masks stay at their own
    resolution until their chunk's turn. The result does not depend on the chunk's size beyond rounding.

    Args:
        model: The network, in any mode; it is run in eval mode and left as it was.
        images: ``[B, C, H, W]``, as the network takes them, on its device.
        masks: ``[B, M, h, w]`` in [0, 1], or an iterable of such blocks (``[B, m₁, h, w]``, ``[B, m₂, h, w]``, …), of
            which none is kept. Masks common to all images may be a view, ``masks.expand(B, -1, -1, -1)``.
        targets: ``[B]`` int64, the class of each image; an int, the same for all; or a function from what the network
            returns for N images to their N scores, for regression.
        fill: What shows where the mask is zero, see `fill_images`; ``"zero"`` is zero in the network's own,
            normalised input space: the mean colour.
        batch_size: Images in one pass. ``"auto"``: the pixels of 4 images of 224² on a CPU, of 128 on an accelerator,
            twice that in half precision, halved as often as its memory is exceeded.
        score: Score of the class: ``"softmax"`` probability, ``"sigmoid"`` probability (multi-label heads) or
            ``"logit"``. Of a segmentation network it is the mean over the pixels that are predicted as the class in
            the whole image. Not used if ``targets`` is a function, which returns the score itself.
        output: What takes the logits out of what the network returns, see ``Explainer``.
        precision: ``"bf16"`` or ``"fp16"``: autocast to it. ``None``: the caller's precision.
        fast: Score with a faster copy of the network, see `fast_inference`, in ``precision``, or by default the one in
            which the device is fastest, see `native_precision`.
        progress: Show a progress bar.

    Returns:
        ``[B, M]``, float32 (float64 for a float64 network).

    Raises:
        ValueError: If shapes do not fit, a target is not a class of the network, or an option is unknown.
        TypeError: If ``targets`` are of another type, or the network returns no logits.

    Example:
        >>> model = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten())
        >>> masks = torch.tensor([[[[0.0]], [[0.5]], [[1.0]]]])
        >>> score_masks(model, torch.ones(1, 2, 8, 8), masks, 0, fill="zero", score="logit")
        tensor([[0.0000, 0.5000, 1.0000]])
    """
    total = images.shape[0] * masks.shape[1] if isinstance(masks, Tensor) and masks.ndim == 4 else None
    scorer = MaskScorer(
        model,
        images,
        targets,
        fill=fill,
        batch_size=batch_size,
        score=score,
        output=output,
        precision=precision,
        fast=fast,
        progress=progress,
        total=total,
    )
    with scorer:
        blocks = [masks] if isinstance(masks, Tensor) else masks
        scored = [scorer.score_block(block) for block in blocks]
    return torch.cat(scored, dim=1) if scored else images.new_zeros(images.shape[0], 0)


class MaskScorer:
    """Scores masked images chunk by chunk, for methods that make their masks as they go.

    A context manager: inside, the network is in eval mode (see ``undisturbed``) and no gradients are computed.

    Args:
        model: The network; for it and the following arguments see `score_masks`.
        images: Images ``[B, C, H, W]``.
        targets: Class of each of the B images.
        fill: What shows where the mask is zero.
        batch_size: Images in one pass.
        score: Score of the class.
        output: Takes the logits out of what the network returns.
        precision: Precision to autocast to.
        fast: Score with a faster copy of the network; a `FastCopy` is reused across calls.
        progress: Show a progress bar.
        total: Expected number of masked images, for the progress bar.
        checked: Whether the targets are known to be classes of the network; else the first pass tells.

    Raises:
        ValueError: If an option is unknown or shapes do not fit.
        TypeError: If ``targets`` are of another type.

    Example:
        >>> model = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten())
        >>> with MaskScorer(model, torch.ones(2, 2, 8, 8), 0, fill="zero", score="logit") as scorer:
        ...     scorer(torch.full((3, 1, 1), 0.25), torch.tensor([0, 1, 1]))
        tensor([0.2500, 0.2500, 0.2500])
    """

    def __init__(
        self,
        model: nn.Module,
        images: Tensor,
        targets: Targets,
        *,
        fill: Fill = "zero",
        batch_size: int | Literal["auto"] = "auto",
        score: Score = "softmax",
        output: Output = None,
        precision: Precision | None = None,
        fast: bool | FastCopy = False,
        progress: bool = False,
        total: int | None = None,
        checked: bool = False,
    ) -> None:
        check_scoring(score, batch_size, precision)
        self.model = unwrap(model)
        self.images = as_ordinary(images)
        self.fill = fill_images(self.images, fill)
        self.score, self.output, self.precision = score, output, precision
        self._copy = fast if isinstance(fast, FastCopy) else None
        if fast and self._copy is None:
            self._copy = FastCopy(self.model, precision or native_precision(images.device))
        if self._copy is not None:
            self.precision = self._copy.precision
        self._checked = checked
        self._function: Callable[[Any], Tensor] | None = None
        self._classes = torch.zeros(images.shape[0], dtype=torch.int64)
        self._regions: Tensor | None = None
        if callable(targets) and not isinstance(targets, Tensor):
            self._function = targets
        else:
            classes = checked_targets(targets, images.shape[0])
            if classes is None:
                raise TypeError(
                    "Got targets=None. Allowed are an int64 tensor [B], an int, or a function of the network's output; "
                    "for the predicted classes pass predicted_classes(model(images))."
                )
            self._classes = classes.to(images.device)
        self._may_shrink = batch_size == "auto"
        #: Images in one pass, at present.
        self.chunk = _chunk_size(images, half=self.precision is not None) if batch_size == "auto" else batch_size
        self._progress, self._total = progress, total
        self._advance: Callable[[float], None] | None = None
        self._network: nn.Module | None = None
        self._stack = ExitStack()

    def __enter__(self) -> Self:
        with ExitStack() as stack:
            stack.enter_context(undisturbed(self.model))
            stack.enter_context(torch.no_grad())
            self._network = self.model if self._copy is None else self._copy.current(self.images)
            if self.precision is not None:
                stack.enter_context(torch.autocast(self.images.device.type, dtype=PRECISIONS[self.precision]))
            if self._progress:
                columns = (TextColumn("masked images"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
                console = Console(stderr=True)
                bar = stack.enter_context(Progress(*columns, console=console, transient=console.is_terminal))
                self._advance = partial(bar.advance, bar.add_task("", total=self._total))
            self._stack = stack.pop_all()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._network = None
        self._stack.__exit__(kind, error, trace)

    def __call__(self, masks: Tensor, owners: Tensor) -> Tensor:
        """The scores ``[N]`` of masks ``[N, h, w]``, the n-th on image ``owners[n]`` (``[N]`` int64).

        Owners that lie on the CPU spare copies of the images: a run of masks of one image is laid over a view of it.
        """
        scores: list[Tensor] = []
        start = 0
        budget = CURRENT_BUDGET.get()
        while start < len(owners):
            stop = min(start + self.chunk, len(owners))
            if budget is not None and budget.used_up:
                budget.asked += len(owners) - start
                scores.append(self.images.new_zeros(len(owners) - start))
                break
            began = perf_counter()
            part = self._attempt(partial(self._pass, masks[start:stop], owners[start:stop]), stop - start)
            if part is None:
                continue
            scores.append(part)
            if budget is not None:
                budget.note(len(part), perf_counter() - began)
            if self._advance is not None:
                self._advance(stop - start)
            start = stop
        return torch.cat(scores) if scores else self.images.new_zeros(0)

    def score_block(self, masks: Tensor) -> Tensor:
        """The scores ``[B, m]`` of masks ``[B, m, h, w]``, which may be an expanded view.

        Masks that are zero everywhere show the fill alone: of an image's, one is scored for all.
        """
        count = self.images.shape[0]
        if masks.ndim != 4 or masks.shape[0] != count:
            raise ValueError(
                f"Got masks {list(masks.shape)} for {count} images. Allowed are [B, M, h, w] with B = {count}; expand "
                "masks common to all images with masks.expand(B, -1, -1, -1)."
            )
        # How many passes there are, the host has to know: this is read once.
        owners, which, places = distinct_jobs(masks.flatten(2).any(2).logical_not().cpu())
        there = [column.to(masks.device, non_blocking=True) for column in (owners, which)]
        made = self.made(lambda of, at, _: masks[of, at], *there, owners)
        scores = torch.cat([*(self(part, of) for (_, _, of), part in made), self.images.new_zeros(0)])
        return scores[places.to(scores.device, non_blocking=True)]

    def made(
        self, make: Callable[..., Made], *columns: Tensor, images_each: int = 1
    ) -> Iterator[tuple[tuple[Tensor, ...], Made]]:
        """Masks made as they are needed: of as many rows of some columns at a time as go into one pass.

        Where the device's memory does not suffice to make them, half as many are made.

        Args:
            make: Called with the rows of each column; what it makes of them is handed on.
            columns: Tensors of equal length, such as the image and the channel of each mask.
            images_each: Masked images that come of one row.

        Yields:
            The rows of each column, and what was made of them.
        """
        start = 0
        while start < len(columns[0]):
            rows = tuple(column[start : start + max(1, self.chunk // images_each)] for column in columns)
            found = self._attempt(partial(make, *rows), len(rows[0]), images_each)
            if found is None:
                continue
            yield rows, found
            start += len(rows[0])

    def _attempt(self, work: Callable[[], Made], rows: int, images_each: int = 1) -> Made | None:
        """What a function makes of some rows; ``None`` if memory did not suffice, and half as many are to be tried."""
        try:
            return work()
        except torch.OutOfMemoryError:
            if not self._may_shrink or rows == 1:
                raise
        # Here and not where it is caught: the exception's frames hold on to the memory that is to be freed.
        torch.cuda.empty_cache()
        self.chunk = rows // 2 * images_each
        return None

    def _pass(self, masks: Tensor, owners: Tensor) -> Tensor:
        if self._network is None:
            raise RuntimeError(
                "Got masks outside the context. A MaskScorer scores inside `with MaskScorer(...) as scorer:`."
            )
        # Masks may lie elsewhere, where there is room for all of them.
        blended = masked_images(self.images, self.fill, masks.to(self.images.device), owners)
        owners = owners.to(self.images.device, non_blocking=True)
        returned = self._network(blended)
        if self._function is not None:
            scores = self._function(returned)
            if not isinstance(scores, Tensor) or scores.shape != owners.shape:
                given = list(scores.shape) if isinstance(scores, Tensor) else type(scores).__name__
                raise ValueError(
                    f"Got {given} from targets= for {len(owners)} images. Allowed are scores [N]; return one per image."
                )
            return scores if scores.dtype == torch.float64 else scores.float()
        logits = class_logits(returned, self.output, blended)
        if logits.ndim > 2 and self._regions is None:
            # A segmentation network's score is read where it sees the class in the whole image.
            parts = zip(*(torch.split(whole, self.chunk) for whole in (self.images, self._classes)), strict=True)
            network, output = self._network, self.output
            outputs = ((class_logits(network(part.clone()), output, part), classes) for part, classes in parts)
            self._regions = torch.cat([class_regions(pixelwise, classes) for pixelwise, classes in outputs])
        regions = None if self._regions is None else self._regions[owners]
        if not self._checked:
            check_range(self._classes, class_count(logits))
            self._checked = True
        return class_scores(logits, self.score, regions).gather(1, self._classes[owners][:, None])[:, 0]


def check_scoring(score: str, batch_size: int | str, precision: str | None) -> None:
    """Refuse unknown options of `score_masks`.

    Raises:
        ValueError: If an option is unknown.
    """
    check_choice("score", score, get_args(Score))
    if batch_size != "auto":
        check_minimum("batch_size", batch_size, 1, "give one, or 'auto'")
    check_choice("precision", precision, (None, *PRECISIONS))


def _chunk_size(images: Tensor, *, half: bool) -> int:
    budget = _PIXELS.get(images.device.type, _ACCELERATOR_PIXELS) * (2 if half else 1)
    return min(_MAX_IMAGES, max(1, budget // max(1, images.shape[-2] * images.shape[-1])))
