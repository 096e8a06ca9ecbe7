"""Pictures of explainers' maps of image files: maps, overlays, and one sheet for each image."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

from torch import nn

from lightning_saliency.checks import check_choice, check_minimum, did_you_mean
from lightning_saliency.data.image_files import Resize, checked_crop, image_files, read_class_names
from lightning_saliency.explainers import SMOE, Explainer, ExplainerOption, ExplainerSpec, find_explainer
from lightning_saliency.explainers.registry import parse_explainers
from lightning_saliency.functional.statistics import STATISTICS
from lightning_saliency.pictures.tensors import IMAGENET_NORMALIZATION
from lightning_saliency.reports.explain_pictures import PICTURES, Drawing, usage_errors
from lightning_saliency.reports.explained import ExplainedImages
from lightning_saliency.reports.masked_pixels import check_fractions

#: Mean and standard deviation that networks want their images normalised by, by name.
NORMALIZATIONS: dict[str, tuple[Sequence[float], Sequence[float]]] = {
    "imagenet": IMAGENET_NORMALIZATION,
    "half": ((0.5,), (0.5,)),
    "none": ((0.0,), (1.0,)),
}

Normalize = Literal["imagenet", "half", "none"]


def explain_images(
    images: str | Path | Sequence[str | Path],
    model: nn.Module,
    explainers: Iterable[str] | Mapping[str, ExplainerOption | None] | None = None,
    *,
    pictures: Sequence[str] | None = None,
    targets: Sequence[int] = (),
    statistic: str | None = None,
    weights: str | Sequence[float] | None = None,
    layers: Sequence[str] | None = None,
    class_names: str | Path | Sequence[str] | None = None,
    resize: Resize = 256,
    crop: int | None = None,
    normalize: Normalize | tuple[Sequence[float], Sequence[float]] = "imagenet",
    untrained: bool = False,
    alpha: float = 0.25,
    masks: int | None = None,
    fractions: Sequence[float] = (),
) -> ExplainedImages:
    """Pictures of explainers' maps of image files.

    Args:
        images: Image files, or folders of them.
        model: The network; it is run in eval mode and left as it was.
        explainers: A list of names; or a mapping from the name in the sheet to an explainer in any form, see
            `lightning_saliency.explainers.parse_explainers`. The name of a statistic stands for SMOE with it. ``None``:
            pictures of the scales alone.
        pictures: Pictures of the scales, which are of no class: ``"lovi"`` (all in one), ``"combined"`` (the combined
            SMOE map over the grey image), ``"overlay"`` (the deeper half over the photo), ``"map"`` (the combined map
            by itself), ``"scales"`` (each by itself). ``None``: the first two, and none where there are explainers.
        targets: Numbers of the classes that the explainers explain; empty: the predicted class.
        statistic: Statistic of the activations for LOVI, and for explainers that take one and have none of their own.
        weights: Weights of the scales, for the same: ``"equal"``, ``"prior"``, ``"ramp"`` or a number for each scale.
        layers: Dotted paths of the modules that are read in place of the scales found, for the same.
        class_names: Names of the network's classes, for captions; or a file of them, see
            `lightning_saliency.data.image_files.read_class_names`.
        resize: Shorter side of the images in pixels; or both sides, (H, W), which may change their shape.
        crop: Side of the centre crop in pixels, at most ``resize``; 0: the whole image; ``None``: 224, or ``resize``
            where that is less; beside both sides the whole image.
        normalize: Normalisation of the network's images: ``"imagenet"``, ``"half"`` (to [-1, 1]), ``"none"``
            ([0, 1]) or (mean, std).
        untrained: Stamp the sheets, since the network's weights are random.
        alpha: Share of the grey image in overlays and in ``combined``, in [0, 1]; the rest is the map's colours.
        masks: Draw the masks with which each explainer asks the network, so many of each block (SISE paper, Fig. 4), on
            a sheet for each explainer; see ``MaskScoringExplainer.mask_blocks``. Explainers that score no masks have no
            such sheet; they are named in ``notices``. ``None``: none.
        fractions: Draw each image with so large shares of its most salient pixels kept, and removed (SMOE paper, Fig. 3
            and 9), a row for each map; without explainers, for the combined SMOE map. In (0, 1). Removed pixels have
            the mean colour, by which ``normalize`` shifts the images, and are grey where that is not known.

    Returns:
        A sequence of the images' pictures, each made when it is asked for; ``.save(folder)`` writes them all.

    Raises:
        ImportError: If an explainer needs a package that is not installed.
        TypeError: If an explainer has no such option.
        ValueError: If a file, a name or an option is wrong, or the network cannot be explained with these options.

    Example:
        >>> import tempfile
        >>> from lightning_saliency.networks import small_cnn
        >>> folder = tempfile.TemporaryDirectory()
        >>> from PIL import Image
        >>> Image.new("RGB", (40, 30), "red").save(f"{folder.name}/red.png")
        >>> explained = explain_images(folder.name, small_cnn(), ["grad_cam", "fast_cam"], resize=32, crop=32)
        >>> list(explained[0].pictures)
        ['grad_cam', 'grad_cam_overlay', 'fast_cam', 'fast_cam_overlay', 'sheet']
        >>> [file.name for file in explained.save(f"{folder.name}/out", progress=False)][-1]
        'red_sheet.png'
        >>> folder.cleanup()
    """
    given: dict[str, Any] = {"statistic": statistic, "weights": weights, "layers": layers}
    shared = {name: value for name, value in given.items() if value is not None}
    if targets and explainers is None:
        raise ValueError(
            "Got targets without explainers. LOVI pictures are of no class; name explainers, or leave targets out."
        )
    if masks is not None:
        check_minimum("masks", masks, 1, "give one, or leave masks out")
    check_fractions(fractions)
    if pictures is None:
        wanted = [] if explainers is not None else ["lovi", "combined"]
    else:
        wanted = [pictures] if isinstance(pictures, str) else list(dict.fromkeys(pictures))
    for name in wanted:
        check_choice("pictures", name, PICTURES)
    found = image_files([images] if isinstance(images, (str, Path)) else images)
    files = list({os.path.abspath(file): file for file in found}.values())
    built: dict[str, Explainer] = {}
    specs: dict[str, ExplainerSpec] = {}
    smoe: SMOE | None = None
    if explainers is None or wanted:
        with usage_errors("LOVI cannot be made"):
            smoe = SMOE(model, **shared)
    if explainers is not None:
        specs = _with_shared(_parsed(explainers), shared)
        for name, spec in specs.items():
            with usage_errors(f"{spec} cannot be made"):
                built[name] = spec(model)
    names = read_class_names(class_names) if isinstance(class_names, (str, Path)) else class_names
    if isinstance(normalize, str) and normalize not in NORMALIZATIONS:
        raise ValueError(
            f"Got normalize={normalize!r}. Allowed are "
            f"{', '.join(NORMALIZATIONS)} and (mean, std).{did_you_mean(normalize, NORMALIZATIONS)}"
        )
    normalization = NORMALIZATIONS[normalize] if isinstance(normalize, str) else normalize
    if not 0 <= alpha <= 1:
        raise ValueError(f"Got alpha={alpha}. Allowed are shares of the grey image in [0, 1]; give one.")
    classes = list(dict.fromkeys(targets))
    facts = [
        (
            "explainers",
            "; ".join(str(spec) if spec.name == name else f"{name}: {spec}" for name, spec in specs.items()),
        ),
        ("classes", ", ".join(map(str, classes)) or "the predicted one"),
    ]
    shares = tuple(dict.fromkeys(fractions))
    drawing = Drawing(resize, checked_crop(resize, crop), normalization, untrained, alpha, masks, shares)
    return ExplainedImages(files, model, built, smoe, wanted, classes, names, drawing, facts if specs else [])


def _parsed(explainers: Iterable[str] | Mapping[str, ExplainerOption | None]) -> dict[str, ExplainerSpec]:
    """The explainers, where the name of a statistic stands for SMOE with it."""
    names = [explainers] if isinstance(explainers, str) else list(explainers)
    rows: dict[str, Any] = dict(explainers) if isinstance(explainers, Mapping) else dict.fromkeys(names)
    for name, row in rows.items():
        called_like_it = row is None or (isinstance(row, Mapping) and not set(row) - {"init_args"})
        if called_like_it and name in STATISTICS:
            own = dict((row or {}).get("init_args") or {})
            rows[name] = {"class_path": "smoe", "init_args": {"statistic": name, **own}}
        elif called_like_it:
            find_explainer(name, others=STATISTICS)
    return parse_explainers(rows)


def _with_shared(specs: Mapping[str, ExplainerSpec], shared: Mapping[str, Any]) -> dict[str, ExplainerSpec]:
    """The options for all explainers, given to each one without its own."""
    found = {}
    for name, spec in specs.items():
        own = [option for option in spec.options if option != "statistic" or name not in STATISTICS]
        for option, value in shared.items():
            if option not in own:
                raise ValueError(
                    f"Got {option}={value} for {name}, which takes {', '.join(own)}. Allowed is {option} where each "
                    f"explainer takes it; leave {option} out, or put it into the init_args of those that do."
                )
        found[name] = spec.with_defaults(**shared)
    return found
