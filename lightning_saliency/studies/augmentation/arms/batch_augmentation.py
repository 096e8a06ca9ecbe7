"""Augmentations of a batch inside the training step: torchvision's, smooth labels, or your own."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from torchvision.transforms import v2

from lightning_saliency.studies.isolation import OwnRandomness
from lightning_saliency.studies.specs import class_at

#: Those that have a name.
BATCH_AUGMENTATIONS = ("random_erasing", "cutmix", "mixup", "label_smoothing", "strong")

Augment = Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]


class BatchAugmentation:
    """An augmentation of images and labels with its own random numbers.

    Args:
        kind: One of ``BATCH_AUGMENTATIONS``, or a class path, see
            `lightning_saliency.studies.augmentation.arms.arm.parse_arms`.
        init_args: For ``"random_erasing"`` the ``probability`` of each image and the arguments of torchvision's
            ``RandomErasing``; for ``"cutmix"`` and ``"mixup"`` the ``probability`` of each batch and ``alpha``; for
            ``"label_smoothing"`` the ``share``, 0.1, of the weight that is spread evenly over all classes; for
            ``"strong"`` the ``probability`` of each image and the arguments of torchvision's ``TrivialAugmentWide``,
            which moves, turns or recolours it by up to a lot; for a class path its own.
        num_classes: Number of classes.
        seed: Seed of the random numbers.
        normalization: Mean and standard deviation by which the images were normalised, which ``"strong"`` undoes;
            ``None``: they are in [0, 1].

    Raises:
        ValueError: If an argument is unknown or out of range.

    Example:
        >>> mix = BatchAugmentation("mixup", {"alpha": 1.0}, num_classes=3, seed=0)
        >>> images, targets = mix(torch.rand(2, 3, 8, 8), torch.tensor([0, 2]))
        >>> targets.shape, targets.sum(1).tolist()
        (torch.Size([2, 3]), [1.0, 1.0])
    """

    def __init__(
        self,
        kind: str,
        init_args: Mapping[str, Any],
        num_classes: int,
        seed: int,
        normalization: tuple[Sequence[float], Sequence[float]] | None = None,
    ) -> None:
        self.kind = kind
        options = dict(init_args)
        self.probability = 1.0
        if kind in BATCH_AUGMENTATIONS:
            self.probability = options.pop("probability", 0.5 if kind == "random_erasing" else 1.0)
        if not 0 <= self.probability <= 1:
            raise ValueError(f"Got probability={self.probability} for {kind}. Allowed are numbers in [0, 1].")
        self.randomness = OwnRandomness(seed)
        self.transform: Callable[..., Any]
        try:
            if kind == "random_erasing":
                self.transform = v2.RandomErasing(p=self.probability, **options)
            elif kind == "label_smoothing":
                self.transform = _Smoothing(num_classes, **options)
            elif kind == "strong":
                self.transform = _Strong(self.probability, normalization, **options)
            elif kind in BATCH_AUGMENTATIONS:
                self.transform = {"cutmix": v2.CutMix, "mixup": v2.MixUp}[kind](num_classes=num_classes, **options)
            else:
                self.transform = _own(kind, options, num_classes, seed)
        except TypeError as error:
            raise ValueError(
                f"Got the arguments {sorted(options)} for {kind}: {error}. Allowed are those that it takes; drop or "
                "rename the others."
            ) from error

    def __call__(self, images: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        """Augment a batch.

        Args:
            images: ``[B, C, H, W]``.
            labels: ``[B]`` int64.

        Returns:
            The changed images, and as targets the labels ``[B]`` or the weight of each class ``[B, N]``.
        """
        with self.randomness:
            if self.kind == "random_erasing":
                # Given a batch, torchvision erases the same rectangle in every image.
                return torch.stack([self.transform(image) for image in images]), labels
            if self.kind == "strong":
                return self.transform(images), labels
            if self.kind in BATCH_AUGMENTATIONS and float(torch.rand(())) >= self.probability:
                return images, labels
            mixed, targets = self.transform(images, labels)
        return mixed, targets


class _Smoothing:
    """Labels as weights of the classes, a share of which is spread evenly (Szegedy et al., 2016, section 7)."""

    def __init__(self, num_classes: int, share: float = 0.1) -> None:
        if not 0 <= share < 1:
            raise ValueError(f"Got share={share} for label_smoothing. Allowed are shares in [0, 1); give one.")
        self.num_classes = num_classes
        self.share = share

    def __call__(self, images: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        weights = torch.full((len(labels), self.num_classes), self.share / self.num_classes, device=labels.device)
        own = torch.full_like(labels[:, None], 1 - self.share, dtype=weights.dtype)
        return images, weights.scatter_add(1, labels[:, None], own)


class _Strong:
    """TrivialAugmentWide (Müller and Hutter, 2021) of each image, which it needs as bytes."""

    def __init__(
        self, probability: float, normalization: tuple[Sequence[float], Sequence[float]] | None, **options: Any
    ) -> None:
        self.probability = probability
        mean, std = normalization or ([0.0], [1.0])
        self.mean, self.std = (torch.tensor(values)[:, None, None] for values in (mean, std))
        self.transform = v2.TrivialAugmentWide(**options)

    def __call__(self, images: Tensor) -> Tensor:
        mean, std = self.mean.to(images), self.std.to(images)
        chosen = (torch.rand(len(images)) < self.probability).tolist()
        shown = ((images * std + mean).clamp(0, 1) * 255).round().byte()
        return torch.stack(
            [
                (self.transform(shown[place]).to(images) / 255 - mean) / std if change else images[place]
                for place, change in enumerate(chosen)
            ]
        )


def _own(path: str, options: Mapping[str, Any], num_classes: int, seed: int) -> Augment:
    """An augmentation of the user's: what the class or function at a path returns."""
    found = class_at(path)
    usual = {"num_classes": num_classes, "seed": seed}
    taken = inspect.signature(found).parameters
    augment: Any = found(**{key: value for key, value in usual.items() if key in taken}, **options)
    if not callable(augment):
        raise TypeError(f"it returned a {type(augment).__name__}, which is not called as augment(images, labels)")
    return augment  # type: ignore[no-any-return]
