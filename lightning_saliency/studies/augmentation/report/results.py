"""What a comparison of augmentations found: differences, their intervals, verdicts, files and the page."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

from lightning_saliency.files import safe_names
from lightning_saliency.reports.html import ReportPicture, Section, render_page
from lightning_saliency.reports.notices import Made, chance_notices, seed_notices
from lightning_saliency.reports.tables import Column, Estimate, TableData
from lightning_saliency.studies.augmentation.biases import BIASES
from lightning_saliency.studies.augmentation.config import BEFORE, HONEST, Budget
from lightning_saliency.studies.augmentation.grid import ArmRun, AugmentationGrid, Beginning, Costs
from lightning_saliency.studies.augmentation.groups import (
    NUMBERS,
    Number,
    numbers_by_seed,
    numbers_of_all,
)
from lightning_saliency.studies.augmentation.report.comparing import arm_estimates, reached, verdict
from lightning_saliency.studies.augmentation.report.figures import Role, difference_figure
from lightning_saliency.studies.augmentation.report.texts import caption, facts, runs_csv, summary_csv
from lightning_saliency.studies.engine.files import Content, as_json, finite_or_none, result_folder, write_results

#: Names of the budgets in tables.
BUDGET_NAMES: dict[Budget, str] = {"steps": "equal steps", "time": "equal wall time"}

_GAP = f"share of the gap between {BEFORE} and {HONEST} that is closed, in %"

_POINTED = "where the maps of the validation images point, 0 to 1"
#: What columns ask, below the tables of the page.
_DIFFERENCE = "how many percentage points an arm is above the one that is named, seed by seed"
_BIASED = (
    "how far the maps of many images point to one place that gives the class away",
    "how far they point to colours or contrasts that give it away, wherever these are",
)
_KEPT = (
    "the share of the replaced images' pixels that are still their own; the rest is blurred, filled or another image's"
)

#: Model -> budget -> arm -> seed -> the result of its run.
Runs = dict[str, dict[Budget, dict[str, dict[int, dict[str, Any]]]]]


@dataclass
class AugmentationResult:
    """The results of a comparison of augmentations.

    Args:
        runs: Model -> budget -> arm -> seed -> ``accuracy`` on the test images in [0, 1], ``val_best``, ``steps``, …
            Beside the arms "before fine-tuning", the network from which they go on, and "honest", where there is one.
        costs: Model -> arm -> step cost relative to the reference: median, minimum, maximum.
        roles: Arm -> whether saliency maps guide it, it is a control, or another augmentation.
        reference: The arm that the others are compared with.
        controls: Guided arm -> further arms that it is compared with.
        confidence: Share of the intervals, in (0, 1).
        number: What the differences are of, see `lightning_saliency.studies.augmentation.groups.number_of`.
        primary: The arm that was named before the study was run; ``None``: none was.
        caption: How the numbers were obtained, shown below the tables.
        facts: Names and values that describe the study, for the page.
        folder: Where ``save`` writes by default.
    """

    runs: Runs
    costs: dict[str, dict[str, Estimate]]
    roles: dict[str, Role]
    reference: str
    controls: Mapping[str, Sequence[str]]
    confidence: float = 0.95
    number: Number = "accuracy"
    primary: str | None = None
    caption: str = ""
    facts: Sequence[tuple[str, str]] = ()
    folder: Path | None = None
    classes: int | None = None

    @classmethod
    def gather(
        cls,
        grid: AugmentationGrid,
        planned: Sequence[ArmRun],
        costs: Costs,
        results: Mapping[str, Mapping[str, Any]],
        beginnings: Sequence[Beginning] = (),
        begun: Mapping[str, Mapping[str, Any]] | None = None,
    ) -> AugmentationResult:
        """Collect the results of a comparison's cells.

        Args:
            grid: The comparison.
            planned: Its trainings.
            costs: Model -> arm -> cost of its steps.
            results: Name of a training's cell -> its result.
            beginnings: The networks before the arms part.
            begun: Name of the cell of one of them -> its result.
        """
        config = grid.config
        runs: Runs = {model: {budget: {} for budget in config.budgets} for model in grid.models}
        unknown = {"seconds_per_step": None, "kept_share": None, "augmented": None}
        for each in beginnings:
            for budget in [] if each.honest else config.budgets:
                result = {**unknown, **(begun or {})[each.cell.name]}
                runs[each.model][budget].setdefault(BEFORE, {})[each.seed] = result
        for run in planned:
            for budget in run.budgets:
                runs[run.model][budget].setdefault(run.arm, {})[run.seed] = dict(results[run.cell.name])
        roles: dict[str, Role] = {
            name: "guided" if arm.guided else "control" if arm.is_control else "other"
            for name, arm in grid.arms.items()
        }
        return cls(
            runs=runs,
            costs={model: {arm: cost.ratio for arm, cost in arms.items()} for model, arms in costs.items()},
            roles=roles,
            reference=config.reference,
            controls={arm: config.controls_of(arm) for arm, role in roles.items() if role == "guided"},
            confidence=config.confidence,
            number="accuracy" if config.primary is None else config.primary.number,
            primary=None if config.primary is None else config.primary.arm,
            caption=caption(config),
            facts=facts(grid),
            folder=config.folder,
            classes=grid.classes,
        )

    @cached_property
    def estimates(self) -> dict[str, dict[Budget, dict[str, dict[str, Estimate]]]]:
        """Model -> budget -> arm -> key -> mean and interval.

        In %: ``accuracy``, ``val_best``, and ``validation``, the last accuracy on the validation images; with test
        images in groups ``misled`` and ``worst_group``; with an honest network ``closed accuracy`` and so on, the share
        of the gap of such a number that is closed. In [0, 1]: ``position_bias`` and ``content_bias``, how far the maps
        of the validation images point to something that gives the class away. ``difference`` to the reference and
        ``versus <control>`` in percentage points of ``number``, paired by seed (``versus its <name>`` where the control
        is called ``<arm>, <name>``); ``cost``, ``steps``; ``replaced``, the share of images that were replaced, and
        ``kept``, the share of their pixels that are their own, in %.
        """
        return {
            model: {
                budget: {arm: self._estimates(model, arms, arm) for arm in arms} for budget, arms in budgets.items()
            }
            for model, budgets in self.runs.items()
        }

    def table(self, model: str | None = None) -> TableData:
        """All arms, of one model or of all."""
        group, spent = "test accuracy in %", "what a step costs and shows"
        shown = numbers_of_all(self.runs)
        rows = [row for budgets in self.estimates.values() for arms in budgets.values() for row in arms.values()]
        closed = [number for number in NUMBERS if any(f"closed {number}" in row for row in rows)]
        apart = (
            f"{NUMBERS[self.number]}, differences in points" if len(shown) > 1 or self.number != "accuracy" else group
        )
        reference = self.reference
        compared = dict.fromkeys(called for arm in self.controls for called in self._controls(arm))
        columns = [
            *(Column(number, NUMBERS[number], "high", group) for number in shown),
            *([Column("validation", "validation", None, group)] if len(shown) > 1 else []),
            *([Column(f"closed {each}", f"gap closed: {NUMBERS[each]}", "high", _GAP) for each in closed]),
            Column("difference", f"− {self.reference}", "high", apart, about=_DIFFERENCE),
            *(Column(f"versus {control}", f"− {control}", "high", apart, about=_DIFFERENCE) for control in compared),
            *(
                Column(each, each, None, _POINTED, about=text)
                for each, text in zip(BIASES, _BIASED, strict=True)
                if any(each in row for row in rows)
            ),
            Column("cost", "cost of a step", None, spent, about=f"its seconds over those of a step of {reference}"),
            Column("steps", "steps", None, spent, digits=0, interval=False),
            Column("replaced", "images replaced in %", None, spent, digits=0, interval=False),
            Column("kept", "own pixels of these in %", None, spent, digits=0, interval=False, about=_KEPT),
        ]
        values = {
            f"{network}, {BUDGET_NAMES[budget]}": {
                arm: {key: value for key, value in keys.items() if arm != self.reference or key != "difference"}
                for arm, keys in arms.items()
            }
            for network, budgets in self.estimates.items()
            if model in (None, network)
            for budget, arms in budgets.items()
        }
        return TableData(columns, values, self.caption, unranked=(BEFORE, HONEST))

    def tables(self) -> list[TableData]:
        """One table with a part for each model and budget."""
        return [self.table()]

    def verdicts(self, model: str | None = None) -> list[str]:
        """A sentence for each model, budget and guided arm: does it help, and more than the controls do?

        The arm that was named before the study was run comes first, with what became of its number.

        Args:
            model: Of this model alone; ``None``: of all.
        """
        named, others = [], []
        for network, budgets in self.estimates.items():
            if model not in (None, network):
                continue
            for budget, arms in budgets.items():
                where = f"{network}, {BUDGET_NAMES[budget]}"
                for arm, keys in arms.items():
                    if arm == self.primary:
                        named.append(f"Named beforehand: {arm}, {where}: {self._reached(arm, keys)}")
                    elif self.roles.get(arm) == "guided":
                        others.append(f"{where}, {arm}: {self._verdict(arm, keys)}")
        return [*named, *others]

    def _reached(self, arm: str, keys: Mapping[str, Estimate]) -> str:
        return f"{reached(keys, self.number)}{self._verdict(arm, keys)}"

    def _verdict(self, arm: str, keys: Mapping[str, Estimate]) -> str:
        names = {self.reference: "difference", **{called: f"versus {called}" for called in self._controls(arm)}}
        return verdict(keys, names)

    def __str__(self) -> str:
        return "".join(f"- {line}\n" for line in self.verdicts()) + f"\n{self.table().markdown()}"

    def notices(self) -> list[str]:
        """Which networks are at chance, and whether there are too few seeds for intervals.

        With a shortcut in the data the reference may well be at chance without its mark; there the honest network
        tells.
        """
        found: dict[str, None] = {}
        seeds: set[int] = set()
        for model, budgets in self.runs.items():
            for arms in budgets.values():
                seeds |= set(arms.get(self.reference, {}))
                arm = HONEST if HONEST in arms else self.reference
                own = arms.get(arm, {})
                accuracy = sum(run["accuracy"] for run in own.values()) / len(own) if own else None
                found |= dict.fromkeys(chance_notices(f"{model}, {arm},", accuracy, self.classes))
        return [*found, *seed_notices(len(seeds))]

    def sections(self) -> list[Section]:
        """The parts of the page, one for each model."""
        text = (
            "Each arm was trained from the same weights, on the same images in the same order; only the augmentation "
            f"differs. Differences are those to {self.reference} and, for arms guided by saliency maps, to their "
            "controls, whose masks do not depend on what the image shows. A guide helps if its interval lies above 0; "
            "its map matters if it also beats its controls."
        )
        parts = [Section("How to read this", [text, self.caption])]
        for model in self.runs:
            pictures = []
            if len(self.roles) > 1:
                explained = f"Differences to {self.reference}; the ticks are single seeds."
                pictures.append(ReportPicture(self.figure(model), explained))
            # The caption stands above, once for all.
            table = replace(self.table(model), caption="")
            parts.append(Section(model, self.verdicts(model), [table], pictures))
        return parts

    def save(self, folder: str | Path | None = None, *, made: Made | None = None) -> list[Path]:
        """Write everything.

        Args:
            folder: For ``report.html``; ``table.md`` with the verdicts; ``summary.csv``, a line for each model, budget,
                arm and number; ``results.csv``, a line for each run; ``results.json``; and for each model
                ``differences_*.png``. ``None``: the study's own folder.
            made: How the page was made, for its facts.

        Returns:
            The files, the page first.

        Raises:
            ValueError: If there is no folder, or a file in it was not written so or was changed since.
        """
        folder = result_folder(folder, self.folder)
        files: dict[str, Content] = {
            "report.html": render_page(
                "Augmentations compared", self.sections(), self.facts, notices=self.notices(), made=made
            ),
            "table.md": str(self),
            "summary.csv": summary_csv(self.estimates, self.roles),
            "results.csv": runs_csv(self.runs),
            "results.json": as_json(self.as_dict()),
        }
        if len(self.roles) > 1:
            names = safe_names(self.runs)
            files |= {f"differences_{names[model]}.png": self.figure(model) for model in self.runs}
        return write_results(folder, files)

    def figure(self, network: str) -> Any:
        """The differences to the reference as points with intervals, one panel per budget."""
        panels, each = {}, {}
        for budget, arms in self.estimates[network].items():
            name, runs = BUDGET_NAMES[budget], self.runs[network][budget]
            panels[name] = {arm: arms[arm]["difference"] for arm in self.roles if arm != self.reference}
            plain = numbers_by_seed(runs[self.reference], self.number)
            each[name] = {
                arm: [value - plain[seed] for seed, value in numbers_by_seed(runs[arm], self.number).items()]
                for arm in panels[name]
            }
        measured = "test accuracy" if self.number == "accuracy" else f"{NUMBERS[self.number]} accuracy"
        label = f"{measured} − {self.reference}, percentage points"
        return difference_figure(panels, self.roles, label, network, each)

    def as_dict(self) -> dict[str, Any]:
        """Everything as plain values; an infinite end of an interval is ``None``."""
        return {
            "caption": self.caption,
            "reference": self.reference,
            "controls": {arm: list(controls) for arm, controls in self.controls.items()},
            "confidence": self.confidence,
            "roles": dict(self.roles),
            "number": self.number,
            "primary": self.primary,
            "verdicts": self.verdicts(),
            "results": {
                network: {
                    budget: {
                        arm: {key: finite_or_none(vars(value)) for key, value in keys.items()}
                        for arm, keys in arms.items()
                    }
                    for budget, arms in budgets.items()
                }
                for network, budgets in self.estimates.items()
            },
            "runs": self.runs,
        }

    def _estimates(self, model: str, arms: Mapping[str, Mapping[int, Any]], arm: str) -> dict[str, Estimate]:
        others = {f"versus {called}": name for called, name in self._controls(arm).items()}
        others = {"difference": self.reference, **others}
        return arm_estimates(arms, arm, others, self.costs[model].get(arm), self.number, self.confidence)

    def _controls(self, arm: str) -> dict[str, str]:
        """The controls of an arm, by their names in its row."""
        controls = self.controls.get(arm, ())
        return {
            f"its {name.removeprefix(f'{arm}, ')}" if name.startswith(f"{arm}, ") else name: name for name in controls
        }
