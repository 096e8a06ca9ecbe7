"""What the metrics share: a mean over images, all at once or class by class, and running the network for a score."""

from __future__ import annotations

import itertools
import zlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from typing import Any, Literal, get_args

import torch
from torch import Tensor, nn
from torchmetrics import Metric

from lightning_saliency.checks import check_choice, classes_of_images
from lightning_saliency.explainers.base import Output, class_logits, parse_output, undisturbed, unwrap
from lightning_saliency.explainers.mask_scoring.fast_forward import fast_inference
from lightning_saliency.explainers.mask_scoring.precisions import PRECISIONS, ScoringPrecision, native_precision

Average = Literal["micro", "macro", "none"]

_INSTANCES = itertools.count()


class ImageMean(Metric):
    """The mean over images of a score of each image, the base of every metric here.

    Sums and counts are kept, no images and no maps: updates in any split of the data give the same value, and so do
    processes, whose sums are added.

    Args:
        average: ``"micro"``: the mean over all images. ``"macro"``: the mean of each class, then the mean over the
            classes that occurred. ``"none"``: the mean of each class, ``[num_classes]``, NaN where none occurred.
        num_classes: Number of classes; not needed for ``"micro"``.
        shape: Shape of the score of one image, for subclasses: ``(S + 1,)`` for a curve.
        shared: For subclasses: metrics with the same value always have the same state.
        kwargs: Arguments of ``torchmetrics.Metric``.

    Raises:
        ValueError: If ``average`` is unknown, or needs a number of classes that is not given.
    """

    is_differentiable = False
    full_state_update = False
    plot_lower_bound = 0.0
    plot_upper_bound = 1.0

    total: Tensor
    count: Tensor
    instance: Tensor

    def __init__(
        self,
        average: Average = "micro",
        num_classes: int | None = None,
        *,
        shape: tuple[int, ...] = (),
        shared: str | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        check_choice("average", average, get_args(Average))
        if average != "micro" and (num_classes is None or num_classes < 1):
            raise ValueError(
                f"Got num_classes={num_classes} with average={average!r}. Allowed are whole numbers from 1; give the "
                "number of classes, or use average='micro'."
            )
        self.average = average
        self.num_classes = num_classes
        rows = 1 if average == "micro" or num_classes is None else num_classes
        self.add_state("total", default=torch.zeros(rows, *shape), dist_reduce_fx="sum")
        self.add_state("count", default=torch.zeros(rows, dtype=torch.int64), dist_reduce_fx="sum")
        # A `MetricCollection` takes metrics with equal states for one metric, and updates only the first of them from
        # then on: two tolerances of a pointing game after a first batch without a near miss. So only those are equal
        # that shall be.
        number = next(_INSTANCES) if shared is None else 2**32 + zlib.crc32(shared.encode())
        bits = torch.tensor([number >> bit & 1 for bit in range(33)])
        self.add_state("instance", default=bits, dist_reduce_fx="max")

    def compute(self) -> Tensor:
        """The mean over the images: a scalar, or ``[num_classes]`` for ``average="none"``; NaN without images."""
        return self._averaged()

    def plot(self, val: Tensor | Sequence[Tensor] | None = None, ax: Any = None) -> Any:
        """Draw one value, or several over time; see ``torchmetrics.Metric.plot``.

        Args:
            val: Values of ``compute`` or ``forward``; ``None`` computes the present one.
            ax: A matplotlib axis; ``None`` makes one.

        Returns:
            Figure and axis.
        """
        return self._plot(val, ax)

    def _averaged(self) -> Tensor:
        """The mean score, ``shape``, or ``[num_classes, *shape]`` for ``average="none"``."""
        means = self.total / self.count.view(-1, *[1] * (self.total.ndim - 1))
        if self.average == "none":
            return means
        # Only classes that did not occur are left out: the NaN of a map that was NaN is shown.
        return means[self.count > 0].mean(0)

    def _add(self, scores: Tensor, targets: Tensor | int | None, counted: Tensor | None = None) -> None:
        """Add the scores ``[B, *shape]`` of a batch; ``counted``, bool ``[B]``, leaves images out."""
        if counted is None:
            counted = torch.ones(len(scores), dtype=torch.bool, device=scores.device)
        scores = torch.where(counted.view(-1, *[1] * (scores.ndim - 1)), scores, 0.0).to(self.total.dtype)
        rows = self._rows(targets, scores)
        # A new tensor each time: one that was made under inference mode could not be changed in place later.
        self.total = self.total.index_add(0, rows, scores)
        self.count = self.count.index_add(0, rows, counted.to(self.count.dtype))

    def _rows(self, targets: Tensor | int | None, scores: Tensor) -> Tensor:
        """The row of the sums that each image belongs to, ``[B]``."""
        if self.average == "micro" or self.num_classes is None:
            return torch.zeros(len(scores), dtype=torch.int64, device=scores.device)
        if targets is None:
            raise ValueError(
                f"Got no targets with average={self.average!r}. Allowed is the class of each image; pass it, or use "
                "average='micro'."
            )
        targets = classes_of_images(targets, len(scores), scores.device)
        if bool(((targets < 0) | (targets >= self.num_classes)).any()):
            raise ValueError(
                f"Got targets from {int(targets.min())} to {int(targets.max())}. Allowed are 0 to "
                f"{self.num_classes - 1}; set num_classes to the number of classes."
            )
        return targets.expand(len(scores))


@contextmanager
def scoring(
    model: Callable[[Tensor], Any], precision: ScoringPrecision | None = None, output: Output = None
) -> Iterator[Callable[[Tensor], Tensor]]:
    """The model as a function from images to logits, see ``class_logits``, while the context lasts.

    A network is run in eval mode and left as it was; wrappers such as ``DistributedDataParallel`` are taken off, since
    processes need not have the same number of images. Any other callable is called as it is.

    Args:
        model: A network, or any function of images that returns logits, or an object in which they can be found.
        precision: Score with a faster copy of the network in this precision, see `fast_inference`, under autocast.
            ``"native"``: in the one in which the network's device is fastest, see `native_precision`. ``None``: with
            the network itself, as the caller has it.
        output: What takes the logits out of what the model returns, see ``Explainer``.
    """
    output = parse_output(output)
    if not isinstance(model, nn.Module):
        yield lambda images: class_logits(model(images.clone()), output, images)
        return
    network = unwrap(model)
    with undisturbed(network), torch.no_grad():
        if precision is None:
            yield lambda images: class_logits(network(images.clone()), output, images)
            return
        device = next((each.device for each in network.parameters()), torch.device("cpu"))
        chosen = native_precision(device) if precision == "native" else precision
        copied: nn.Module | None = None

        def fast(images: Tensor) -> Tensor:
            nonlocal copied
            if copied is None:
                copied = fast_inference(network, chosen, images)
            with nullcontext() if chosen is None else torch.autocast(images.device.type, dtype=PRECISIONS[chosen]):
                returned = copied(images.clone())
            return class_logits(returned, output, images).float()

        yield fast
