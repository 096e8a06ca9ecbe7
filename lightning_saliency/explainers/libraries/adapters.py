"""What the adapters of other libraries share: the network as they want it, and whether they are installed."""

from __future__ import annotations

import importlib
from types import ModuleType

import torch
from torch import Tensor, nn

from lightning_saliency.explainers.base import Output, check_range, class_logits
from lightning_saliency.functional.class_scores import class_count, class_scores


class ToLogits(nn.Module):
    """The network with one logit per class, ``[B, classes]``, as output; an error if a target is not a class of it."""

    PATH = "network"

    def __init__(self, network: nn.Module, output: Output, targets: Tensor | None = None) -> None:
        super().__init__()
        self.network = network
        self.output = output
        self.targets = targets
        #: What the network returned at its latest pass, before it was made one logit a class.
        self.seen = torch.empty(0)
        #: Number of images passed so far.
        self.passed = 0
        # What restores modes, as some of torchcam's classes do, goes by the outermost module's.
        self.training = False

    def forward(self, images: Tensor, regions: Tensor | None = None) -> Tensor:
        """The logits ``[B, N]``; with ``regions``, as captum calls it, of these alone."""
        self.passed += len(images)
        logits = class_logits(self.network(images.clone()), self.output, images)
        if self.targets is not None:
            check_range(self.targets, class_count(logits))
            self.targets = None  # once is enough
        self.seen = logits.detach()
        return class_scores(logits, "logit", regions)


def required(module: str, package: str) -> ModuleType:
    """A module of another library.

    Raises:
        ImportError: If it is not installed; the message names the extra that brings it.
    """
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise ImportError(
            f"This explainer needs {package}, which cannot be imported ({error}). Install the extra that brings it: "
            'pip install "lightning-saliency[baselines]".'
        ) from error
