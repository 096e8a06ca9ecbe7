"""The estimated cost of a comparison of augmentations, from finished cells, the study's own timings, or a few steps."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from lightning_saliency.studies.augmentation.arms.arm import PLAIN, Arm
from lightning_saliency.studies.augmentation.config import BEFORE, HONEST
from lightning_saliency.studies.augmentation.costs import StepCost, timed_arms
from lightning_saliency.studies.augmentation.grid import ArmRun, AugmentationGrid
from lightning_saliency.studies.engine.plan import Plan, PlanRow, plan_row
from lightning_saliency.studies.engine.run import cell_seconds, read_cells, run_cells

# Untimed steps before the timed ones of each round, see `measure_steps`.
_WARM_UP = 2


def plan_grid(grid: AugmentationGrid) -> Plan:
    """The plan of a comparison, see `plan_augmentation`."""
    config = grid.config
    own = grid.measured_costs(read_cells(list(grid.cost_cells.values()), grid.costs_folder))
    timings = {model: _Timings(grid, model) for model in grid.models}
    costs = {
        model: {name: own[model].get(name) or timing.cost(name) for name in grid.arms}
        for model, timing in timings.items()
    }
    rows = [_timing_row(grid, model, timing) for model, timing in timings.items()]
    rows += [
        row
        for model, timing in timings.items()
        for row in _beginning_rows(grid, model, timing, costs[model][config.reference])
    ]
    groups: dict[tuple[str, str, int], list[ArmRun]] = {}
    for run in grid.runs(costs):
        groups.setdefault((run.model, run.arm, run.steps), []).append(run)
    for (model, arm, steps), runs in groups.items():
        cost, timing = costs[model][arm], timings[model]
        seconds = cost.seconds_of(steps) + config.training.validations * cost.evaluation
        epochs = math.ceil(steps / timing.plain["epoch"])
        cells = [run.cell for run in runs]
        # What the study will measure decides how many steps take equal time.
        about = "" if "steps" in runs[0].budgets or arm in own[model] else "about "
        part = f"{_prefix(grid, model)}{arm}: {about}{steps} steps ({' and '.join(runs[0].budgets)})"
        passes, note = timing.run_passes(arm, steps), f"{cost.ratio.value:.2f}"
        rows.append(plan_row(part, grid.folder, cells, epochs, passes, 0, seconds, note))
    return Plan(rows, config.plan_workers(), f"× {config.reference}")


def _beginning_rows(grid: AugmentationGrid, model: str, timing: _Timings, cost: StepCost) -> list[PlanRow]:
    """The networks before the arms part, and what trains the honest one: plain steps."""
    config = grid.config
    epoch, plain = int(timing.plain["epoch"]), float(timing.plain["seconds"])
    alike = min(config.training.start_epoch * epoch, config.training.steps)
    first = 0 if config.first is None else config.first.steps
    rows = []
    for part, steps, validations, folder, cells in (
        (
            f"{BEFORE}: {first + alike} steps",
            first + alike,
            1,
            grid.first_folder,
            [each.cell for each in grid.beginnings() if each.model == model],
        ),
        (
            f"{HONEST}: {config.training.steps} steps",
            config.training.steps,
            config.training.validations,
            grid.folder,
            [run.cell for run in grid.honest_runs() if run.model == model],
        ),
    ):
        if cells:
            seconds = steps * plain + validations * cost.evaluation
            passes = float(steps * timing.plain["passes"] + validations * timing.plain["evaluated"])
            epochs = math.ceil(steps / epoch)
            rows.append(plan_row(f"{_prefix(grid, model)}{part}", folder, cells, epochs, passes, 0, seconds, "1.00"))
    return rows


def _prefix(grid: AugmentationGrid, model: str) -> str:
    """The model's name in front of an arm's, where there are several models."""
    return f"{model}, " if len(grid.models) > 1 else ""


class _Timings:
    """What the steps of a model's arms cost, each work timed once for all arms that do the same.

    Args:
        grid: The comparison.
        model: Name of the model in the table.

    Attributes:
        plain: The result of `estimate_step` for plain training.
        extra: Arm -> seconds that a step at full duty takes longer than a plain one.
        passes: Arm -> images that it passes forward beyond those of a plain step.
    """

    def __init__(self, grid: AugmentationGrid, model: str) -> None:
        self.grid = grid
        works = {name: arm.work() for name, arm in grid.arms.items()}
        plain = grid.estimate_cell(model, Arm("work", PLAIN))
        cells = {
            name: plain if work.kind == PLAIN else grid.estimate_cell(model, work) for name, (work, _) in works.items()
        }
        distinct = {cell.name: cell for cell in (plain, *cells.values())}
        # On a cluster the steps are timed where they will run; here, in this process alone.
        engine = {} if grid.config.engine == "local" else grid.config.engine_options()
        results = run_cells(list(distinct.values()), grid.plan_folder, **engine)
        self.plain: dict[str, Any] = results[plain.name]
        self.extra, self.passes = (
            {name: self._extra(works[name][1], results[cells[name].name], key) for name in works}
            for key in ("seconds", "passes")
        )

    def _extra(self, share: float, timed: Mapping[str, Any], key: str) -> float:
        """A whole step was timed where there is an epoch; the augmentation of a batch alone where there is none."""
        alone = float(timed[key]) - (float(self.plain[key]) if "epoch" in timed else 0.0)
        return share * max(0.0, alone)

    def cost(self, arm: str) -> StepCost:
        """The estimated cost of an arm's steps."""
        arms, config = self.grid.arms, self.grid.config
        return StepCost.estimated(self.plain, self.extra, arms[arm], arms[config.reference], config.training)

    def run_passes(self, arm: str, steps: int) -> float:
        """The images that a run passes forward: training steps, queries, validations and the test."""
        training = self.grid.config.training
        duties = self.grid.arms[arm].duties(steps, self.plain["epoch"], training.start_epoch)
        tests = training.validations * self.plain["evaluated"]
        return float(steps * self.plain["passes"] + math.fsum(duties) * self.passes[arm] + tests)


def _timing_row(grid: AugmentationGrid, model: str, timing: _Timings) -> PlanRow:
    """The study's own measurement of steps: every arm in turn with the reference."""
    cost, reference = grid.config.cost, grid.arms[grid.config.reference]
    cells = {name: cell for (of, name), cell in grid.cost_cells.items() if of == model}
    done = cell_seconds(list(cells.values()), grid.costs_folder)
    steps = cost.rounds * (cost.steps + _WARM_UP)
    seconds, passes = 0.0, 0.0
    for name, cell in cells.items():
        timed = timed_arms(grid.arms[name], reference)
        passes += steps * sum(timing.plain["passes"] + timing.passes.get(each, 0.0) for each in timed)
        if cell.name not in done:
            seconds += steps * sum(timing.plain["seconds"] + timing.extra.get(each, 0.0) for each in timed)
    # They are timed one at a time, however many workers there are.
    seconds *= max(1, grid.config.plan_workers())
    part = f"{_prefix(grid, model)}costs of steps"
    return PlanRow(part, len(cells), len(done), 0, passes, 0, seconds, False)
