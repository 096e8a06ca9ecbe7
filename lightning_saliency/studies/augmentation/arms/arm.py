"""The arms of a comparison of augmentations: nothing, torchvision's, those that saliency maps guide, and your own."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from functools import lru_cache, partial
from typing import Any

import pytorch_lightning as pl

from lightning_saliency.callbacks.augmentation.actions.options import ActionSpec
from lightning_saliency.callbacks.augmentation.callback import SaliencyAugmentation
from lightning_saliency.callbacks.augmentation.options import parse_schedule
from lightning_saliency.callbacks.augmentation.presets import GroupCAMAugmentation
from lightning_saliency.checks import did_you_mean, without_unset
from lightning_saliency.explainers import ExplainerSpec
from lightning_saliency.explainers.registry import plain_value
from lightning_saliency.lightning_bases import is_callback_class
from lightning_saliency.studies.augmentation.arms.batch_augmentation import BATCH_AUGMENTATIONS, BatchAugmentation
from lightning_saliency.studies.augmentation.arms.regions import HideKnownRegion
from lightning_saliency.studies.specs import class_at

PLAIN = "plain"
#: Callbacks that blend images by saliency maps, by name.
CALLBACKS: dict[str, type[SaliencyAugmentation]] = {
    "saliency": SaliencyAugmentation,
    "group_cam": GroupCAMAugmentation,
}
#: Callbacks that fill what the data know, by name: what a perfect map would do.
BOUNDS: dict[str, Callable[..., pl.Callback]] = {
    "hide_mark": partial(HideKnownRegion, region="mark"),
    "hide_outside_boxes": partial(HideKnownRegion, region="outside_boxes"),
}
KINDS = (PLAIN, *BATCH_AUGMENTATIONS, *CALLBACKS, *BOUNDS)


@dataclass(frozen=True)
class Arm:
    """One arm of the comparison.

    Args:
        name: Name in the tables.
        kind: One of ``KINDS``, or the class path of a callback or of a function of batches.
        init_args: Arguments of the augmentation.
    """

    name: str
    kind: str
    init_args: Mapping[str, Any] = field(default_factory=dict)

    @property
    def guided(self) -> bool:
        """Whether the images' own saliency maps guide it."""
        return isinstance(self.callback(0, 0), SaliencyAugmentation) and not self.is_control

    @property
    def is_control(self) -> bool:
        """Whether its masks are independent of what the image shows."""
        callback = self.callback(0, 0)
        return isinstance(callback, SaliencyAugmentation) and callback.guide.is_control

    @property
    def reuses_maps(self) -> bool:
        """Whether a map is used for several epochs."""
        callback = self.callback(0, 0)
        return isinstance(callback, SaliencyAugmentation) and callback.reuse_epochs != 1

    def at_full_duty(self) -> Arm:
        """The arm as it is in a step in which it does most.

        It acts from the first epoch on, with the highest probability of its schedule, and makes each
        map anew; CutMix and MixUp mix every batch. A probability of each image stays as it is: that share of the
        images is part of each step.
        """
        init_args = dict(self.init_args)
        if isinstance(self.callback(0, 0), SaliencyAugmentation):
            init_args |= {"start_epoch": 0, "reuse_epochs": 1}
            if isinstance(init_args.get("probability"), (list, tuple)):
                init_args["probability"] = max(value for _, value in parse_schedule(init_args["probability"]))
        elif self.kind in ("cutmix", "mixup"):
            init_args["probability"] = 1.0
        return replace(self, init_args=init_args)

    def work(self) -> tuple[Arm, float]:
        """The work of a step at full duty: an arm that changes every image, and the share of images that it changes.

        Arms that differ in their control, ``soft`` or ``probability`` alone do the same work, and so cost the same for
        each image that they change.

        Example:
            >>> half = {"explainer": "grad_cam", "probability": 0.5, "control": "random_blobs"}
            >>> work, share = Arm("half", "saliency", half).work()
            >>> work == Arm("whole", "saliency", {"explainer": "grad_cam"}).work()[0], share
            (True, 0.5)
        """
        full = self.at_full_duty()
        callback = full.callback(0, 0)
        if not isinstance(callback, SaliencyAugmentation):
            return replace(full, name="work"), 1.0
        init_args = {key: value for key, value in full.init_args.items() if key not in ("control", "soft")}
        action = ActionSpec.parse(init_args.pop("action", "keep"))
        options = {key: value for key, value in action.init_args.items() if key != "soft"}
        if action.name != "keep" or options:
            init_args["action"] = {"class_path": action.name, "init_args": options}
        return Arm("work", self.kind, {**init_args, "probability": 1.0}), callback.probability(0)

    def duties(self, steps: int, epoch: int, start_epoch: int) -> list[float]:
        """The work of each of the first steps, as a share of that `at_full_duty`; 0 is a plain step.

        Args:
            steps: Number of steps.
            epoch: Number of batches in an epoch.
            start_epoch: The first epoch in which arms act, unless they have their own ``start_epoch``.

        Example:
            >>> Arm("cam", "saliency", {"probability": [[0, 0.0], [2, 0.5]]}).duties(6, 2, 0)
            [0.0, 0.0, 0.5, 0.5, 1.0, 1.0]
        """
        callback, full = self.callback(0, start_epoch), self.at_full_duty().callback(0, 0)
        if isinstance(callback, SaliencyAugmentation) and isinstance(full, SaliencyAugmentation):
            highest = full.probability(0) or 1.0
            return [callback.probability(step // epoch) / highest for step in range(steps)]
        batch = self.augment(2, 0)
        share = 0.0 if batch is None and callback is None else 1.0
        if self.kind in ("cutmix", "mixup") and batch is not None:
            share = batch.probability
        if callback is not None and not _takes(type(callback), "start_epoch"):
            start_epoch = 0
        return [share if step // epoch >= start_epoch else 0.0 for step in range(steps)]

    def augment(self, num_classes: int, seed: int, normalization: Any = None) -> BatchAugmentation | None:
        """What changes the batches inside the training step, if anything does."""
        if self.kind == PLAIN or _callback_class(self.kind) is not None:
            return None
        return BatchAugmentation(self.kind, self.init_args, num_classes, seed, normalization)

    def callback(self, seed: int, start_epoch: int) -> pl.Callback | None:
        """The callback that changes the batches before the training step, if there is one."""
        found = _callback_class(self.kind)
        if found is None:
            return None
        usual = {"seed": seed, "start_epoch": start_epoch, "model": "model", "film": False}
        given = {key: value for key, value in usual.items() if _takes(found, key)}
        given |= without_unset(found, self.init_args)
        try:
            return found(**given)
        except TypeError as error:
            raise ValueError(
                f"Got {dict(self.init_args)} for the arm {self.name}: {error}. Allowed are "
                f"{', '.join(_arguments(found))}; drop or rename the others."
            ) from error

    def plain(self) -> dict[str, Any]:
        """Kind and arguments as JSON values, different for different arms: a fingerprint."""
        init_args = plain_value(self.init_args)
        if "explainer" in self.init_args and isinstance(self.callback(0, 0), SaliencyAugmentation):
            init_args["explainer"] = ExplainerSpec.parse(self.init_args["explainer"]).plain()
        return {"class_path": self.kind, "init_args": init_args}


def parse_arms(arms: Mapping[str, Any]) -> dict[str, Arm]:
    """The arms that a configuration names.

    Args:
        arms: Name in the table -> ``None`` or an empty mapping where the name is that of the augmentation; else that
            name, or ``{"class_path": name, "init_args": {...}}``. A name is one of

            - ``"plain"``: no augmentation;
            - ``"random_erasing"``, ``"cutmix"``, ``"mixup"``, ``"strong"`` (torchvision's) and ``"label_smoothing"``,
              see `BatchAugmentation`;
            - ``"saliency"``, ``"group_cam"``: the callbacks `SaliencyAugmentation` and `GroupCAMAugmentation`;
            - ``"hide_mark"``, ``"hide_outside_boxes"``: the mark of `lightning_saliency.data.PlantedShortcut`, or what
              lies outside the boxes, is filled with ``value``, 0 by default: what a perfect map would do;
            - the class path of a callback of your own, or of a class or function whose result is called as
              ``augment(images, labels)`` and returns both. Arguments named ``num_classes`` or ``seed`` are filled in.

    Raises:
        TypeError: If an arm is given in another form.
        ValueError: If an augmentation or an argument is unknown.

    Example:
        >>> given = {"plain": None, "erased": "random_erasing", "mix": {"class_path": "mixup"}}
        >>> [arm.kind for arm in parse_arms(given).values()]
        ['plain', 'random_erasing', 'mixup']
    """
    parsed = {}
    for name, given in arms.items():
        kind, init_args = _read(str(name), given)
        if kind not in KINDS and "." not in kind:
            raise ValueError(
                f"Got the arm {name} of the kind {kind!r}. Allowed are {', '.join(KINDS)}, "
                f"and the class path of your own; give the arm such a name, or its kind as class_path."
                f"{did_you_mean(kind, KINDS)}"
            )
        if kind == PLAIN and init_args:
            raise ValueError(
                f"Got the arguments {sorted(init_args)} for the plain arm {name}, which has none; drop them."
            )
        parsed[str(name)] = Arm(str(name), kind, init_args)
    for arm in parsed.values():
        arm.augment(2, 0)
        arm.callback(0, 0)
    return parsed


def _read(name: str, given: Any) -> tuple[str, dict[str, Any]]:
    if given is None or given == {}:
        return name, {}
    if isinstance(given, str):
        return given, {}
    if isinstance(given, Mapping) and "class_path" in given and not set(given) - {"class_path", "init_args"}:
        return str(given["class_path"]), dict(given.get("init_args") or {})
    raise TypeError(
        f"Got the arm {name}: {given!r}. Allowed are null where its name says the kind, the name of a kind, and "
        "class_path with init_args; write for example {class_path: mixup, init_args: {alpha: 0.2}}."
    )


def _callback_class(kind: str) -> Callable[..., pl.Callback] | None:
    if kind in BOUNDS:
        return BOUNDS[kind]
    if kind in CALLBACKS:
        return CALLBACKS[kind]
    found = class_at(kind) if "." in kind else None
    return found if is_callback_class(found) else None


@lru_cache
def _arguments(found: Callable[..., Any]) -> list[str]:
    """The arguments of a class, including those that it passes to its base."""
    names: dict[str, None] = {}
    for base in inspect.getmro(found) if isinstance(found, type) else (found,):
        parameters = inspect.signature(base).parameters
        names |= {name: None for name, one in parameters.items() if one.kind is not one.VAR_KEYWORD}
        if all(one.kind is not one.VAR_KEYWORD for one in parameters.values()):
            break
    return list(names)


def _takes(found: Callable[..., Any], name: str) -> bool:
    return name in _arguments(found)
