"""What becomes of an image: an action takes images and their saliency maps, and gives other images."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

from lightning_saliency.callbacks.augmentation.options import AugmentationConfigurationError, batch_generator
from lightning_saliency.functional.fills import Fill, fill_images
from lightning_saliency.functional.masking import above_mean, blend, soft_edges, top_fraction

#: Share of an image's pixels that is its salient region where neither a share nor a threshold is given.
SHARE = 0.1


@dataclass(frozen=True)
class Changed:
    """What became of n images.

    Args:
        pixels: ``[n, C, H, W]``, what is shown in their place, of their dtype.
        masks: ``[n, H, W]`` float32 in [0, 1], how much of it are the image's own pixels, where they were.
        partners: ``[n]`` int64, for each image the one among the n that it was mixed with; ``None``: its label holds.
        weights: With ``partners``, ``[n]`` in [0, 1]: the weight of the image's own label; the partner's has the rest.
    """

    pixels: Tensor
    masks: Tensor
    partners: Tensor | None = None
    weights: Tensor | None = None


class Action(ABC):
    """What becomes of images, given their maps.

    Anything that is called like this can be an action; a subclass need not be.
    """

    #: Whether labels change with the pixels, that is, whether `Changed` has ``partners`` and ``weights``.
    changes_labels = False
    #: Whether it takes away what is salient, so that the network has to find something else.
    hides = False
    #: Whether it needs another of the batch's images, so that one that is alone stays as it is.
    needs_others = False
    #: Share of the pixels that is the salient region; ``None`` where it is not fixed.
    fixed_share: float | None = None

    @abstractmethod
    def __call__(self, images: Tensor, maps: Tensor, generator: torch.Generator) -> Changed:
        """Change images.

        Args:
            images: ``[n, C, H, W]``, floating point, n ≥ 1, not to be written to.
            maps: ``[n, H, W]`` float32, finite, none of them constant.
            generator: Source of random numbers, on the CPU; the global ones are not to be used.

        Returns:
            What became of them.
        """


@dataclass(frozen=True)
class Region:
    """Which part of an image is its salient one.

    Args:
        share: The share of the pixels with the highest values, exactly that many, in (0, 1).
        sigmas: In the place of a share: all pixels above the map's mean by more than so many of its standard
            deviations. With neither, a tenth of the pixels.
        softness: How far the region's edge is blurred, as a share of the image's side; 0: a hard edge.

    Raises:
        AugmentationConfigurationError: If both are given, or a value is out of range.

    Example:
        >>> Region(sigmas=1.0).of(torch.tensor([[[0.0, 0.0], [0.0, 1.0]]]))
        tensor([[[0., 0.],
                 [0., 1.]]])
    """

    share: float | None = None
    sigmas: float | None = None
    softness: float = 0.0

    def __post_init__(self) -> None:
        if self.share is not None and self.sigmas is not None:
            raise AugmentationConfigurationError(
                f"Got share={self.share} and sigmas={self.sigmas}. Allowed is one of them: a share of the pixels, or "
                "what lies above the mean; leave the other out."
            )
        if self.share is not None and not 0 < self.share < 1:
            raise AugmentationConfigurationError(
                f"Got share={self.share}. Allowed are shares of the pixels in (0, 1); divide per cent by 100."
            )
        if not 0 <= self.softness < 0.5:
            raise AugmentationConfigurationError(
                f"Got softness={self.softness}. Allowed are shares of the image's side in [0, 0.5); take 0.02."
            )

    @property
    def fixed_share(self) -> float | None:
        """The share of the pixels, where it is fixed."""
        return None if self.sigmas is not None else SHARE if self.share is None else self.share

    def of(self, maps: Tensor) -> Tensor:
        """The regions of maps ``[n, H, W]``: ``[n, H, W]`` float32 in [0, 1]."""
        share = self.fixed_share
        region = above_mean(maps, self.sigmas or 0.0) if share is None else top_fraction(maps, share)
        return soft_edges(region, self.softness)


@dataclass(frozen=True)
class Keep(Action):
    """Keeps what is salient and blurs the rest: Group-CAM's fine-tuning (Zhang, Rao and Yang 2021, Sec. 5).

    B = 1 where the map is greater than its own mean, 0 elsewhere; Ĩ = I ⊙ B + blur(I) ⊙ (1 − B) (Eq. 5).

    Args:
        soft: B is the map itself.
        fill: What shows where B is zero, see ``fill_images``; ``"blur"`` is the paper's.

    Example:
        >>> image, map_ = torch.ones(1, 1, 1, 4), torch.tensor([[[0.0, 0.2, 0.9, 1.0]]])
        >>> Keep(fill="zero")(image, map_, torch.Generator()).pixels
        tensor([[[[0., 0., 1., 1.]]]])
    """

    soft: bool = False
    fill: Fill = "blur"

    def __call__(self, images: Tensor, maps: Tensor, generator: torch.Generator) -> Changed:
        """See `Action`."""
        masks = maps if self.soft else above_mean(maps).float()
        return Changed(blend(images, filled(images, self.fill, generator), masks), masks)


@dataclass(frozen=True)
class Hide(Action):
    """Hides what is salient, so that the network must look elsewhere (MaskTune, Taghanaki et al. 2022).

    Args:
        share: The share of the pixels that is hidden, the most salient ones, in (0, 1).
        sigmas: In the place of a share: hide all pixels above the map's mean by more than so many of its standard
            deviations; 2 is MaskTune's. With neither, a tenth of the pixels is hidden.
        fill: What is shown instead, see ``fill_images``. ``"zero"`` is the data's mean colour where images are
            normalised by it, and tells nothing of the image; ``"mean"`` is the image's own mean colour, in which what
            is hidden takes part.
        softness: How far the region's edge is blurred, as a share of the image's side.

    Raises:
        AugmentationConfigurationError: See `Region`.

    Example:
        >>> image, map_ = torch.ones(1, 1, 1, 4), torch.tensor([[[0.0, 0.2, 0.9, 1.0]]])
        >>> Hide(share=0.25)(image, map_, torch.Generator()).pixels
        tensor([[[[1., 1., 1., 0.]]]])
    """

    share: float | None = None
    sigmas: float | None = None
    fill: Fill = "zero"
    softness: float = 0.0
    region: Region = field(init=False, repr=False, compare=False)
    hides = True

    def __post_init__(self) -> None:
        object.__setattr__(self, "region", Region(self.share, self.sigmas, self.softness))

    @property
    def fixed_share(self) -> float | None:  # type: ignore[override]
        """See `Action`."""
        return self.region.fixed_share

    def __call__(self, images: Tensor, maps: Tensor, generator: torch.Generator) -> Changed:
        """See `Action`."""
        masks = 1 - self.region.of(maps)
        return Changed(blend(images, filled(images, self.fill, generator), masks), masks)


def filled(images: Tensor, fill: Fill, generator: torch.Generator) -> Tensor:
    """What stands in place of hidden pixels; its noise depends on the generator alone, on every device."""
    noise = batch_generator(int(torch.randint(2**31, (), generator=generator)), 0, 0, images.device)
    return fill_images(images, fill, generator=noise)


def apply(action: Action, images: Tensor, maps: Tensor, generator: torch.Generator) -> Changed:
    """What becomes of images; one whose map is constant or not finite stays as it is, with a mask of ones.

    Args:
        action: The action.
        images: ``[n, C, H, W]``, floating point.
        maps: ``[n, H, W]`` float32.
        generator: Source of random numbers, on the CPU.
    """
    usable = maps.isfinite().all(-1).all(-1) & (maps.amax((-2, -1)) > maps.amin((-2, -1)))
    if bool(usable.all()):
        return _checked(action(images, maps, generator), images)
    masks = torch.ones_like(maps, dtype=torch.float32)
    own = torch.arange(len(images)) if getattr(action, "changes_labels", False) else None
    unchanged = Changed(images, masks, own, None if own is None else torch.ones(len(images)))
    rows = usable.nonzero()[:, 0]
    if not len(rows):
        return unchanged
    changed = _checked(action(images[rows], maps[rows], generator), images[rows])
    pixels = images.clone()
    pixels[rows] = changed.pixels
    masks[rows] = changed.masks
    if own is None or changed.partners is None or changed.weights is None:
        return replace(unchanged, pixels=pixels)
    at, weights = rows.cpu(), torch.ones(len(images))
    own[at], weights[at] = at[changed.partners.cpu()], changed.weights.float().cpu()
    return Changed(pixels, masks, own, weights)


def _checked(changed: Changed, images: Tensor) -> Changed:
    if changed.pixels.shape != images.shape or changed.masks.shape != images[:, 0].shape:
        raise ValueError(
            f"Got images {list(changed.pixels.shape)} and masks {list(changed.masks.shape)} from the action for images "
            f"{list(images.shape)}. Allowed are images of the same shape and a mask for each; keep the images' size."
        )
    return changed
