"""The Group-CAM paper's augmentation: masks of its own maps."""

from __future__ import annotations

from typing import Any, Literal

from lightning_saliency.callbacks.augmentation.actions import Keep
from lightning_saliency.callbacks.augmentation.callback import SaliencyAugmentation
from lightning_saliency.callbacks.augmentation.options import AugmentationConfigurationError
from lightning_saliency.functional.fills import Fill

#: The settings of ``economy=True``: those that change the maps least, see ``benchmarks/augmentation.py``.
ECONOMY: dict[str, Any] = {"groups": 8, "probability": 0.15, "precision": "bf16", "fast": True}


class GroupCAMAugmentation(SaliencyAugmentation):
    """Fine-tuning with Group-CAM (Zhang, Rao and Yang 2021, Sec. 5): ``SaliencyAugmentation`` as in the paper.

    The guide is Group-CAM of the ground-truth class with G = 16 groups, no gradients and no de-noising; the mask is
    binary, cut at each map's own mean; the rest of the image is blurred. A step then costs G + 2 forward passes more.

    Args:
        groups: G; ``None``: 16, or the economy's 8.
        probability: Probability that an image is replaced, or a schedule of it; ``None``: 1, or the economy's 0.15.
        economy: Where they are not given, take the settings that make a step cost less than one and a half times a
            plain one and hardly change the maps: 8 groups, one image in seven, queries in bfloat16 on a copy of the
            network with its BatchNorms folded away.
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
        for taken in sorted({"explainer", "action"} & settings.keys()):
            raise AugmentationConfigurationError(
                f"Got {taken}={settings[taken]!r} for GroupCAMAugmentation, which keeps what group_cam finds. Use "
                f"SaliencyAugmentation({taken}=...) for another {taken}, or for more of Group-CAM's own arguments."
            )
        given = {"groups": groups, "probability": probability, "fast": fast}
        preset = ECONOMY if economy else {"groups": 16}
        settings = {**preset, **settings, **{name: value for name, value in given.items() if value is not None}}
        own: dict[str, Any] = {name: settings.pop(name) for name in ("groups", "fast") if name in settings}
        own |= {"gradients": gradients, "theta": theta}
        super().__init__({"class_path": "group_cam", "init_args": own}, action=Keep(soft, fill), **settings)
