"""The guide of an augmentation: an explainer, how its queries are made, and the controls in its place."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from lightning_saliency.callbacks.augmentation.options import (
    MASK_CONTROLS,
    AugmentationConfigurationError,
    batch_generator,
)
from lightning_saliency.explainers import EXPLAINERS, Explainer, ExplainerOption, ExplainerSpec
from lightning_saliency.explainers.base import Output
from lightning_saliency.explainers.controls import OtherImage, RandomBlobs, shuffled_blobs
from lightning_saliency.explainers.mask_scoring.fast_forward import PRECISIONS, Precision
from lightning_saliency.functional.class_scores import Score, class_count, class_scores
from lightning_saliency.functional.fills import Fill, fill_images
from lightning_saliency.functional.masking import blend, resize_maps
from lightning_saliency.pictures.tensors import resize_images

#: The guides that have a name: every explainer with a map for each class, and random blobs.
GUIDES = (*(name for name in EXPLAINERS if ExplainerSpec.parse(name).class_specific), "random_blobs")


class Guide:
    """Says where the pixels of each image's class are.

    Args:
        explainer: A class-specific explainer, or ``"random_blobs"``, in any form of `ExplainerSpec.parse`.
        control: ``None``: the explainer's maps; ``"random_blobs"`` or ``"other_image"``: see ``SaliencyAugmentation``.
        precision: Autocast the queries to it; also the explainer's ``precision``, if it takes one and none is given.
        resolution: Side of the queried images, as a share of the images' side, in (0, 1].
        output: What takes the logits out of what the network returns, see ``Explainer``; an ``output`` among the
            explainer's own arguments comes first.

    Raises:
        AugmentationConfigurationError: If the explainer is unknown or class-free, or an option unknown or out of range.
    """

    def __init__(
        self,
        explainer: ExplainerOption,
        control: str | None = None,
        *,
        precision: Precision | None = None,
        resolution: float = 1.0,
        output: Output = None,
    ) -> None:
        if control is not None and control not in MASK_CONTROLS:
            raise AugmentationConfigurationError(
                f"Got control={control!r}. Allowed are None, {', '.join(map(repr, MASK_CONTROLS))}; use one of them."
            )
        if precision is not None and precision not in PRECISIONS:
            raise AugmentationConfigurationError(
                f"Got precision={precision!r}. Allowed are None (the trainer's own), {', '.join(map(repr, PRECISIONS))}"
                "; use one of them."
            )
        if not 0 < resolution <= 1:
            raise AugmentationConfigurationError(
                f"Got resolution={resolution}. Allowed are shares of the images' side in (0, 1]; 1 is the full size."
            )
        spec = _class_specific(explainer).with_defaults(**({} if precision is None else {"precision": precision}))
        try:
            self.spec = spec.with_output(output)
        except TypeError as error:
            raise AugmentationConfigurationError(f"{spec.name} cannot be the guide. {error}") from error
        self.control = control
        self.precision = precision
        self.resolution = resolution
        self._other = OtherImage()
        self._explainers: dict[tuple[object, ...], Explainer] = {}
        self._model: nn.Module | None = None

    def bind(self, model: nn.Module) -> None:
        """Take a network; wrong values of the explainer's arguments are found out here.

        Raises:
            AugmentationConfigurationError: If the explainer cannot be built, or turns out to be class-free.
        """
        self._model = model
        self._explainers = {}
        try:
            built = self._explainer(multi_label=False, size=None)
        except (TypeError, ValueError, ImportError) as error:
            raise AugmentationConfigurationError(f"{self.spec.name} cannot be the guide. {error}") from error
        if not built.class_specific and not isinstance(built, RandomBlobs):
            raise AugmentationConfigurationError(_refusal(self.spec.name, _ONE_MAP))

    def release(self) -> None:
        """Let go of the network and of what was made for it."""
        self._model = None
        self._explainers = {}
        self._other = OtherImage()

    def maps(self, images: Tensor, targets: Tensor, generator: torch.Generator, multi_label: bool = False) -> Tensor:
        """The maps of some images' classes.

        Args:
            images: ``[n, C, H, W]``, floating point, on the network's device.
            targets: ``[n]`` int64.
            generator: Source of random numbers for ``random_blobs``, on the CPU.
            multi_label: Whether the classes do not exclude each other.

        Returns:
            ``[n, H, W]`` float32, each from 0 to 1; constant where the guide has nothing to say, NaN where the
            network's activations are not finite.
        """
        size = (images.shape[2], images.shape[3])
        queried = images
        if self.resolution < 1:
            small = tuple(max(1, round(side * self.resolution)) for side in size)
            queried = resize_images(images.float(), (small[0], small[1])).to(images.dtype)
        explainer = self._explainer(multi_label, (queried.shape[2], queried.shape[3]))
        if isinstance(explainer, RandomBlobs):
            explainer.generator = generator
        with self._precise(images):
            return resize_maps(explainer(queried, targets), size)

    def controlled(self, maps: Tensor, generator: torch.Generator) -> Tensor:
        """The maps that are used: the guide's own, or those of the control.

        ``control="other_image"`` keeps one of them for an image that comes alone, see `trial`.
        """
        if self.control == "random_blobs":
            finite = torch.nan_to_num(maps)
            return torch.where(maps.isfinite(), shuffled_blobs(finite, generator), maps)
        if self.control == "other_image":
            return self._other(maps, generator)
        return maps

    @contextmanager
    def trial(self) -> Iterator[None]:
        """Maps made inside the context do not affect the next training step."""
        kept = self._other.last
        try:
            yield
        finally:
            self._other.last = kept

    def state_dict(self) -> dict[str, Tensor] | None:
        """State that the next maps depend on: with ``control="other_image"``, the last map."""
        return None if self._other.last is None else {"other": self._other.last.cpu()}

    def load_state_dict(self, state: Mapping[str, Tensor] | None) -> None:
        """Go on with the map that a checkpoint holds, if it has one."""
        self._other.last = None if state is None else state["other"]

    def confidence(self, images: Tensor, targets: Tensor, multi_label: bool = False) -> Tensor:
        """The network's confidence ``[n]`` in each image's class: its softmax, or of multi-label heads its sigmoid."""
        explainer = self._explainer(multi_label, (images.shape[2], images.shape[3]))
        logits = explainer.logits(images)
        score: Score = getattr(explainer, "score", "sigmoid" if multi_label else "softmax")
        scores = class_scores(logits, "softmax" if score == "logit" else score)
        return scores.gather(1, targets.to(scores.device)[:, None])[:, 0]

    def class_count(self, images: Tensor) -> int | None:
        """The number of the network's classes, from a pass over some images; ``None`` if the guide knows no classes."""
        explainer = self._explainer(False, (images.shape[2], images.shape[3]))
        if not explainer.class_specific:
            return None
        with self._precise(images):
            return class_count(explainer.logits(images))

    def _precise(self, images: Tensor) -> AbstractContextManager[object]:
        """The precision of the queries."""
        if self.precision is None:
            return nullcontext()
        return torch.autocast(images.device.type, dtype=PRECISIONS[self.precision])

    def _explainer(self, multi_label: bool, size: tuple[int, int] | None) -> Explainer:
        key = (multi_label, size if self.resolution < 1 else None)
        if key not in self._explainers:
            if self._model is None:
                raise RuntimeError("The guide was asked for maps before it was given a network: call bind() first.")
            self._explainers[key] = self._scaled(multi_label)(self._model)
        return self._explainers[key]

    def _scaled(self, multi_label: bool) -> ExplainerSpec:
        """The explainer for this kind of labels, its blur scaled to the queries' resolution."""
        spec = self.spec.with_defaults(score="sigmoid") if multi_label else self.spec
        if self.resolution < 1:
            # The blur must hide as much of a small image as it does of a large one.
            if spec.takes("kernel_size"):
                spec = spec.with_options(kernel_size=2 * int(spec.option("kernel_size") * self.resolution / 2) + 1)
            if spec.takes("sigma"):
                spec = spec.with_options(sigma=spec.option("sigma") * self.resolution)
        return spec


def _class_specific(explainer: ExplainerOption) -> ExplainerSpec:
    """Read an explainer, and refuse it where it has no map for each class."""
    try:
        spec = ExplainerSpec.parse(explainer)
    except (TypeError, ValueError, ImportError) as error:
        if isinstance(explainer, str) and "." not in explainer and ":" not in explainer:
            raise AugmentationConfigurationError(_refusal(explainer, "which is unknown")) from None
        raise AugmentationConfigurationError(f"Got explainer={explainer!r}. {error}") from error
    if not spec.class_specific and spec.factory is not RandomBlobs:
        raise AugmentationConfigurationError(_refusal(spec.name, _ONE_MAP))
    return spec


_ONE_MAP = "which has one map for all classes"


def _refusal(name: str, reason: str) -> str:
    return (
        f"Got explainer={name!r}, {reason}. Allowed are explainers with a map for each class: {', '.join(GUIDES)}, "
        "torchcam:METHOD, and a class or function of your own; use one of them."
    )


@dataclass
class Recipe:
    """Steps 1 to 3 of ``SaliencyAugmentation``.

    Args:
        guide: Makes the maps.
        soft: Blend with the map itself, not with the binary mask.
        fill: What shows where the mask is zero, see ``fill_images``.
    """

    guide: Guide
    soft: bool = False
    fill: Fill = "blur"

    def augmented(
        self, images: Tensor, targets: Tensor, generator: torch.Generator, multi_label: bool = False
    ) -> tuple[Tensor, Tensor, Tensor]:
        """What becomes of some images, see ``SaliencyAugmentation.augmented``."""
        return self.blended(images, self.guide.maps(images, targets, generator, multi_label), generator)

    def blended(self, images: Tensor, maps: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor, Tensor]:
        """What becomes of images ``[n, C, H, W]`` whose maps ``[n, H, W]`` are made, steps 2 and 3."""
        maps = self.guide.controlled(maps, generator)
        masks = maps if self.soft else (maps > maps.mean((-2, -1), keepdim=True)).float()
        usable = maps.isfinite().all(-1).all(-1) & (maps.amax((-2, -1)) > maps.amin((-2, -1)))
        masks = torch.where(usable[:, None, None], masks, 1.0)
        noise = batch_generator(int(torch.randint(2**31, (), generator=generator)), 0, 0, images.device)
        return blend(images, fill_images(images, self.fill, generator=noise), masks), maps, masks

    def gain(self, images: Tensor, augmented: Tensor, targets: Tensor, multi_label: bool) -> Tensor:
        """By how much the network is surer of the classes ``[n]`` of the augmented images than of the images."""
        before, after = (self.guide.confidence(part, targets, multi_label) for part in (images, augmented))
        return after - before
