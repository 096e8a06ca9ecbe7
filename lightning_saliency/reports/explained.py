"""The pictures of explained images: made when they are asked for, written into a folder, shown on a page."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from rich.progress import track
from torch import Tensor, nn
from torchvision.transforms import v2

from lightning_saliency.data.image_files import read_image
from lightning_saliency.explainers import SMOE, Explainer
from lightning_saliency.files import OwnFiles
from lightning_saliency.pictures.tensors import Picture, png_bytes, to_uint8
from lightning_saliency.reports.explain_masks import explainers_with_masks, without_masks_note
from lightning_saliency.reports.explain_page import PAGE, PAGE_IMAGES, explained_page, image_section
from lightning_saliency.reports.explain_pictures import (
    KEPT_REMOVED,
    Drawing,
    class_caption,
    class_probabilities,
    explainer_pictures,
    kept_removed_sheet,
    picture_kinds,
    scale_pictures,
    scale_sheet,
    usage_errors,
)
from lightning_saliency.reports.html import Section
from lightning_saliency.reports.notices import Made
from lightning_saliency.reports.picture_names import check_no_image_replaced, picture_names


@dataclass(frozen=True)
class ExplainedImage:
    """The pictures of one image.

    Args:
        file: The image's file.
        name: Beginning of its pictures' names: the file's stem, with as much of the path as makes it unique.
        pictures: Kind -> ``[H, W, 3]`` uint8: those of the scales, such as ``lovi``; for each explainer (and each
            target, if there are several) its map, its overlay and, on request, the sheet of its masks, such as
            ``sise_masks``; on request ``kept_removed``; and ``sheet``, all of them, or all of the explainers', side by
            side.
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
        notices: What was asked for and cannot be, such as the masks of an explainer that scores none.
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
        drawing: Drawing,
        facts: Sequence[tuple[str, str]] = (),
    ) -> None:
        self.files = list(files)
        self._model, self._explainers, self._targets, self._class_names = model, explainers, targets, class_names
        self._smoe, self._wanted, self._drawing, self._facts = smoe, wanted, drawing, facts
        self.crop = drawing.crop
        self._normalize = v2.Normalize(*map(list, drawing.normalization))
        masked = [] if drawing.masks is None else explainers_with_masks(explainers, drawing.masks)
        self.notices = [] if drawing.masks is None else list(filter(None, [without_masks_note(explainers, masked)]))
        count = len(self._scale_pictures(self.files[0], ["scales"])) if "scales" in wanted else 0
        kept = bool(drawing.fractions)
        self._kinds = picture_kinds(list(explainers), targets, wanted, count, masked, kept)
        self._has_page = kept or bool(masked)
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
            if self._smoe is not None and self._drawing.fractions:
                maps = {"combined": self._smoe(images)[0].cpu()}
                own[KEPT_REMOVED] = kept_removed_sheet(shown[0], maps, self._drawing)
            side_by_side = scale_sheet(of_scales, shown, caption, self._drawing.untrained)
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
        pictures = explainer_pictures(self._explainers, shown, images, captions, file, self._drawing)
        return ExplainedImage(file, self.names[index], {**own, **pictures})

    def _read(self, file: Path) -> tuple[Tensor, Tensor]:
        """An image ``[1, 3, H, W]`` in [0, 1], and as the network takes it."""
        shown = read_image(file, self._drawing.resize, self.crop)[None]
        return shown, torch.as_tensor(self._normalize(shown)).to(_device_of(self._model))

    def _scale_pictures(self, file: Path, wanted: Sequence[str]) -> dict[str, tuple[str, Tensor]]:
        if self._smoe is None:
            return {}
        shown, images = self._read(file)
        with usage_errors(f"LOVI of {file} failed"):
            return scale_pictures(self._smoe, shown, images, wanted, self._drawing.alpha)

    def __iter__(self) -> Iterator[ExplainedImage]:
        return (self[index] for index in range(len(self)))

    def save(self, folder: str | Path = "explained", *, progress: bool = True, made: Made | None = None) -> list[Path]:
        """Explain the images one after the other, and write the pictures of each as ``<name>_<kind>.png``.

        Where sheets of masks or of kept and removed pixels are asked for, ``report.html`` shows all sheets.

        Args:
            folder: Folder of the pictures; it is created.
            progress: Show a progress bar.
            made: How the page was made, for its facts.

        Returns:
            The files written, the page last.

        Raises:
            ValueError: If a picture would take the place of an image, or of a file that was not written so or was
                changed since; if the folder is a file, or an image cannot be explained.
        """
        own = OwnFiles(folder)
        pictures = [f"{name}_{kind}.png" for name in self.names for kind in self._kinds]
        check_no_image_replaced([own.folder / picture for picture in pictures], self.files)
        own.check(*pictures, *([PAGE] if self._has_page else []))
        written: list[Path] = []
        sections: list[Section] = []
        for explained in track(self, "Explaining", total=len(self), transient=True, disable=not progress):
            written += explained._save(own)
            if self._has_page and len(sections) < PAGE_IMAGES:
                sections.append(image_section(explained.file.name, explained.pictures))
        if self._has_page:
            page = explained_page(sections, len(self), self._facts, self.notices, self._drawing, made)
            written.append(own.write(PAGE, page))
        return written


def _device_of(model: nn.Module) -> torch.device:
    found = next((tensor.device for tensor in (*model.parameters(), *model.buffers())), None)
    return found or torch.device("cpu")
