"""The arms of a comparison of augmentations: nothing, torchvision's, and those that saliency maps guide."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor
from torchvision.transforms import v2

from lightning_saliency.callbacks.augmentation.callback import SaliencyAugmentation
from lightning_saliency.callbacks.augmentation.options import parse_schedule
from lightning_saliency.callbacks.augmentation.presets import GroupCAMAugmentation
from lightning_saliency.studies.isolation import OwnRandomness
from lightning_saliency.studies.specs import class_at

#: What changes a batch's images and labels, by name, with the options it takes beside ``probability``.
BATCH_AUGMENTATIONS = ("random_erasing", "cutmix", "mixup")
#: What blends images by saliency maps, by name.
CALLBACKS: dict[str, type[SaliencyAugmentation]] = {
    "saliency": SaliencyAugmentation,
    "group_cam": GroupCAMAugmentation,
}
KINDS = ("plain", *BATCH_AUGMENTATIONS, *CALLBACKS)

Augment = Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]


@dataclass(frozen=True)
class Arm:
    """One arm of the comparison.

    Args:
        name: In tables.
        kind: One of ``KINDS``, or the class path of a `SaliencyAugmentation` of one's own.
        options: Arguments of the augmentation: for ``random_erasing`` ``probability`` (of each image) and those of
            torchvision's ``RandomErasing``; for ``cutmix`` and ``mixup`` ``probability`` (of each batch) and ``alpha``;
            otherwise those of the callback.
    """

    name: str
    kind: str
    options: dict[str, Any] = field(default_factory=dict)

    @property
    def by_callback(self) -> bool:
        """Whether a `SaliencyAugmentation` changes the batches."""
        return self.kind in CALLBACKS or "." in self.kind

    @property
    def guided(self) -> bool:
        """Whether the images' own saliency maps guide it."""
        return self.by_callback and not self.is_control

    @property
    def is_control(self) -> bool:
        """Whether what its masks hide is independent of the image."""
        callback = self.callback(0, 0)
        return callback is not None and (
            callback.guide.control is not None or callback.guide.spec.name == "random_blobs"
        )

    @property
    def reuses_maps(self) -> bool:
        """Whether a map serves for several epochs."""
        callback = self.callback(0, 0)
        return callback is not None and callback.reuse_epochs > 1

    def at_full_duty(self) -> Arm:
        """The arm as it is in a step in which it does most.

        From the first epoch on, in every step, with the highest probability that a schedule has, no map being used
        again; CutMix and MixUp mix every batch. Otherwise a share of the images is part of each step, and stays.
        """
        options = dict(self.options)
        if self.by_callback:
            options |= {"start_epoch": 0, "every_n_steps": 1, "reuse_epochs": 1}
            if isinstance(options.get("probability"), (list, tuple)):
                options["probability"] = max(value for _, value in parse_schedule(options["probability"]))
        elif self.kind in ("cutmix", "mixup"):
            options["probability"] = 1.0
        return replace(self, options=options)

    def duties(self, steps: int, epoch: int, start_epoch: int) -> list[float]:
        """For each of the first steps the share of what the arm does ``at_full_duty``; 0 is a plain step.

        Args:
            steps: Number of steps.
            epoch: Batches in an epoch.
            start_epoch: The first epoch in which arms differ that have none of their own.

        Example:
            >>> Arm("cam", "saliency", {"probability": [[0, 0.0], [2, 0.5]], "every_n_steps": 2}).duties(6, 2, 0)
            [0.0, 0.0, 0.5, 0.0, 1.0, 0.0]
        """
        callback, full = self.callback(0, start_epoch), self.at_full_duty().callback(0, 0)
        if callback is not None and full is not None:
            most = full.probability(0) or 1.0
            return [
                callback.probability(step // epoch) / most if step % epoch % callback.every_n_steps == 0 else 0.0
                for step in range(steps)
            ]
        batch = self.augment(2, 0)
        share = 0.0 if batch is None else 1.0 if self.kind == "random_erasing" else batch.probability
        return [share if step // epoch >= start_epoch else 0.0 for step in range(steps)]

    def cost_kind(self) -> Arm:
        """An arm whose steps cost the same: controls and soft masks cost what their guide does."""
        if not self.by_callback:
            return replace(self, name="plain", kind="plain", options={})
        options = {key: value for key, value in self.at_full_duty().options.items() if key not in ("control", "soft")}
        return replace(self, name="timed", options=options)

    def augment(self, num_classes: int, seed: int) -> BatchAugmentation | None:
        """What changes the batches inside the training step, if anything does."""
        if self.kind not in BATCH_AUGMENTATIONS:
            return None
        return BatchAugmentation(self.kind, dict(self.options), num_classes, seed)

    def callback(self, seed: int, start_epoch: int) -> SaliencyAugmentation | None:
        """The callback that changes the batches before the training step, if there is one."""
        if not self.by_callback:
            return None
        given = {"seed": seed, "start_epoch": start_epoch, "model": "model", "film": False, **self.options}
        build = CALLBACKS[self.kind] if self.kind in CALLBACKS else class_at(self.kind)
        try:
            return build(**given)
        except TypeError as error:
            allowed = ", ".join(inspect.signature(build).parameters)
            raise ValueError(
                f"The arm {self.name} was given {self.options}: {error}. Allowed are {allowed}."
            ) from error


def parse_arms(arms: Mapping[str, Any]) -> dict[str, Arm]:
    """The arms that a configuration names.

    Args:
        arms: Name in the table -> augmentation: its kind, one of ``KINDS``; ``None``, where the row has the kind's own
            name; ``{"class_path": kind, "init_args": {...}}``, where the class path may also be that of a
            `SaliencyAugmentation` of one's own; or an `Arm`.

    Raises:
        ValueError: If a kind or an option is unknown.

    Example:
        >>> mixed = {"class_path": "mixup", "init_args": {"alpha": 0.2}}
        >>> [arm.kind for arm in parse_arms({"plain": None, "mixed": mixed, "erased": "random_erasing"}).values()]
        ['plain', 'mixup', 'random_erasing']
    """
    parsed = {}
    for name, given in arms.items():
        if isinstance(given, Arm):
            parsed[name] = given
            continue
        value: Any = {"class_path": name} if given is None or given == {} else given
        if isinstance(value, str):
            value = {"class_path": value}
        if not isinstance(value, Mapping) or "class_path" not in value or set(value) - {"class_path", "init_args"}:
            raise ValueError(
                f"Got the arm {name} as {given!r}. Allowed are a kind ({', '.join(KINDS)}) and {{class_path: kind, "
                "init_args: {...}}; write one of them."
            )
        kind, options = str(value["class_path"]), dict(value.get("init_args") or {})
        if kind not in KINDS and "." not in kind:
            raise ValueError(
                f"Got the arm {name} of the kind {kind!r}. Allowed are {', '.join(KINDS)} and the class path of a "
                "SaliencyAugmentation; give the arm such a name, or its kind as class_path."
            )
        if kind == "plain" and options:
            raise ValueError(f"Got the options {sorted(options)} for the plain arm {name}, which has none: drop them.")
        parsed[name] = Arm(name, kind, options)
    for arm in parsed.values():
        arm.augment(2, 0)
        arm.callback(0, 0)
    return parsed


class BatchAugmentation:
    """torchvision's random erasing, CutMix or MixUp of a batch, with random numbers of its own.

    Args:
        kind: One of ``BATCH_AUGMENTATIONS``.
        options: Arguments of the augmentation, see `Arm`.
        num_classes: Number of classes.
        seed: Seed of the random numbers.

    Raises:
        ValueError: If an option is unknown or out of range.

    Example:
        >>> mix = BatchAugmentation("mixup", {"alpha": 1.0}, num_classes=3, seed=0)
        >>> images, targets = mix(torch.rand(2, 3, 8, 8), torch.tensor([0, 2]))
        >>> targets.shape, targets.sum(1).tolist()
        (torch.Size([2, 3]), [1.0, 1.0])
    """

    def __init__(self, kind: str, options: dict[str, Any], num_classes: int, seed: int) -> None:
        self.kind = kind
        self.probability = options.pop("probability", 0.5 if kind == "random_erasing" else 1.0)
        if not 0 <= self.probability <= 1:
            raise ValueError(f"Got probability={self.probability} for {kind}. Allowed are numbers in [0, 1].")
        self.transform: Callable[..., Any]
        try:
            if kind == "random_erasing":
                self.transform = v2.RandomErasing(p=self.probability, **options)
            else:
                self.transform = {"cutmix": v2.CutMix, "mixup": v2.MixUp}[kind](num_classes=num_classes, **options)
        except TypeError as error:
            raise ValueError(f"Got the options {sorted(options)} for {kind}: {error}. Drop the unknown one.") from error
        self.randomness = OwnRandomness(seed)

    def __call__(self, images: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        """Changed images ``[B, C, H, W]``, and as targets the labels ``[B]`` or each class's weight ``[B, N]``."""
        with self.randomness:
            if self.kind == "random_erasing":
                # Of a batch torchvision erases the same rectangle in every image.
                return torch.stack([self.transform(image) for image in images]), labels
            if float(torch.rand(())) >= self.probability:
                return images, labels
            mixed, targets = self.transform(images, labels)
        return mixed, targets
