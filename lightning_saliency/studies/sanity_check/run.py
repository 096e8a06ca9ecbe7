"""Do saliency maps depend on what the network has learnt? Adebayo's test by randomised weights (2018)."""

from __future__ import annotations

import copy
import csv
import io
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from pathlib import Path

import torch
from matplotlib.figure import Figure
from PIL import Image
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from torch import Tensor, nn

from lightning_saliency.explainers import find_explainer
from lightning_saliency.explainers.base import unwrap
from lightning_saliency.explainers.controls import EdgeDetector
from lightning_saliency.files import write_atomically
from lightning_saliency.pictures.tensors import Picture
from lightning_saliency.studies.sanity_check.check import Build, Run
from lightning_saliency.studies.sanity_check.figures import similarity_figure, similarity_sheet
from lightning_saliency.studies.sanity_check.randomization import Layers, layers_from_top, randomize
from lightning_saliency.studies.sanity_check.results import (
    MEASURES,
    MODES,
    Comparison,
    ExplainerCheck,
    Interval,
    Mode,
    Verdict,
    bootstrap_interval,
    keep_check,
    read_check,
)

__all__ = [
    "MEASURES",
    "MODES",
    "Comparison",
    "EdgeDetector",
    "ExplainerCheck",
    "Interval",
    "Layers",
    "SanityCheckResult",
    "Verdict",
    "bootstrap_interval",
    "layers_from_top",
    "randomize",
    "sanity_check",
]

#: The control's name among the results.
CONTROL = "edges"


@dataclass(frozen=True)
class SanityCheckResult:
    """What a sanity check found.

    Args:
        layers: The names of the layers, top to bottom.
        targets: The classes that were explained, one an image.
        checks: One an explainer, the control last.
    """

    layers: tuple[str, ...]
    targets: tuple[int, ...]
    checks: tuple[ExplainerCheck, ...]

    def __getitem__(self, name: str) -> ExplainerCheck:
        """The check of the explainer of that name."""
        for check in self.checks:
            if check.name == name:
                return check
        raise KeyError(f"{name!r} was not checked; these were: {', '.join(check.name for check in self.checks)}")

    def verdicts(self) -> dict[str, Verdict]:
        """Each explainer's."""
        return {check.name: check.verdict() for check in self.checks}

    def to_json(self) -> str:
        """As JSON, without the pictures."""
        checks = [json.loads(check.to_json()) for check in self.checks]
        return json.dumps({"layers": self.layers, "targets": self.targets, "checks": checks}, indent=1, allow_nan=False)

    @classmethod
    def from_json(cls, text: str) -> SanityCheckResult:
        """What ``to_json`` wrote.

        Raises:
            ValueError: If the text is something else.
        """
        try:
            content = json.loads(text)
            checks = tuple(ExplainerCheck.from_json(json.dumps(check)) for check in content["checks"])
            return cls(tuple(content["layers"]), tuple(content["targets"]), checks)
        except (KeyError, TypeError, AttributeError, ValueError) as error:
            raise ValueError(f"Got a text that is no result of a sanity check ({error}). Delete the file.") from error

    def figure(self) -> Figure:
        """The similarities over the layers, see ``similarity_figure``."""
        return similarity_figure(
            self.layers,
            {
                check.name: {
                    mode: {label: check.intervals(mode, measure) for measure, label in MEASURES.items()}
                    for mode in MODES
                }
                for check in self.checks
            },
            {
                check.name: {label: check.random_level(measure) for measure, label in MEASURES.items()}
                for check in self.checks
            },
        )

    def sheet(self, mode: Mode, index: int, images: Tensor) -> Picture:
        """The maps of one image, a row an explainer, see ``similarity_sheet``.

        Args:
            mode: ``"cascading"`` or ``"independent"``.
            index: Of the image, among those whose maps were kept.
            images: ``[B, 3, H, W]`` in [0, 1], as a person sees them.
        """
        maps = {check.name: torch.from_numpy(check.pictures[mode][:, index]).float() / 255 for check in self.checks}
        return similarity_sheet(images[index], maps, self.layers)

    def write(self, folder: Path, images: Tensor | None = None) -> list[Path]:
        """Write ``sanity_check.json``, ``.csv`` and ``.png`` and the sheets of pictures.

        Args:
            folder: Where to; created.
            images: ``[B, 3, H, W]`` in [0, 1], the images as a person sees them, for the sheets
                ``<mode>_<image>.png``; ``None``: no sheets.

        Returns:
            The files, each written under another name and then renamed.
        """
        table = io.StringIO()
        rows = [row for check in self.checks for row in check.rows()]
        fields = ("explainer", "mode", "step", "layers", "measure", "mean", "low", "high", "images", "constant_maps")
        writer = csv.DictWriter(table, fields, lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
        plot = io.BytesIO()
        self.figure().savefig(plot, format="png", dpi=150)
        contents = {
            "sanity_check.json": self.to_json().encode(),
            "sanity_check.csv": table.getvalue().encode(),
            "sanity_check.png": plot.getvalue(),
        }
        if images is not None:
            shown = min(len(images), *(check.shown for check in self.checks))
            for index, mode in product(range(shown), MODES):
                picture = io.BytesIO()
                Image.fromarray(self.sheet(mode, index, images)).save(picture, format="PNG")
                contents[f"{mode}_{index}.png"] = picture.getvalue()
        return [write_atomically(Path(folder) / name, content) for name, content in contents.items()]


def sanity_check(
    model: nn.Module,
    images: Tensor,
    explainers: Sequence[str] | Mapping[str, Build],
    *,
    targets: Tensor | None = None,
    max_steps: int = 20,
    random_networks: int = 3,
    seed: int = 0,
    batch_size: int = 4,
    pictures: int = 0,
    folder: Path | None = None,
    progress: bool = False,
) -> SanityCheckResult:
    """Randomise a network's weights from the top down and compare the maps with the original ones.

    The model parameter randomisation test of Adebayo et al., "Sanity Checks for Saliency Maps" (2018). *Cascading*: the
    weights are replaced from the output downwards, each step keeping those before. *Independent*: one layer at a time,
    all others as trained. The maps, for the original network's classes throughout, are compared image by image by
    ``spearman``, ``ssim`` and ``hog_similarity``. All maps are in [0, 1] and of positive relevance ("absolute" ones).

    *The random-weights level* is the similarity of the maps that several fully randomised networks give for the same
    image: what the explainer's maps share only because they see this image. An explainer whose original maps are more
    like those of the random networks than these are among each other shows what the weights did not cause; one whose
    level is itself high shows mostly the image, whatever the weights. The other end is a Sobel edge detector,
    ``"edges"``, always checked too, whose similarity is 1.

    A constant map (all zero, where no gradient is left; non-finite maps are counted here too) shows nothing: images
    whose original map is constant are left out, later ones count by the similarities' own definition (rank correlation
    and HOG 0), pairs with one make no level, and all are counted.

    Cost: 2 L + R − 1 times the maps of all images, for L steps and R random networks.

    Args:
        model: The network; never changed, all is done on a copy, where it is.
        images: ``[B, C, H, W]``, B ≥ 1, as the network takes them, on its device.
        explainers: Names (``EXPLAINERS``), or names of your own with a function from a network to an explainer. With
            ``folder``, a name stands for its function: give a changed function a new name.
        targets: ``[B]`` int64; ``None``: the classes that the original network predicts.
        max_steps: At most so many steps from top to bottom, see ``layers_from_top``.
        random_networks: R ≥ 2, the fully randomised networks of the level; the cascade's last is one of them.
        seed: Of all random weights and of the bootstrap. The same seed gives the same result.
        batch_size: Images explained at a time.
        pictures: Keep the maps of the first so many images.
        folder: Keep each explainer's result here, in ``explainers/``, as soon as it is there, and take it from there
            where nothing that it depends on has changed.
        progress: Show a progress bar with the time remaining.

    Returns:
        The result, explainers in the order given, ``"edges"`` last.

    Raises:
        ValueError: If an argument is out of range or a name unknown or given twice.

    Example:
        >>> from lightning_saliency.explainers import build_explainer
        >>> head = [nn.Conv2d(4, 2, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten()]
        >>> model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), *head)
        >>> build = lambda network: build_explainer("grad_cam", network, layer="1")
        >>> result = sanity_check(model, torch.rand(2, 3, 16, 16), {"cam": build})
        >>> result.layers, result["edges"].verdict().kind
        (('2', '0'), 'independent')
    """
    builds = _builds(explainers)
    if images.ndim != 4 or not len(images):
        raise ValueError(f"Got images {list(images.shape)}. Allowed are [B, C, H, W] with at least one image.")
    if random_networks < 2:
        raise ValueError(f"Got random_networks={random_networks}. At least 2 are needed to compare; 3 is the default.")
    if batch_size < 1 or pictures < 0:
        raise ValueError(f"Got batch_size={batch_size}, pictures={pictures}. Allowed are from 1, and from 0.")
    network = copy.deepcopy(unwrap(model))
    layers = layers_from_top(network, images, max_steps)
    chunks = [slice(start, start + batch_size) for start in range(0, len(images), batch_size)]
    if targets is None:
        control = EdgeDetector(network)
        targets = torch.cat([control.logits(images[chunk]).argmax(1) for chunk in chunks])
    run = Run(network, images.detach(), targets.to(images.device), layers, random_networks, seed, chunks, pictures)
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    checks = []
    with Progress(*columns, disable=not progress) as bars:
        for name, build in builds.items():
            fingerprint = run.fingerprint(name)
            kept = None if folder is None else read_check(Path(folder), name, fingerprint)
            if kept is None:
                task = bars.add_task(name, total=run.passes)
                kept = run.check(name, build, fingerprint, lambda task=task: bars.advance(task))  # type: ignore[misc]
                if folder is not None:
                    keep_check(Path(folder), kept)
            checks.append(kept)
    return SanityCheckResult(
        tuple(layer.name for layer in layers), tuple(int(target) for target in targets), tuple(checks)
    )


def _builds(explainers: Sequence[str] | Mapping[str, Build]) -> dict[str, Build]:
    """Each explainer's function by name, the control last."""
    names = list(explainers)
    if CONTROL in names or len(set(names)) < len(names) or not names:
        raise ValueError(
            f"Got the explainers {names}. Expected at least one, each once, and none called {CONTROL!r}: that is the "
            "control, which is always checked."
        )
    builds = dict(explainers) if isinstance(explainers, Mapping) else {name: find_explainer(name) for name in names}
    return {**builds, CONTROL: EdgeDetector}
