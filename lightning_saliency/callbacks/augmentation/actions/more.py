"""Actions that use more than an image and its map: a transform, or other images of the batch."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from importlib import import_module
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import torch
from jsonargparse.typing import register_type
from torch import Tensor
from torchvision.transforms import v2

from lightning_saliency.callbacks.augmentation.actions.basic import Action, Changed, Region, filled
from lightning_saliency.callbacks.augmentation.options import AugmentationConfigurationError, meant_for
from lightning_saliency.checks import did_you_mean
from lightning_saliency.functional.fills import Fill
from lightning_saliency.functional.masking import blend, salient_patches
from lightning_saliency.pictures.tensors import parse_denormalize
from lightning_saliency.randomness import isolated_rng

#: Share of the pixels that is the salient region, where neither a share nor a threshold is given: room for an object.
OBJECT_SHARE = 0.25


@dataclass(frozen=True)
class TransformSpec:
    """A transform as a configuration writes it: by its name, or as a mapping of ``class_path`` and ``init_args``."""

    written: str | Mapping[str, Any]

    @classmethod
    def parse(cls, given: Any) -> TransformSpec:
        """Read what stands in a configuration; what it means is found out by `Protect`.

        Raises:
            TypeError: If it is neither a name nor a mapping.
        """
        if isinstance(given, cls):
            return given
        if not isinstance(given, (str, Mapping)):
            raise TypeError(
                f"Got transform={given!r}. Allowed are a name and a mapping of class_path and init_args; write for "
                "example {class_path: GaussianBlur, init_args: {kernel_size: 3}}."
            )
        return cls(given)


if TYPE_CHECKING:
    #: The type of an argument that takes a transform in any form, from Python and from YAML.
    TransformOption = str | Mapping[str, Any] | Callable[[Tensor], Tensor] | TransformSpec
else:
    # What jsonargparse, and so LightningCLI, sees, as for explainers and actions.
    TransformOption = TransformSpec | str
    register_type(TransformSpec, lambda spec: spec.written, TransformSpec.parse, (TypeError,))


def _object(share: float | None, sigmas: float | None, softness: float) -> Region:
    return Region(OBJECT_SHARE if share is None and sigmas is None else share, sigmas, softness)


@dataclass(frozen=True)
class Protect(Action):
    """A transform acts everywhere but on the salient region (KeepAugment's selective paste, Gong et al., CVPR 2021).

    x' = M ⊙ x + (1 − M) ⊙ A(x), with A the transform and M the salient region, at its own place.

    Args:
        transform: A transform of torchvision's v2, or any function of an image ``[C, H, W]`` that keeps its shape: its
            name (``"RandomErasing"``), ``{"class_path": name, "init_args": {...}}``, or the object. It is called for
            each image by itself.
        share: The share of the pixels that is protected, the most salient ones, in (0, 1).
        sigmas: In the place of a share: protect all pixels above the map's mean by more than so many of its standard
            deviations. With neither, a quarter of the pixels is protected.
        softness: How far the region's edge is blurred, as a share of the image's side.
        normalization: How the images were normalised, ``"imagenet"`` or ``[mean, std]``: the transform then gets them
            as they were, in [0, 1], as those of colours want. ``None``: as they are.

    Raises:
        AugmentationConfigurationError: If the transform is unknown, or for a region as in `Region`.

    Example:
        >>> protect = Protect(lambda image: image * 0, share=0.25)
        >>> protect(torch.ones(1, 1, 1, 4), torch.tensor([[[0.0, 0.2, 0.9, 1.0]]]), torch.Generator()).pixels
        tensor([[[[0., 0., 0., 1.]]]])
    """

    transform: TransformOption = "RandomErasing"
    share: float | None = None
    sigmas: float | None = None
    softness: float = 0.0
    normalization: str | Sequence[Sequence[float]] | None = None
    region: Region = field(init=False, repr=False, compare=False)
    call: Callable[[Tensor], Tensor] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "region", _object(self.share, self.sigmas, self.softness))
        if isinstance(self.transform, TransformSpec):
            object.__setattr__(self, "transform", self.transform.written)
        object.__setattr__(self, "call", _transform(self.transform))
        if self.normalization is not None:
            try:
                parse_denormalize(self.normalization)
            except ValueError as error:
                raise AugmentationConfigurationError(f"Got normalization={self.normalization!r}. {error}") from None

    @property
    def fixed_share(self) -> float | None:  # type: ignore[override]
        """See `Action`."""
        return self.region.fixed_share

    def __call__(self, images: Tensor, maps: Tensor, generator: torch.Generator) -> Changed:
        """See `Action`."""
        masks = self.region.of(maps)
        found = None if self.normalization is None else parse_denormalize(self.normalization)
        mean, std = (images.new_tensor(values)[:, None, None] for values in found or ((0.0,), (1.0,)))
        seed = int(torch.randint(2**31, (), generator=generator))
        with isolated_rng(seed, cuda=images.is_cuda):
            transformed = torch.stack([self.call(image) for image in images * std + mean])
        return Changed(blend(images, (transformed - mean) / std, masks), masks)


@dataclass(frozen=True)
class Swap(Action):
    """Puts the salient region, with a soft edge, on the background of another image of the batch.

    x' = M ⊙ x + (1 − M) ⊙ b, with b another of the batch's changed images whose own salient region is filled over. The
    label stays: backgrounds no longer go with classes. An image that is alone stays as it is.

    Args:
        share: The share of the pixels that is the salient region, the most salient ones, in (0, 1).
        sigmas: In the place of a share: all pixels above the map's mean by more than so many of its standard
            deviations. With neither, a quarter of the pixels.
        softness: How far the region's edge is blurred, as a share of the image's side.
        fill: What hides the other image's own salient region, see ``fill_images``; ``None``: nothing, it shows.

    Raises:
        AugmentationConfigurationError: See `Region`.

    Example:
        >>> images = torch.tensor([1.0, 2.0]).view(2, 1, 1, 1).expand(2, 1, 1, 4)
        >>> maps = torch.tensor([[[0.0, 0.2, 0.9, 1.0]], [[1.0, 0.9, 0.2, 0.0]]])
        >>> Swap(share=0.25, softness=0.0, fill=None)(images, maps, torch.Generator()).pixels.tolist()
        [[[[2.0, 2.0, 2.0, 1.0]]], [[[2.0, 1.0, 1.0, 1.0]]]]
    """

    share: float | None = None
    sigmas: float | None = None
    softness: float = 0.02
    fill: Fill | None = "blur"
    region: Region = field(init=False, repr=False, compare=False)

    #: See `Action`.
    needs_others = True

    def __post_init__(self) -> None:
        object.__setattr__(self, "region", _object(self.share, self.sigmas, self.softness))

    @property
    def fixed_share(self) -> float | None:  # type: ignore[override]
        """See `Action`."""
        return self.region.fixed_share

    def __call__(self, images: Tensor, maps: Tensor, generator: torch.Generator) -> Changed:
        """See `Action`."""
        partners = _partners(len(images), generator)
        if partners is None:
            return Changed(images, torch.ones_like(maps))
        masks = self.region.of(maps)
        others = images if self.fill is None else blend(images, filled(images, self.fill, generator), 1 - masks)
        return Changed(blend(images, others[partners.to(images.device)], masks), masks)


@dataclass(frozen=True)
class Mix(Action):
    """Pastes another image's salient patch over an image, and mixes their labels (SaliencyMix, Uddin et al. 2021).

    The patch is a rectangle round the other map's peak, see `salient_patches`, and lies where it lay there:
    x' = (1 − P) ⊙ x + P ⊙ y. Its share of the area is 1 − λ with λ ~ Beta(α, α).

    The labels become class probabilities ``[B, N]``, as ``torch.nn.functional.cross_entropy`` takes them; for a network
    with one logit, probabilities of class 1 in the labels' own shape. With maps S and T of x and y, x's label has the
    weight m / (m + p), where m = Σ(1 − P)S / ΣS is the mass of its map that still shows and p = ΣPT / ΣT the mass of
    the other's that was brought; or its share of the area, as in the paper. An image that is alone stays as it is.

    Args:
        alpha: α, positive.
        labels: ``"mass"`` or ``"area"``: by what the labels are weighted.

    Raises:
        AugmentationConfigurationError: If an option is out of range.

    Example:
        >>> changed = Mix()(torch.rand(4, 3, 8, 8), torch.rand(4, 8, 8), torch.Generator().manual_seed(0))
        >>> changed.partners.tolist(), bool(((changed.weights >= 0) & (changed.weights <= 1)).all())
        ([1, 2, 3, 0], True)
    """

    alpha: float = 1.0
    labels: Literal["mass", "area"] = "mass"

    #: See `Action`.
    changes_labels = True
    #: See `Action`.
    needs_others = True

    def __post_init__(self) -> None:
        if not self.alpha > 0 or self.labels not in ("mass", "area"):
            raise AugmentationConfigurationError(
                f"Got alpha={self.alpha}, labels={self.labels!r}. Allowed are a positive alpha and the labels 'mass' "
                "and 'area'; change the one outside."
            )

    def __call__(self, images: Tensor, maps: Tensor, generator: torch.Generator) -> Changed:
        """See `Action`."""
        count = len(images)
        drawn = np.random.default_rng(int(torch.randint(2**31, (), generator=generator)))
        shares = torch.from_numpy(1 - drawn.beta(self.alpha, self.alpha, count))
        partners = _partners(count, generator)
        if partners is None:
            return Changed(images, torch.ones_like(maps), torch.zeros(count, dtype=torch.int64), torch.ones(count))
        at = partners.to(images.device)
        others = maps[at]
        patches = salient_patches(others, shares)
        masks = 1 - patches.float()
        if self.labels == "area":
            weights = masks.mean((-2, -1))
        else:
            left = (maps * masks).sum((-2, -1)) / maps.sum((-2, -1))
            brought = (others * patches).sum((-2, -1)) / others.sum((-2, -1))
            weights = left / (left + brought).clamp_min(torch.finfo(torch.float32).tiny)
        pixels = torch.where(patches[:, None], images[at], images)
        return Changed(pixels, masks, partners, weights)


def _partners(count: int, generator: torch.Generator) -> Tensor | None:
    """For each of so many images another one ``[n]``, each taken once; ``None`` where there is no other."""
    if count < 2:
        return None
    return torch.arange(count).roll(int(torch.randint(1, count, (), generator=generator)))


def _transform(given: Any) -> Callable[[Tensor], Tensor]:
    """A transform of one image, in any of its forms."""
    name, init_args = given, {}
    if isinstance(given, Mapping) and "class_path" in given and not set(given) - {"class_path", "init_args"}:
        name, init_args = given["class_path"], dict(given.get("init_args") or {})
    elif callable(given) and not isinstance(given, type):
        return _of_image(given)
    if isinstance(name, str):
        module, _, attribute = name.rpartition(".")
        try:
            kind = getattr(import_module(module) if module else v2, attribute)
            made: Any = kind(**init_args)
        except (ImportError, AttributeError, TypeError, ValueError) as error:
            raise AugmentationConfigurationError(
                f"Got transform={given!r}, which cannot be made: {error}. Allowed are the names of transforms in "
                "torchvision.transforms.v2, such as 'RandomErasing', and class paths; give its arguments as init_args."
                f"{meant_for(given, 'transform') or ('' if hasattr(v2, name) else did_you_mean(name, vars(v2)))}"
            ) from error
        if callable(made):
            return _of_image(made)
    raise AugmentationConfigurationError(
        f"Got transform={given!r}. Allowed are the name of a transform, {{'class_path': ..., 'init_args': ...}}, and a "
        "function of an image, such as v2.ColorJitter() or v2.Compose([...]) of several; give one of them."
        f"{meant_for(given, 'transform')}"
    )


def _of_image(made: Any) -> Callable[[Tensor], Tensor]:
    transform: Callable[[Tensor], Tensor] = made
    return transform
