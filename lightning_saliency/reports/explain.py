"""Pictures of explainers' maps of image files: maps, overlays, and one sheet for each image."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from rich.progress import track
from torch import Tensor, nn
from torchvision.transforms import v2

from lightning_saliency.checks import check_choice, did_you_mean
from lightning_saliency.data.image_files import checked_crop, image_files, read_class_names, read_image
from lightning_saliency.explainers import SMOE, Explainer, ExplainerOption, ExplainerSpec, find_explainer
from lightning_saliency.explainers.registry import parse_explainers
from lightning_saliency.files import OwnFiles
from lightning_saliency.functional.statistics import STATISTICS
from lightning_saliency.pictures.tensors import IMAGENET_NORMALIZATION, Picture, png_bytes, to_uint8
from lightning_saliency.reports.explain_pictures import (
    PICTURES,
    class_caption,
    class_probabilities,
    explainer_pictures,
    picture_kinds,
    scale_pictures,
    scale_sheet,
    usage_errors,
)
from lightning_saliency.reports.picture_names import check_no_image_replaced, picture_names

#: Mean and standard deviation that networks want their images normalised by, by name.
NORMALIZATIONS: dict[str, tuple[Sequence[float], Sequence[float]]] = {
    "imagenet": IMAGENET_NORMALIZATION,
    "half": ((0.5,), (0.5,)),
    "none": ((0.0,), (1.0,)),
}

Normalize = Literal["imagenet", "half", "none"]


@dataclass(frozen=True)
class ExplainedImage:
    """The pictures of one image.

    Args:
        file: The image's file.
        name: Beginning of its pictures' names: the file's stem, with as much of the path as makes it unique.
        pictures: Kind -> ``[H, W, 3]`` uint8: those of the scales, such as ``lovi``; for each explainer (and each
            target, if there are several) its map and its overlay; and ``sheet``, all of them, or all of the
            explainers', side by side.
    """

    file: Path
    name: str
    pictures: dict[str, Picture]

    def save(self, folder: str | Path) -> list[Path]:
        """Write each picture as ``<name>_<kind>.png``; returns the files.

        Raises:
            ValueError: If a file of that name was not written so, or was changed since.
        """
        return self._save(OwnFiles(folder))

    def _save(self, own: OwnFiles) -> list[Path]:
        return [own.write(f"{self.name}_{kind}.png", png_bytes(picture)) for kind, picture in self.pictures.items()]


class ExplainedImages(Sequence[ExplainedImage]):
    """What `explain_images` returns: a sequence of `ExplainedImage`, each explained when it is asked for.

    Attributes:
        files: The image files, each once.
        names: Beginning of each file's pictures' names; no two pictures have the same name.
        crop: Side of the centre crop in pixels; 0: the whole image.
    """

    def __init__(
        self,
        files: Sequence[Path],
        model: nn.Module,
        explainers: Mapping[str, Explainer],
        smoe: SMOE | None,
        wanted: Sequence[str],
        targets: Sequence[int],
        class_names: Sequence[str] | None,
        resize: int,
        crop: int,
        normalization: tuple[Sequence[float], Sequence[float]],
        untrained: bool,
        alpha: float,
    ) -> None:
        self.files = list(files)
        self._model, self._explainers, self._targets, self._class_names = model, explainers, targets, class_names
        self._smoe, self._wanted, self._untrained = smoe, wanted, untrained
        self.crop = crop
        self._resize, self._alpha = resize, alpha
        self._normalize = v2.Normalize(list(normalization[0]), list(normalization[1]))
        count = len(self._scale_pictures(self.files[0], ["scales"])) if "scales" in wanted else 0
        self._kinds = picture_kinds(list(explainers), targets, wanted, count)
        self.names = picture_names(self.files, self._kinds)

    def __len__(self) -> int:
        return len(self.files)

    def __getitem__(self, index: Any) -> Any:
        if isinstance(index, slice):
            return [self[place] for place in range(len(self))[index]]
        file = self.files[index]
        shown, images = self._read(file)
        with usage_errors(f"{file} cannot be explained"):
            probabilities, predicted = class_probabilities(self._model, images)
        of_scales = self._scale_pictures(file, self._wanted)
        own = {kind: to_uint8(tile) for kind, (_, tile) in of_scales.items()}
        if not self._explainers:
            caption = class_caption(probabilities, predicted, self._class_names)
            side_by_side = scale_sheet(of_scales, shown, caption, self._untrained)
            return ExplainedImage(file, self.names[index], {**own, "sheet": side_by_side})
        wrong = [target for target in self._targets if not 0 <= target < len(probabilities)]
        if wrong:
            raise ValueError(
                f"Got the target {wrong[0]}. Allowed are the network's classes, 0 to {len(probabilities) - 1}; give "
                "numbers of classes, or none for the predicted class."
            )
        captions = {
            target: class_caption(probabilities, target, self._class_names) for target in self._targets or [predicted]
        }
        pictures = explainer_pictures(self._explainers, shown, images, captions, file, self._untrained, self._alpha)
        return ExplainedImage(file, self.names[index], {**own, **pictures})

    def _read(self, file: Path) -> tuple[Tensor, Tensor]:
        """An image ``[1, 3, H, W]`` in [0, 1], and as the network takes it."""
        shown = read_image(file, self._resize, self.crop)[None]
        return shown, torch.as_tensor(self._normalize(shown)).to(_device_of(self._model))

    def _scale_pictures(self, file: Path, wanted: Sequence[str]) -> dict[str, tuple[str, Tensor]]:
        if self._smoe is None:
            return {}
        shown, images = self._read(file)
        with usage_errors(f"LOVI of {file} failed"):
            return scale_pictures(self._smoe, shown, images, wanted, self._alpha)

    def __iter__(self) -> Iterator[ExplainedImage]:
        return (self[index] for index in range(len(self)))

    def save(self, folder: str | Path = "explained", *, progress: bool = True) -> list[Path]:
        """Explain the images one after the other, and write the pictures of each as ``<name>_<kind>.png``.

        Args:
            folder: Folder of the pictures; it is created.
            progress: Show a progress bar.

        Returns:
            The files written.

        Raises:
            ValueError: If a picture would take the place of an image, or of a file that was not written so or was
                changed since; if the folder is a file, or an image cannot be explained.
        """
        own = OwnFiles(folder)
        pictures = [f"{name}_{kind}.png" for name in self.names for kind in self._kinds]
        check_no_image_replaced([own.folder / picture for picture in pictures], self.files)
        own.check(*pictures)
        written: list[Path] = []
        for explained in track(self, "Explaining", total=len(self), transient=True, disable=not progress):
            written += explained._save(own)
        return written


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
    resize: int = 256,
    crop: int | None = None,
    normalize: Normalize | tuple[Sequence[float], Sequence[float]] = "imagenet",
    untrained: bool = False,
    alpha: float = 0.25,
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
        resize: Shorter side of the images in pixels.
        crop: Side of the centre crop in pixels, at most ``resize``; 0: the whole image; ``None``: 224, or ``resize``
            where that is less.
        normalize: Normalisation of the network's images: ``"imagenet"``, ``"half"`` (to [-1, 1]), ``"none"``
            ([0, 1]) or (mean, std).
        untrained: Stamp the sheets, since the network's weights are random.
        alpha: Share of the grey image in overlays and in ``combined``, in [0, 1]; the rest is the map's colours.

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
    if pictures is None:
        wanted = [] if explainers is not None else ["lovi", "combined"]
    else:
        wanted = [pictures] if isinstance(pictures, str) else list(dict.fromkeys(pictures))
    for name in wanted:
        check_choice("pictures", name, PICTURES)
    found = image_files([images] if isinstance(images, (str, Path)) else images)
    files = list({os.path.abspath(file): file for file in found}.values())
    built: dict[str, Explainer] = {}
    smoe: SMOE | None = None
    if explainers is None or wanted:
        with usage_errors("LOVI cannot be made"):
            smoe = SMOE(model, **shared)
    if explainers is not None:
        for name, spec in _with_shared(_parsed(explainers), shared).items():
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
    shown = (resize, checked_crop(resize, crop), normalization, untrained, alpha)
    return ExplainedImages(files, model, built, smoe, wanted, classes, names, *shown)


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


def _device_of(model: nn.Module) -> torch.device:
    found = next((tensor.device for tensor in (*model.parameters(), *model.buffers())), None)
    return found or torch.device("cpu")
