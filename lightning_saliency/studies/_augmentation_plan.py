"""Which runs a comparison of augmentations consists of, and how long they will take."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from statistics import median
from typing import Any

import torch

from lightning_saliency.reports.tables import Estimate
from lightning_saliency.studies._augmentation_arms import Arm, parse_arms
from lightning_saliency.studies._augmentation_cells import (
    build_data,
    build_module,
    data_fingerprint,
    measure_steps,
    train_arm,
)
from lightning_saliency.studies._augmentation_config import (
    AugmentationConfig,
    Budget,
    DataModuleConfig,
    FineTunedNetwork,
)
from lightning_saliency.studies._cells import weights_fingerprint
from lightning_saliency.studies._results import file_name
from lightning_saliency.studies.engine import Cell, read_cells, run_cells

Results = Mapping[str, Mapping[str, Any]]


@dataclass(frozen=True)
class StepCost:
    """What a step of an arm costs.

    Args:
        ratio: To a step of the reference arm: the median of the rounds, and the least and the greatest.
        seconds: Of a step of the reference arm.
        evaluation: Seconds of one run of validation and test images.
        epoch: Batches in an epoch.
    """

    ratio: Estimate
    seconds: float
    evaluation: float
    epoch: int

    @classmethod
    def measured(cls, result: Mapping[str, Any], arm: str, reference: str) -> StepCost:
        """What `measure_steps` found."""
        plain, own = result["seconds"][reference], result["seconds"][arm]
        ratios = [mine / theirs for mine, theirs in zip(own, plain, strict=True)]
        ratio = Estimate(median(ratios), min(ratios), max(ratios), len(ratios))
        return cls(ratio, median(plain), float(result["evaluation"]), int(result["epoch"]))


@dataclass(frozen=True)
class Run:
    """One training: which network and arm, how many steps, from which seed, for which budgets."""

    network: str
    arm: str
    steps: int
    seed: int
    budgets: tuple[Budget, ...]
    cell: Cell


def affordable_steps(steps: int, ratio: float, plain_steps: int = 0, tolerance: float = 0.0) -> int:
    """How many steps of an arm take as long as the reference's.

    Args:
        steps: The reference's.
        ratio: What a step of the arm costs, a step of the reference's costing 1.
        plain_steps: So many first ones are the reference's in every arm.
        tolerance: Ratios up to ``1 + tolerance`` count as 1.

    Returns:
        At least one more than ``plain_steps`` where there are more.

    Example:
        >>> affordable_steps(200, 2.0), affordable_steps(200, 2.0, 100), affordable_steps(200, 1.01, tolerance=0.05)
        (100, 150, 200)
    """
    if ratio <= 1 + tolerance or plain_steps >= steps:
        return steps
    return plain_steps + max(1, round((steps - plain_steps) / ratio))


class Planner:
    """The cells of a comparison.

    Args:
        config: The comparison.

    Raises:
        FileNotFoundError: If a file does not exist.
        ValueError: If the configuration cannot be carried out.
    """

    def __init__(self, config: AugmentationConfig) -> None:
        self.config = config
        self.arms = parse_arms(config.arms)
        self.folder = Path(config.output)
        self.networks: dict[str, FineTunedNetwork] = {
            name: replace(network, model=config.located(network.model), checkpoint=config.located(network.checkpoint))
            for name, network in config.networks.items()
        }
        self.data: DataModuleConfig = replace(config.data, options=config.located(config.data.options))
        content = data_fingerprint(self.data, config.seeds[0])
        classes: int = build_data(self.data, config.seeds[0]).num_classes  # type: ignore[attr-defined]
        reference = self.arms[config.reference]
        self.shared: dict[str, dict[str, Any]] = {}
        for name, network in self.networks.items():
            module = build_module(network, config.training, classes, reference, config.seeds[0], 0)
            training = {key: value for key, value in asdict(config.training).items() if key != "steps"}
            self.shared[name] = {
                "network": {**asdict(config.networks[name]), "weights": weights_fingerprint(module.model)},
                "data": {**asdict(config.data), "content": content},
                "training": training,
            }

    def costs(self, progress: bool = True) -> dict[str, dict[str, StepCost]]:
        """Network -> arm -> cost; measured, one after the other, where it is not on the disk."""
        cells = {(network, arm): self._cost_cell(network, arm) for network in self.networks for arm in self.arms}
        found = run_cells(list(cells.values()), self.folder / "costs", workers=1, progress=progress)
        return self._costs(cells, found)

    def runs(self, costs: Mapping[str, Mapping[str, StepCost]]) -> list[Run]:
        """Every training there is to do, those of one seed together."""
        config = self.config
        runs: list[Run] = []
        for seed in config.seeds:
            for network in self.networks:
                for name, arm in self.arms.items():
                    by_steps: dict[int, list[Budget]] = {}
                    for budget in config.budgets:
                        steps = config.training.steps
                        if budget == "time":
                            cost = costs[network][name]
                            first = config.training.start_epoch * cost.epoch
                            steps = affordable_steps(steps, cost.ratio.value, first, config.cost.tolerance)
                        by_steps.setdefault(steps, []).append(budget)
                    runs += [
                        Run(network, name, steps, seed, tuple(budgets), self._run_cell(network, arm, steps, seed))
                        for steps, budgets in by_steps.items()
                    ]
        return runs

    def missing(self, runs: list[Run]) -> list[Run]:
        """The runs that the disk holds no result of."""
        found = read_cells([run.cell for run in runs], self.folder / "runs")
        return [run for run in runs if run.cell.name not in found]

    def seconds(self, runs: list[Run], costs: Mapping[str, Mapping[str, StepCost]]) -> float:
        """How long runs will take, all workers being busy."""
        training = self.config.training
        total = 0.0
        for run in runs:
            cost = costs[run.network][run.arm]
            plain = min(run.steps, training.start_epoch * cost.epoch)
            steps = plain + (run.steps - plain) * cost.ratio.value
            total += steps * cost.seconds + training.validations * cost.evaluation
        return total / self.config.workers

    def compute(self, runs: list[Run], progress: bool = True) -> Results:
        """The results of the runs by their cells' names, of which only the missing ones are trained."""
        config = self.config
        return run_cells(
            [run.cell for run in runs],
            self.folder / "runs",
            engine=config.engine,
            workers=config.workers,
            cpus_per_cell=config.cpus_per_cell,
            gpus_per_cell=config.gpus_per_cell,
            progress=progress,
        )

    def _costs(
        self, cells: Mapping[tuple[str, str], Cell], found: Mapping[str, Mapping[str, Any]]
    ) -> dict[str, dict[str, StepCost]]:
        costs: dict[str, dict[str, StepCost]] = {network: {} for network in self.networks}
        for (network, arm), cell in cells.items():
            costs[network][arm] = StepCost.measured(found[cell.name], arm, self.config.reference)
        return costs

    def _cost_cell(self, network: str, name: str) -> Cell:
        config, reference = self.config, self.config.reference
        arms = {reference: self.arms[reference], name: self.arms[name]}
        # Several workers compute with so many threads each; a single one with all that this process has.
        threads = max(1, int(config.cpus_per_cell)) if config.workers > 1 else torch.get_num_threads()
        arguments = {
            "network": self.networks[network],
            "data": self.data,
            "arms": arms,
            "training": config.training,
            "steps": config.cost.steps,
            "rounds": config.cost.rounds,
            "seed": config.seeds[0],
            "threads": threads,
        }
        fingerprint = {
            **self.shared[network],
            "arms": {key: _described(arm) for key, arm in arms.items()},
            "cost": {"steps": config.cost.steps, "rounds": config.cost.rounds},
        }
        return Cell(f"{file_name(network)}__{file_name(name)}", measure_steps, arguments, fingerprint)

    def _run_cell(self, network: str, arm: Arm, steps: int, seed: int) -> Cell:
        arguments = {
            "network": self.networks[network],
            "data": self.data,
            "arm": arm,
            "training": self.config.training,
            "steps": steps,
            "seed": seed,
        }
        fingerprint = {**self.shared[network], "arm": _described(arm), "steps": steps, "seed": seed}
        name = f"{file_name(network)}__{file_name(arm.name)}__steps{steps}__seed{seed}"
        return Cell(name, train_arm, arguments, fingerprint)


def _described(arm: Arm) -> dict[str, Any]:
    return {"kind": arm.kind, "options": arm.options}
