"""The guide of an augmentation: an explainer, how its queries are made, and the controls in its place."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from lightning_saliency.callbacks.augmentation.actions.basic import Action, Changed, Keep, apply
from lightning_saliency.callbacks.augmentation.guide_network import PRESENT, UNTRAINED, GuideNetwork
from lightning_saliency.callbacks.augmentation.one_map.mean_map import MEAN, OWN, SHORTCUT, MeanMap
from lightning_saliency.callbacks.augmentation.one_map.shortcut_place import ShortcutPlace
from lightning_saliency.callbacks.augmentation.options import MASK_CONTROLS, AugmentationConfigurationError, meant_for
from lightning_saliency.checks import did_you_mean
from lightning_saliency.explainers import EXPLAINERS, Explainer, ExplainerOption, ExplainerSpec
from lightning_saliency.explainers.base import Output
from lightning_saliency.explainers.controls import OtherImage, RandomBlobs, shuffled_blobs
from lightning_saliency.functional.class_scores import Score, class_scores
from lightning_saliency.functional.masking import resize_maps

#: What gives all images one map, by name.
_SHARED: dict[str, type[MeanMap | ShortcutPlace]] = {MEAN: MeanMap, SHORTCUT: ShortcutPlace}
#: The guides that have a name: every explainer, and random blobs.
GUIDES = (*EXPLAINERS, "random_blobs")


class Guide:
    """Says where the pixels of each image's class are, or, if its maps need no class, those of any class.

    Args:
        explainer: An explainer, or ``"random_blobs"``, in any form of `ExplainerSpec.parse`.
        control: ``None``: the explainer's maps; ``"random_blobs"`` or ``"other_image"``: see ``SaliencyAugmentation``.
        maps: ``"own"``: each image has its own map; ``"mean"``: all have the mean of theirs, see `MeanMap`;
            ``"shortcut"``: all have the place of the shortcut, see `ShortcutPlace`.
        network: Whose maps they are, see `GuideNetwork`.
        share: The share of the pixels that the action calls salient; the area of ``"random_blobs"`` unless that is
            given. ``None``: it is not fixed.
        output: What takes the logits out of what the network returns, see ``Explainer``; an ``output`` among the
            explainer's own arguments comes first.
        seed: Of the weights of ``network="untrained"``.

    Raises:
        AugmentationConfigurationError: If the explainer is unknown, or an option unknown or out of range.
    """

    def __init__(
        self,
        explainer: ExplainerOption,
        control: str | None = None,
        *,
        maps: str = OWN,
        network: str | Path = PRESENT,
        share: float | None = None,
        output: Output = None,
        seed: int = 0,
    ) -> None:
        if control is not None and control not in MASK_CONTROLS:
            raise AugmentationConfigurationError(
                f"Got control={control!r}. Allowed are None, {', '.join(map(repr, MASK_CONTROLS))}; use one of them."
            )
        if maps not in (OWN, *_SHARED):
            raise AugmentationConfigurationError(
                f"Got maps={maps!r}. Allowed are {', '.join(map(repr, (OWN, *_SHARED)))}; use one of them."
            )
        if maps != OWN and control == "other_image":
            raise AugmentationConfigurationError(
                f"Got control='other_image' with maps={maps!r}, which gives all images of a batch one map, so that "
                "another image's is the same. Allowed is control='random_blobs'; take that."
            )
        spec = _parsed(explainer)
        if spec.factory is RandomBlobs and share is not None:
            spec = spec.with_defaults(area=share)
        try:
            self.spec = spec.with_output(output)
        except TypeError as error:
            raise AugmentationConfigurationError(f"{spec.name} cannot be the guide. {error}") from error
        self.control = control
        self.network = GuideNetwork(network, seed)
        self._which = maps
        self.shared = _shared(maps)
        self._other = OtherImage()
        self._explainers: dict[tuple[bool, bool], Explainer] = {}
        self._model: nn.Module | None = None
        #: Whether its maps need no class; `bind` finds out for sure. Random blobs keep to images with a class.
        self.class_free = not self.spec.class_specific and not self.is_random

    @property
    def is_control(self) -> bool:
        """Whether its masks have nothing to do with what a trained network makes of the image."""
        return self.control is not None or self.is_random or self.network.which == UNTRAINED

    @property
    def is_random(self) -> bool:
        """Whether it is random blobs, for which no network is asked."""
        return self.spec.factory is RandomBlobs

    @property
    def needs_labels(self) -> bool:
        """Whether it asks for classes even where its explainer's maps do not."""
        return self._which == SHORTCUT

    @property
    def no_place(self) -> str | None:
        """Why ``maps="shortcut"`` changes no image; ``None`` where it does, or has seen none."""
        return self.shared.no_place if isinstance(self.shared, ShortcutPlace) else None

    @property
    def settled(self) -> bool:
        """Whether its explainer is no longer asked: ``maps="shortcut"`` has seen enough images."""
        return isinstance(self.shared, ShortcutPlace) and self.shared.settled

    def bind(self, model: nn.Module) -> None:
        """Take a network; wrong values of the explainer's arguments are found out here.

        Raises:
            AugmentationConfigurationError: If the explainer cannot be built.
        """
        self._model = model
        self._explainers = {}
        try:
            built = self._explainer(multi_label=False)
        except (TypeError, ValueError, ImportError) as error:
            raise AugmentationConfigurationError(f"{self.spec.name} cannot be the guide. {error}") from error
        self.class_free = not built.class_specific and not self.is_random

    def settle(self, begun: bool) -> None:
        """Make the copy of the network that makes the maps, where one is wanted, see `GuideNetwork.settle`."""
        if self.network.settle(self._bound(), begun):
            self._explainers = {}

    def begin(self) -> None:
        """Another run: forget all images, and the network of the last one."""
        self._other = OtherImage()
        self.shared = _shared(self._which)
        self.network.begin()

    def begin_epoch(self) -> None:
        """From here on, images come again."""
        if isinstance(self.shared, ShortcutPlace):
            self.shared.begin_epoch()

    def release(self) -> None:
        """Let go of the network and of what was made for it; what `state_dict` holds stays until `begin`."""
        self._model = None
        self._explainers = {}
        self.network.release()

    def maps(self, images: Tensor, targets: Tensor, generator: torch.Generator, multi_label: bool = False) -> Tensor:
        """The maps of some images' classes.

        Args:
            images: ``[n, C, H, W]``, floating point, on the network's device.
            targets: ``[n]`` int64; not looked at where maps need no class.
            generator: Source of random numbers for ``random_blobs``, on the CPU.
            multi_label: Whether the classes do not exclude each other.

        Returns:
            ``[n, H, W]`` float32, each from 0 to 1; constant where the guide has nothing to say or is no longer asked
            (``maps="shortcut"``), NaN where the network's activations are not finite.
        """
        if self.settled:
            return torch.zeros(len(images), *images.shape[2:], dtype=torch.float32, device=images.device)
        explainer = self._explainer(multi_label)
        if isinstance(explainer, RandomBlobs):
            explainer.generator = generator
        maps = explainer(images, None if self.class_free else targets)
        return resize_maps(maps, (images.shape[2], images.shape[3]))

    def controlled(self, maps: Tensor, images: Tensor, targets: Tensor, generator: torch.Generator) -> Tensor:
        """The maps that are used: the images' own or one for all, or those of the control.

        ``control="other_image"`` keeps one of them for an image that comes alone, see `trial`.
        """
        if self.shared is not None:
            maps = self.shared(maps, images, targets)
        if self.control == "random_blobs":
            finite = torch.nan_to_num(maps)
            return torch.where(maps.isfinite(), shuffled_blobs(finite, generator), maps)
        if self.control == "other_image":
            return self._other(maps, generator)
        return maps

    @contextmanager
    def trial(self) -> Iterator[None]:
        """Maps made inside the context do not affect the next training step."""
        kept, shared = self._other.last, None if self.shared is None else self.shared.kept()
        try:
            yield
        finally:
            self._other.last = kept
            if self.shared is not None:
                self.shared.restore(shared)  # type: ignore[arg-type]  # its own

    def state_dict(self) -> dict[str, Any] | None:
        """State that the next maps depend on: the last map, or the sum of all, and the network's copy."""
        last = None if self._other.last is None else self._other.last.cpu()
        shared = None if self.shared is None else self.shared.state_dict()
        state = {"other": last, self._which: shared, "network": self.network.state_dict()}
        return {name: value for name, value in state.items() if value is not None} or None

    def load_state_dict(self, state: Mapping[str, Any] | None) -> None:
        """Go on with the map and the network that a checkpoint holds, if it has them."""
        self._other.last = (state or {}).get("other")
        if self.shared is not None:
            self.shared.load_state_dict((state or {}).get(self._which))
        self.network.load_state_dict((state or {}).get("network"))

    def confidence(self, images: Tensor, targets: Tensor, multi_label: bool = False) -> Tensor:
        """The confidence ``[n]`` of the network in training in each image's class; NaN where it has no such class.

        It is the class's softmax, or of multi-label heads its sigmoid.
        """
        explainer = self._explainer(multi_label, present=True)
        logits = explainer.logits(images)
        score: Score = getattr(explainer, "score", "sigmoid" if multi_label else "softmax")
        scores = class_scores(logits, "softmax" if score == "logit" else score)
        targets = targets.to(scores.device)
        known = (targets >= 0) & (targets < scores.shape[1])
        found = scores.gather(1, torch.where(known, targets, 0)[:, None])[:, 0]
        return torch.where(known, found, torch.nan)

    def output_count(self, images: Tensor, always: bool = False) -> int | None:
        """The number of the network's logits, from a pass over some images; ``None`` if the guide needs no classes.

        Args:
            images: ``[n, C, H, W]``.
            always: Ask the network also if the guide needs no classes.
        """
        explainer = self._explainer(False, present=True)
        if not explainer.class_specific and not always:
            return None
        return explainer.logits(images).shape[1]

    def _bound(self) -> nn.Module:
        if self._model is None:
            raise RuntimeError("The guide was asked for maps before it was given a network: call bind() first.")
        return self._model

    def _explainer(self, multi_label: bool, present: bool = False) -> Explainer:
        """The explainer round the network that makes the maps, or, ``present``, round the one in training."""
        present = present and self.network.is_fixed
        key = (multi_label, present)
        if key not in self._explainers:
            model = self._bound()
            spec = self.spec.with_defaults(score="sigmoid") if multi_label else self.spec
            self._explainers[key] = spec(model if present else self.network.of(model))
        return self._explainers[key]


def _shared(maps: str) -> MeanMap | ShortcutPlace | None:
    """What gives all images one map; ``None`` where each has its own."""
    return _SHARED[maps]() if maps in _SHARED else None


def _parsed(explainer: ExplainerOption) -> ExplainerSpec:
    """Read an explainer."""
    try:
        return ExplainerSpec.parse(explainer)
    except (TypeError, ValueError, ImportError) as error:
        if isinstance(explainer, str) and "." not in explainer and ":" not in explainer:
            raise AugmentationConfigurationError(
                f"Got explainer={explainer!r}, which is unknown. Allowed are explainers: {', '.join(GUIDES)}, "
                "torchcam:METHOD, and a class or function of your own; use one of "
                f"them.{meant_for(explainer, 'explainer') or did_you_mean(explainer, GUIDES)}"
            ) from None
        raise AugmentationConfigurationError(
            f"Got explainer={explainer!r}. {error}{meant_for(explainer, 'explainer')}"
        ) from error


class Recipe:
    """What becomes of images: their maps, and what the action makes of both.

    Args:
        guide: Makes the maps.
        action: Changes the images.
    """

    def __init__(self, guide: Guide, action: Action | None = None) -> None:
        self.guide = guide
        self.action = Keep() if action is None else action

    @property
    def changes_labels(self) -> bool:
        """Whether the action changes labels."""
        return bool(getattr(self.action, "changes_labels", False))

    def augmented(
        self, images: Tensor, targets: Tensor, generator: torch.Generator, multi_label: bool = False
    ) -> tuple[Changed, Tensor]:
        """What becomes of some images, see ``SaliencyAugmentation.augmented``, and the maps that were used."""
        return self.changed(images, self.guide.maps(images, targets, generator, multi_label), targets, generator)

    def changed(
        self, images: Tensor, maps: Tensor, targets: Tensor, generator: torch.Generator
    ) -> tuple[Changed, Tensor]:
        """What becomes of images ``[n, C, H, W]`` whose maps ``[n, H, W]`` are made, and the maps that were used."""
        maps = self.guide.controlled(maps, images, targets, generator)
        changed = apply(self.action, images, maps, generator)
        return replace(changed, pixels=changed.pixels.to(images.dtype)), maps

    def gain(self, images: Tensor, augmented: Tensor, targets: Tensor, multi_label: bool) -> Tensor:
        """By how much the network is surer of the classes ``[n]`` of the augmented images; NaN where there is none."""
        before, after = (self.guide.confidence(part, targets, multi_label) for part in (images, augmented))
        return after - before
