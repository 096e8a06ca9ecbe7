"""Do saliency maps depend on what the network has learnt? Adebayo's test by randomised weights (2018)."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import nn

from lightning_saliency import __version__
from lightning_saliency.checks import plural
from lightning_saliency.explainers import ExplainerSpec
from lightning_saliency.explainers.base import undisturbed, unwrap
from lightning_saliency.explainers.controls import EdgeDetector
from lightning_saliency.files import safe_name
from lightning_saliency.functional.class_scores import class_count, predicted_classes
from lightning_saliency.networks import weights_fingerprint
from lightning_saliency.pictures.tensors import displayable
from lightning_saliency.studies.costs import timing_cell
from lightning_saliency.studies.engine.cell import Cell
from lightning_saliency.studies.engine.plan import Plan, plan_row
from lightning_saliency.studies.engine.run import run_cells
from lightning_saliency.studies.engine.shared import sharing
from lightning_saliency.studies.recipes import (
    Recipe,
    check_classes,
    chosen_device,
    data_recipe,
    device_of,
    model_recipe,
    network_from,
)
from lightning_saliency.studies.samples import Samples
from lightning_saliency.studies.sanity_check.cells import LAST_SIMILARITIES, Randomization, check_block, time_map
from lightning_saliency.studies.sanity_check.checks import ExplainerCheck
from lightning_saliency.studies.sanity_check.config import SanityCheckConfig
from lightning_saliency.studies.sanity_check.randomization import layers_from_top
from lightning_saliency.studies.sanity_check.results import SanityCheckResult


def run_sanity_check(
    config: SanityCheckConfig | None = None, /, *, progress: bool = True, **options: Any
) -> SanityCheckResult:
    """Randomise a network's weights from the top down and compare the maps with the original ones.

    The model parameter randomisation test of Adebayo et al., "Sanity Checks for Saliency Maps" (2018). *Cascading*: the
    weights are replaced from the output downwards, each step keeping those before. *Independent*: one layer at a time,
    all others as trained. The maps, for the original network's classes throughout, are compared image by image by
    ``spearman``, ``ssim`` and ``hog_similarity``; once all weights are random also by ``pearson``, which tells how much
    of a map stays. All maps are in [0, 1] and of positive relevance ("absolute" ones).

    *The random-weights level* is the similarity of the maps that several fully randomised networks give for the same
    image: what the explainer's maps share only because they see this image. An explainer whose original maps are more
    like those of the random networks than these are among each other shows what the weights did not cause. One whose
    original maps are as like them as a Pearson correlation above 0.5 shows the image more than the weights, at whatever
    level (see `verdict_of`); a Sobel edge detector, ``"edges"``, always checked too, has 1.

    A constant map (all zero, where no gradient is left; non-finite maps are counted here too) shows nothing: images
    whose original map is constant are left out, later ones count by the similarities' own definition (rank correlation
    and HOG 0), pairs with one make no level, and all are counted.

    Cost: 2 L + R − 1 times the maps of all images, for L steps and R random networks, and the original ones.

    Args:
        config: The check; or its fields as options.
        progress: Whether a bar with the time left is shown on the error stream.
        **options: The fields of `SanityCheckConfig`, where no config is given.

    Returns:
        The result, explainers in the order given, ``"edges"`` last; ``print(result)`` shows the table and the verdicts,
        ``result.save(folder)`` writes tables, figures and one HTML page.

    Raises:
        CellError: If an explainer failed; the other cells are still computed.
        StaleResultsError: If the output folder holds results of other weights, images or options.
        TypeError: If an option does not exist.
        ValueError: If an argument is out of range or a name unknown.

    Example:
        >>> from lightning_saliency.explainers import GradCAM
        >>> head = [nn.Conv2d(4, 2, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten()]
        >>> model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), *head)
        >>> explainers = {"cam": {"class_path": "grad_cam", "init_args": {"layer": "1"}}}
        >>> result = run_sanity_check(model=model, data=torch.rand(2, 3, 16, 16), explainers=explainers, progress=False)
        >>> result.layers, result["edges"].verdict().kind
        (('2', '0'), 'insensitive')
    """
    config = SanityCheckConfig(**options) if config is None else config
    with _opened(config) as study:
        study.check()
        results = run_cells(study.cells(), study.folder / "cells", **config.engine_options(), progress=progress)
        return study.result(results)


def plan_sanity_check(config: SanityCheckConfig | None = None, /, **options: Any) -> Plan:
    """What a sanity check costs, without running it.

    The time is estimated from finished cells, or else from one map of each explainer, which is timed here and
    now.

    Args:
        config: The check; or its fields as options.
        **options: As for `run_sanity_check`.

    Returns:
        A row for each explainer; ``print(plan)`` shows them.
    """
    config = SanityCheckConfig(**options) if config is None else config
    with _opened(config) as study:
        return study.plan()


class _Study:
    """A sanity check with what its cells share."""

    def __init__(self, config: SanityCheckConfig, folder: Path, model: Recipe, data: Recipe, samples: Samples) -> None:
        self.config, self.folder = config, folder
        self.model, self.data, self.samples = model, data, samples
        self.device = chosen_device(config.device)
        network = unwrap(network_from(model, self.device))
        first = samples[0].image[None].to(device_of(network))
        with undisturbed(network):
            layers = layers_from_top(network, first, config.max_steps)
        self.randomization = Randomization(layers, config.random_networks, config.seed)
        count = len(samples)
        self.spans = [(start, min(start + config.batch_size, count)) for start in range(0, count, config.batch_size)]
        self.targets, self.right, self.classes = self._targets(network)

    def check(self) -> None:
        """Build every explainer: what is wrong is found before anything is computed."""
        for explainer in self.config.explainers.values():
            explainer(network_from(self.model))

    def cells(self) -> list[Cell]:
        """Block by block of the images, all explainers."""
        content = {
            "weights": weights_fingerprint(network_from(self.model)),
            "images": self.samples.fingerprint(),
            "randomisation": {
                "layers": [[layer.name, list(layer.modules)] for layer in self.randomization.layers],
                "networks": self.config.random_networks,
                "seed": self.config.seed,
            },
            "batch_size": self.config.batch_size,
            "similarities": list(LAST_SIMILARITIES),
            "version": __version__,
        }
        cells = []
        for number, span in enumerate(self.spans):
            targets = self.targets[span[0] : span[1]]
            pictures = max(0, min(self.config.pictures, span[1]) - span[0])
            for name, explainer in self.config.explainers.items():
                arguments = {
                    "model": self.model,
                    "explainer": explainer,
                    "data": self.data,
                    "targets": targets,
                    "span": span,
                    "randomization": self.randomization,
                    "pictures": pictures,
                    "device": self.device,
                }
                own = {"explainer options": explainer.plain(), "targets": targets, "pictures": pictures}
                cells.append(
                    Cell(self._name(number, name), check_block, arguments, {**own, **content}, name, span[1] - span[0])
                )
        return cells

    def result(self, results: Mapping[str, Mapping[str, Any]]) -> SanityCheckResult:
        """Put the results of all cells in order."""
        layers = tuple(layer.name for layer in self.randomization.layers)
        numbers = range(len(self.spans))
        checks = tuple(
            ExplainerCheck.gather(
                name, [results[self._name(number, name)] for number in numbers], layers, self.config.seed
            )
            for name in self.config.explainers
        )
        shown = None
        if self.config.pictures:
            first = torch.stack(
                [self.samples[index].image for index in range(min(self.config.pictures, len(self.samples)))]
            )
            shown, _ = displayable(first, self.samples.normalization)
        facts = [
            ("network", type(unwrap(network_from(self.model))).__name__),
            ("images", self.samples.description()),
            ("explainers", "; ".join(str(spec) for spec in self.config.explainers.values())),
            ("random networks", str(self.config.random_networks)),
            ("seed", str(self.config.seed)),
        ]
        folder = None if self.config.output is None else self.folder
        accuracy = sum(self.right) / len(self.right) if self.right else None
        if accuracy is not None:
            facts.insert(1, ("accuracy", f"{100 * accuracy:.1f} % of {plural(len(self.right), 'image')}"))
        return SanityCheckResult(
            layers,
            tuple(self.targets),
            checks,
            shown,
            facts,
            folder,
            accuracy=accuracy,
            classes=self.classes,
            labelled=len(self.right),
        )

    def plan(self) -> Plan:
        """What is left to be done."""
        cells, folder = self.cells(), self.folder / "cells"
        timings = {name: self._timing(name, explainer) for name, explainer in self.config.explainers.items()}
        found = run_cells(list(timings.values()), self.folder / "costs", progress=False)
        maps = 2 * len(self.randomization.layers) + self.config.random_networks
        rows = []
        for name, timing in timings.items():
            own = [cell for cell in cells if cell.group == name]
            each = maps * len(self.samples) / len(own)
            cost = found[timing.name]
            rows.append(plan_row(name, folder, own, 0, each * cost["passes"], 0, each * cost["seconds"]))
        return Plan(rows, self.config.plan_workers())

    def _timing(self, name: str, explainer: ExplainerSpec) -> Cell:
        arguments = {
            "model": self.model,
            "explainer": explainer,
            "data": self.data,
            "target": self.targets[0],
            "device": self.device,
        }
        weights = weights_fingerprint(network_from(self.model))
        content = {"weights": weights, "explainer options": explainer.plain(), "device": self.device}
        return timing_cell(safe_name(name), time_map, arguments, content)

    def _targets(self, network: nn.Module) -> tuple[list[int], list[bool], int]:
        """The classes that are explained, those given or those that the original network predicts.

        Then, for each image whose class is known, whether the network is right (not where the classes are given to be
        explained), and the number of classes.
        """
        control, targets, right = EdgeDetector(network), [], []
        classes, given = 0, self.config.targets is not None
        for span in self.spans:
            chosen = [self.samples[index] for index in range(*span)]
            logits = control.logits(torch.stack([sample.image for sample in chosen]).to(device_of(network)))
            if given:
                check_classes(self.samples, logits, type(network).__name__)
            predicted, classes = predicted_classes(logits).tolist(), class_count(logits)
            for sample, target in zip(chosen, predicted, strict=True):
                known = [index for candidates in sample.candidates for index in candidates]
                targets.append(known[0] if given else target)
                right += [target in known] if known and not given else []
        return targets, right, classes

    @staticmethod
    def _name(number: int, name: str) -> str:
        return f"{number:05d}-{safe_name(name)}"


@contextmanager
def _opened(config: SanityCheckConfig) -> Iterator[_Study]:
    """The check, with its network and images shared for as long as it is computed."""
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary).resolve() if config.output is None else config.folder
        with sharing(folder, config.elsewhere) as share:
            model = model_recipe(config.model, "model", share)
            data, samples = data_recipe(config.data, config.targets, config.limit, config.seed, share)
            yield _Study(config, folder, model, data, samples)
