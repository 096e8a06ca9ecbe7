"""Augmentations under the names that their papers gave them."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

from lightning_saliency.callbacks.augmentation.actions.basic import Hide, Keep
from lightning_saliency.callbacks.augmentation.actions.more import Protect, TransformOption
from lightning_saliency.callbacks.augmentation.callback import SaliencyAugmentation
from lightning_saliency.callbacks.augmentation.one_map.mean_map import SHORTCUT
from lightning_saliency.callbacks.augmentation.options import AugmentationConfigurationError, whole_number
from lightning_saliency.explainers import ExplainerOption, XGradCAM
from lightning_saliency.functional.fills import Fill

#: The settings of ``economy=True``: those that change the maps least, see ``benchmarks/augmentation.py``.
ECONOMY: dict[str, Any] = {"groups": 8, "probability": 0.15, "fast": True}


class GroupCAMAugmentation(SaliencyAugmentation):
    """Fine-tuning with Group-CAM (Zhang, Rao and Yang 2021, Sec. 5): ``SaliencyAugmentation`` as in the paper.

    The guide is Group-CAM of the ground-truth class with G = 16 groups, no gradients and no de-noising; the mask is
    binary, cut at each map's own mean; the rest of the image is blurred. A step then costs G + 2 forward passes more.

    Args:
        groups: G; ``None``: 16, or the economy's 8.
        probability: Probability that an image is replaced, or a schedule of it; ``None``: 1, or the economy's 0.15.
        economy: Where they are not given, take the settings that make a step cost less than one and a half times a
            plain one and hardly change the maps: 8 groups, one image in seven, queries on a copy of the network with
            its BatchNorms folded away, in the precision in which the device is fastest, see `native_precision`.
        gradients: Weight the channels by their gradients, as in Algorithm 1.
        theta: Percentile of the de-noising, in [0, 100]; ``None``: none.
        fast: Score masked images with a faster copy of the network, see ``fast_inference``; ``"compiled"``: and compile
            it, which takes up to a minute at the run's start. ``None``: no, with economy yes.
        soft: Blend with the map itself, not with the binary mask.
        fill: What shows where the mask is zero, see ``fill_images``; ``"blur"`` is the paper's.
        **settings: Other arguments of ``SaliencyAugmentation``.

    Raises:
        AugmentationConfigurationError: As for ``SaliencyAugmentation``, or if an explainer is given: for other
            arguments of Group-CAM, such as its layer, use ``SaliencyAugmentation`` with ``class_path: group_cam``.

    Example:
        >>> GroupCAMAugmentation().probability(epoch=0), GroupCAMAugmentation(economy=True).probability(epoch=0)
        (1.0, 0.15)
    """

    def __init__(
        self,
        groups: int | None = None,
        probability: float | list[list[float]] | None = None,
        *,
        economy: bool = False,
        gradients: bool = False,
        theta: float | None = None,
        fast: bool | Literal["compiled"] | None = None,
        soft: bool = False,
        fill: Fill = "blur",
        **settings: Any,
    ) -> None:
        _refuse(settings, "GroupCAMAugmentation", "keeps what group_cam finds", ("explainer", "action"))
        if groups is not None:
            whole_number("groups", groups, 1)
        given = {"groups": groups, "probability": probability, "fast": fast}
        preset = ECONOMY if economy else {"groups": 16}
        settings = {**preset, **settings, **{name: value for name, value in given.items() if value is not None}}
        own: dict[str, Any] = {name: settings.pop(name) for name in ("groups", "fast") if name in settings}
        own |= {"gradients": gradients, "theta": theta}
        super().__init__({"class_path": "group_cam", "init_args": own}, action=Keep(soft, fill), **settings)


class MaskTune(SaliencyAugmentation):
    """Hides what a trained network leans on, and trains on (MaskTune, Taghanaki et al., NeurIPS 2022).

    As in the paper: the maps are XGrad-CAM's of the ground-truth class, by the network as it was at ``start_epoch``,
    made once; what lies above μ + 2σ of a map is set to zero; training goes on from there, in the paper for one epoch
    at a small learning rate. Where images come back from the data set unchanged, each map is made once.

    ``MaskTune("smoe", share=0.1)`` is guided by SMOE Scale's maps, which need no labels and one forward pass, and hides
    a tenth of each image. Where a mark lies at one place in all images, ``MaskTune("smoe", maps="shortcut")`` hides
    this place as far as it tells the class, and nothing where there is no such place; it needs labels. Without labels,
    ``MaskTune("smoe", share=0.1, maps="mean")`` hides where the mean of all maps is highest, objects in part.

    Args:
        explainer: The guide, see ``SaliencyAugmentation``; ``None``: XGrad-CAM.
        share: The share of the pixels that is hidden, in (0, 1), in the place of ``sigmas``.
        sigmas: Hide all pixels above the map's mean by more than so many of its standard deviations; ``None``: 2 where
            no share is given. With ``maps="shortcut"`` neither is given.
        fill: What is shown instead, see ``Hide``.
        start_epoch: The first epoch, from 0, in which images are masked.
        guide_network: Whose maps they are, see ``SaliencyAugmentation``.
        reuse_epochs: Number of epochs for which a map is used, or ``"all"``.
        name: Prefix of every key and the film's folder.
        **settings: Other arguments of ``SaliencyAugmentation``.

    Raises:
        AugmentationConfigurationError: As for ``SaliencyAugmentation``, or if an action is given.

    Example:
        >>> MaskTune(start_epoch=8).action, MaskTune("smoe", share=0.1).guide.spec.name
        (Hide(share=None, sigmas=2.0, fill='zero', softness=0.0), 'smoe')
    """

    def __init__(
        self,
        explainer: ExplainerOption | None = None,
        share: float | None = None,
        sigmas: float | None = None,
        *,
        fill: Fill = "zero",
        start_epoch: int = 0,
        guide_network: str | Path = "start",
        reuse_epochs: int | Literal["all"] = "all",
        name: str | None = "masktune",
        **settings: Any,
    ) -> None:
        _refuse(settings, "MaskTune", "hides what is salient", ("action",))
        sized = settings.get("maps") == SHORTCUT
        super().__init__(
            XGradCAM if explainer is None else explainer,
            action=Hide(share, 2.0 if share is None and sigmas is None and not sized else sigmas, fill),
            start_epoch=start_epoch,
            guide_network=guide_network,
            reuse_epochs=reuse_epochs,
            name=name,
            **settings,
        )


class KeepAugment(SaliencyAugmentation):
    """A transform that leaves what is salient alone (KeepAugment's selective paste, Gong et al., CVPR 2021).

    The salient region is the share of the image with the highest values of the map, where the paper draws rectangles
    until one holds enough of it; the guide is Grad-CAM, at the cost of one forward pass, where the paper takes the
    gradient of the image.

    Args:
        transform: A transform of torchvision's v2 by its name, ``{"class_path": name, "init_args": {...}}``, or any
            function of an image, see `Protect`.
        explainer: The guide, see ``SaliencyAugmentation``.
        share: The share of the pixels that is protected, in (0, 1).
        softness: How far the region's edge is blurred, as a share of the image's side.
        normalization: How the images were normalised, for transforms of colours, see `Protect`.
        name: Prefix of every key and the film's folder.
        **settings: Other arguments of ``SaliencyAugmentation``.

    Raises:
        AugmentationConfigurationError: As for ``SaliencyAugmentation``, or if an action is given.

    Example:
        >>> KeepAugment("RandomErasing", share=0.3).action.share
        0.3
    """

    def __init__(
        self,
        transform: TransformOption = "RandomErasing",
        explainer: ExplainerOption = "grad_cam",
        *,
        share: float = 0.25,
        softness: float = 0.0,
        normalization: str | list[list[float]] | None = None,
        name: str | None = "keep_augment",
        **settings: Any,
    ) -> None:
        _refuse(settings, "KeepAugment", "protects what is salient", ("action",))
        action = Protect(transform, share, softness=softness, normalization=normalization)
        super().__init__(explainer, action=action, name=name, **settings)


def _refuse(settings: dict[str, Any], preset: str, does: str, taken: tuple[str, ...]) -> None:
    """Raise an error where a preset is given what it decides itself."""
    for name in taken:
        if name in settings:
            raise AugmentationConfigurationError(
                f"Got {name}={settings[name]!r} for {preset}, which {does}. Use SaliencyAugmentation({name}=...) for "
                f"another {name}."
            )
