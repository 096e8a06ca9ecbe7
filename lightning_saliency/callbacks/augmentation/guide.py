"""The guide of an augmentation: an explainer by name, its levers of economy, and the controls in its place."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn

from lightning_saliency.callbacks.augmentation.options import CONTROLS, AugmentationConfigurationError, batch_generator
from lightning_saliency.explainers import EXPLAINERS, Explainer, build_explainer
from lightning_saliency.explainers.controls import OtherImage, RandomBlobs, shuffled_blobs
from lightning_saliency.explainers.fast_forward import PRECISIONS, Precision
from lightning_saliency.functional.class_scores import Score, class_scores
from lightning_saliency.functional.masking import Fill, blend, fill_images, resize_maps
from lightning_saliency.pictures.tensors import resize_images

#: Guides by name: every explainer that has a map for each class, and random blobs.
GUIDES: dict[str, Callable[..., Explainer]] = {
    **{name: build for name, build in EXPLAINERS.items() if name != "smoe"},
    "random_blobs": RandomBlobs,
}


class Guide:
    """Says where the pixels of each image's class are.

    Args:
        explainer: A name in ``GUIDES``.
        options: The explainer's own.
        control: ``None``: the explainer's maps; ``"random_blobs"`` or ``"other_image"``: see ``SaliencyAugmentation``.
        layer: The layer to look at; ``None``: the explainer's default.
        output: Takes the logits out of what the network returns.
        precision: Of the queries.
        fast: Whether masked images are scored with a faster copy of the network.
        batch_size: Masked images in one pass.
        resolution: Of the queries' images, as a share of the images' side, in (0, 1].

    Raises:
        AugmentationConfigurationError: If an option is unknown, out of range, or not the explainer's.
    """

    def __init__(
        self,
        explainer: str,
        options: Mapping[str, Any] | None = None,
        control: str | None = None,
        *,
        layer: Any = None,
        output: Callable[[Any], Tensor] | None = None,
        precision: Precision | None = None,
        fast: bool | Literal["compiled"] = False,
        batch_size: int | Literal["auto"] = "auto",
        resolution: float = 1.0,
    ) -> None:
        if explainer not in GUIDES:
            reason = " smoe has one map for all classes" if explainer == "smoe" else ""
            raise AugmentationConfigurationError(
                f"Got explainer={explainer!r}.{reason} Allowed are explainers with a map for each class: "
                f"{', '.join(GUIDES)}; use one of them."
            )
        if control is not None and control not in CONTROLS:
            raise AugmentationConfigurationError(
                f"Got control={control!r}. Allowed are None, {', '.join(map(repr, CONTROLS))}; use one of them."
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
        self.name = explainer
        self.control = control
        self.precision = precision
        self.resolution = resolution
        self._takes = inspect.signature(GUIDES[explainer]).parameters
        self._options = dict(options or {})
        for name, value, default in (("layer", layer, None), ("fast", fast, False), ("batch_size", batch_size, "auto")):
            if value == default:
                continue
            if name not in self._takes:
                raise AugmentationConfigurationError(
                    f"Got {name}={value!r} for {explainer}, which has no such option. Leave it out, or take an "
                    "explainer that scores masked images, such as group_cam."
                )
            self._options[name] = value
        if output is not None:
            self._options["output"] = output
        self._other = OtherImage()
        self._explainers: dict[tuple[object, ...], Explainer] = {}
        self._model: nn.Module | None = None

    def bind(self, model: nn.Module) -> None:
        """Take a network; wrong options are found out here.

        Raises:
            AugmentationConfigurationError: If the explainer does not take its options, or needs a missing package.
        """
        self._model = model
        self._explainers = {}
        try:
            self._explainer(multi_label=False, size=None)
        except (TypeError, ValueError, ImportError) as error:
            raise AugmentationConfigurationError(f"{self.name} cannot be the guide. {error}") from error

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
            generator: Of random guides, on the CPU.
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
        with ExitStack() as stack:
            if self.precision is not None:
                stack.enter_context(torch.autocast(images.device.type, dtype=PRECISIONS[self.precision]))
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
        """Inside, maps are made that no training step sees: they leave nothing behind for the next one."""
        kept = self._other.last
        try:
            yield
        finally:
            self._other.last = kept

    def state_dict(self) -> dict[str, Tensor] | None:
        """What the next maps depend on beside the network: with ``control="other_image"`` the map that was kept."""
        return None if self._other.last is None else {"other": self._other.last.cpu()}

    def load_state_dict(self, state: Mapping[str, Tensor] | None) -> None:
        """Go on with the map that a checkpoint holds, if it has one."""
        self._other.last = None if state is None else state["other"]

    def confidence(self, images: Tensor, targets: Tensor, multi_label: bool = False) -> Tensor:
        """The network's confidence ``[n]`` in each image's class: its softmax, or of multi-label heads its sigmoid."""
        explainer = self._explainer(multi_label, (images.shape[2], images.shape[3]))
        logits = explainer.logits(images)
        score: Score = getattr(explainer, "score", "sigmoid" if multi_label else "softmax")
        scores = class_scores(logits, "softmax" if score == "logit" and logits.shape[1] > 1 else score)
        return scores.gather(1, targets.to(scores.device)[:, None])[:, 0]

    def _explainer(self, multi_label: bool, size: tuple[int, int] | None) -> Explainer:
        key = (multi_label, size if self.resolution < 1 else None)
        if key not in self._explainers:
            if self._model is None:
                raise RuntimeError("The guide was asked for maps before it was given a network: call bind() first.")
            options = dict(self._options)
            if self.precision is not None and "precision" in self._takes:
                options.setdefault("precision", self.precision)
            if multi_label and "score" in self._takes:
                options.setdefault("score", "sigmoid")
            if self.resolution < 1:
                # The blur must hide as much of a small image as it does of a large one.
                for name in ("kernel_size", "sigma"):
                    if name in self._takes:
                        full = options.get(name, self._takes[name].default)
                        scaled = full * self.resolution
                        options[name] = 2 * int(scaled / 2) + 1 if name == "kernel_size" else scaled
            if self.name == "random_blobs":
                self._explainers[key] = RandomBlobs(self._model, **options)
            else:
                self._explainers[key] = build_explainer(self.name, self._model, **options)
        return self._explainers[key]


@dataclass
class Recipe:
    """Steps 1 to 3 of ``SaliencyAugmentation``.

    Args:
        guide: Makes the maps.
        soft: Blend with the map itself, not with the binary mask.
        baseline: What shows where the mask is zero, see ``fill_images``.
    """

    guide: Guide
    soft: bool = False
    baseline: Fill = "blur"

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
        return blend(images, fill_images(images, self.baseline, generator=noise), masks), maps, masks

    def gain(self, images: Tensor, augmented: Tensor, targets: Tensor, multi_label: bool) -> Tensor:
        """By how much the network is surer of the classes ``[n]`` of the augmented images than of the images."""
        before, after = (self.guide.confidence(part, targets, multi_label) for part in (images, augmented))
        return after - before
