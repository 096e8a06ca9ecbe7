"""What a sanity check found: similarities, their intervals, verdicts, tables, files and the page that shows them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import product
from pathlib import Path
from typing import Any

import torch
from matplotlib.figure import Figure
from torch import Tensor

from lightning_saliency.checks import plural
from lightning_saliency.pictures.tensors import Picture
from lightning_saliency.reports.html import ReportPicture, Section, render_page
from lightning_saliency.reports.notices import Made, chance_notices, image_notices
from lightning_saliency.reports.tables import Column, Estimate, TableData
from lightning_saliency.studies.engine.files import Content, as_csv, as_json, result_folder, write_results
from lightning_saliency.studies.sanity_check.checks import (
    LAST_MEASURES,
    MEASURED,
    MEASURES,
    RANDOMIZATION_MODES,
    ExplainerCheck,
    RandomizationMode,
)
from lightning_saliency.studies.sanity_check.figures import similarity_figure, similarity_sheet

#: How the captions of the sheets begin, by mode.
_SHEETS = {
    "cascading": "as ever more layers have random weights, from the output downwards (cascading)",
    "independent": "with one group of layers random at a time (independent)",
}


@dataclass(frozen=True)
class SanityCheckResult:
    """What a sanity check found.

    Args:
        layers: Names of the groups of layers, top to bottom.
        targets: The classes that were explained, one per image.
        checks: One for each explainer, the control last.
        shown: Images ``[P, 3, H, W]`` in [0, 1], not normalised, for the sheets of maps; ``None``: no sheets.
        facts: Names and values that describe the check, for the page.
        folder: Where `save` writes by default.
        accuracy: Share of the images that the network gets right; ``None`` where their classes are not known.
        classes: Number of the network's classes.
        labelled: Number of images that the accuracy is of.
    """

    layers: tuple[str, ...]
    targets: tuple[int, ...]
    checks: tuple[ExplainerCheck, ...]
    shown: Tensor | None = field(default=None, compare=False, repr=False)
    facts: Sequence[tuple[str, str]] = ()
    folder: Path | None = None
    accuracy: float | None = None
    classes: int | None = None
    labelled: int | None = None

    def __getitem__(self, name: str) -> ExplainerCheck:
        """The check of the explainer of that name."""
        for check in self.checks:
            if check.name == name:
                return check
        raise KeyError(f"Got {name!r}. Allowed are those checked: {', '.join(check.name for check in self.checks)}.")

    def verdicts(self) -> list[str]:
        """A sentence for each explainer."""
        return [f"{check.name}: {check.verdict().line}" for check in self.checks]

    def table(self) -> TableData:
        """The similarity to the original maps once all weights are random, and that of random networks' maps."""
        groups = {
            "fully_random": "Similarity of random networks' maps to the original maps",
            "level": "Similarity of random networks' maps to one another: the random-weights level",
        }
        columns = [
            Column(f"{kind}_{measure}", label, None, group, about=MEASURED[measure])
            for kind, group in groups.items()
            for measure, label in LAST_MEASURES.items()
        ]
        rows: dict[str, dict[str, Estimate]] = {}
        for check in self.checks:
            found = {f"fully_random_{measure}": check.fully_random(measure) for measure in LAST_MEASURES}
            found |= {f"level_{measure}": check.random_level(measure) for measure in LAST_MEASURES}
            rows[check.name] = {key: estimate for key, estimate in found.items() if estimate is not None}
        caption = (
            f"Similarity of maps once all weights are random; {plural(len(self.targets), 'image')}, 95 % bootstrap "
            "intervals over images and random networks. Maps that show what the network has learnt change: their "
            "Pearson correlation is 0.5 at most, and no similarity lies above that of random networks' maps to one "
            "another."
        )
        return TableData(columns, {"": rows}, caption)

    def tables(self) -> list[TableData]:
        """The table."""
        return [self.table()]

    def __str__(self) -> str:
        return "\n".join([*(table.markdown() for table in self.tables()), *self.verdicts(), self._groups()])

    def figure(self) -> Figure:
        """The similarities over the layers, see `similarity_figure`."""

        def band(estimate: Estimate | None) -> tuple[float, float, float] | None:
            return None if estimate is None else (estimate.value, estimate.low, estimate.high)

        return similarity_figure(
            self.layers,
            {
                check.name: {
                    mode: {
                        label: [found for one in check.intervals(mode, measure) if (found := band(one)) is not None]
                        for measure, label in MEASURES.items()
                    }
                    for mode in RANDOMIZATION_MODES
                }
                for check in self.checks
            },
            {
                check.name: {label: band(check.random_level(measure)) for measure, label in MEASURES.items()}
                for check in self.checks
            },
        )

    def sheet(self, mode: RandomizationMode, index: int) -> Picture:
        """The maps of one image, one row per explainer, see `similarity_sheet`.

        Args:
            mode: ``"cascading"`` or ``"independent"``.
            index: Number of the image, among those whose maps were kept.

        Raises:
            ValueError: If no images were kept.
        """
        if self.shown is None:
            raise ValueError("Got a result without images. Run the check with pictures=1 or more.")
        maps = {check.name: torch.from_numpy(check.pictures[mode][:, index]).float() / 255 for check in self.checks}
        return similarity_sheet(self.shown[index], maps, self.layers)

    def sheets(self) -> dict[str, Picture]:
        """All sheets by the names of their files."""
        count = 0 if self.shown is None else min(len(self.shown), *(check.shown for check in self.checks))
        return {
            f"{mode}_{index}": self.sheet(mode, index) for index, mode in product(range(count), RANDOMIZATION_MODES)
        }

    def notices(self) -> list[str]:
        """Whether the network is at chance, and whether there are too few images for intervals."""
        chance = chance_notices("The network", self.accuracy, self.classes, self.labelled)
        return [*chance, *image_notices(len(self.targets))]

    def sections(self) -> list[Section]:
        """The parts of the page."""
        text = [
            "The weights are replaced by random ones from the output downwards, each step keeping those before "
            "(cascading), or one group of layers at a time (independent). Maps that stay as they are explain nothing "
            "that the network has learnt.",
            *self.verdicts(),
        ]
        about = (
            "Similarity to the original maps as more and more layers have random weights (cascading, above), and with "
            "each group of layers random by itself (independent, below); 1: the same map. Shaded: 95 % intervals. "
            + self._groups()
        )
        curves = ReportPicture(self.figure(), about)
        parts = [Section("Similarity under random weights", text, self.tables(), [curves])]
        if sheets := self.sheets():
            pictures = [ReportPicture(sheet, _caption(name)) for name, sheet in sheets.items()]
            parts.append(Section("Maps", (), (), pictures))
        return parts

    def save(self, folder: str | Path | None = None, *, made: Made | None = None) -> list[Path]:
        """Write everything.

        Args:
            folder: For ``report.html``, ``table.md``, ``similarities.csv``, ``results.json``, ``similarities.png`` and
                the sheets ``<mode>_<image>.png``. ``None``: the check's own folder.
            made: How the page was made, for its facts.

        Returns:
            The files.

        Raises:
            ValueError: If there is no folder, or a file in it was not written so or was changed since.
        """
        folder = result_folder(folder, self.folder)
        files: dict[str, Content] = {
            "report.html": render_page(
                "Sanity check by randomised weights", self.sections(), self.facts, notices=self.notices(), made=made
            ),
            "table.md": str(self),
            "similarities.csv": self._csv(),
            "results.json": as_json(self.as_dict()),
            "similarities.png": self.figure(),
            **{f"{name}.png": sheet for name, sheet in self.sheets().items()},
        }
        return write_results(folder, files)

    def as_dict(self) -> dict[str, Any]:
        """All similarities and verdicts as plain values."""
        return {
            "layers": list(self.layers),
            "targets": list(self.targets),
            "checks": [check.as_dict() for check in self.checks],
            "facts": dict(self.facts),
        }

    def _groups(self) -> str:
        return (
            f"Groups of layers: {', '.join(f'{number} {layer}' for number, layer in enumerate(self.layers, start=1))}."
        )

    def _csv(self) -> str:
        fields = ("explainer", "mode", "step", "layers", "measure", "mean", "low", "high", "images", "constant_maps")
        rows = [row for check in self.checks for row in check.rows()]
        return as_csv([fields, *([row[name] for name in fields] for row in rows)])


def _caption(name: str) -> str:
    """The caption of a sheet by the name of its file.

    >>> _caption("independent_0")
    'Image 1: its maps with one group of layers random at a time (independent). Dark: little, yellow: much.'
    """
    mode, _, index = name.partition("_")
    return f"Image {int(index) + 1}: its maps {_SHEETS[mode]}. Dark: little, yellow: much."
