"""Which runs a comparison of augmentations consists of, and how long they will take."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from itertools import accumulate
from pathlib import Path
from statistics import median
from typing import Any

import torch

from lightning_saliency.reports.tables import Estimate
from lightning_saliency.studies.augmentation.arms import Arm, parse_arms
from lightning_saliency.studies.augmentation.cells import (
    build_data,
    build_module,
    data_fingerprint,
    measure_steps,
    train_arm,
)
from lightning_saliency.studies.augmentation.config import (
    AugmentationConfig,
    Budget,
    DataModuleConfig,
    FineTunedNetwork,
    TrainingConfig,
)
from lightning_saliency.studies.engine.files import file_name, weights_fingerprint
from lightning_saliency.studies.engine.run import Cell, read_cells, run_cells

Results = Mapping[str, Mapping[str, Any]]

#: What plain training is timed under, where the reference is something else.
_PLAIN = "(plain)"


@dataclass(frozen=True)
class StepCost:
    """What the steps of an arm cost.

    Args:
        ratio: Of an average step to one of the reference arm's, behind the plain epochs that all arms begin with: the
            median of the rounds, and the least and the greatest.
        seconds: Of each of the planned steps.
        reference: Of each of the reference arm's.
        evaluation: Seconds of one run of validation and test images.
    """

    ratio: Estimate
    seconds: Sequence[float]
    reference: Sequence[float]
    evaluation: float

    @classmethod
    def measured(cls, result: Mapping[str, Any], arm: Arm, reference: Arm, training: TrainingConfig) -> StepCost:
        """What `measure_steps` found, spread over the planned steps."""
        timed, epoch, steps = result["seconds"], int(result["epoch"]), training.steps
        plain = timed.get(_PLAIN, timed[reference.name])
        own, other = (
            [mine / theirs for mine, theirs in zip(timed[each.name], plain, strict=True)] for each in (arm, reference)
        )
        duties, others = (each.duties(steps, epoch, training.start_epoch) for each in (arm, reference))
        # An arm may begin before the others do.
        begin = next((step for step, duty in enumerate(duties) if duty > 0), steps)
        begin = min(begin, training.start_epoch * epoch, steps - 1)
        ratios = [
            math.fsum(_spread(duties[begin:], mine)) / math.fsum(_spread(others[begin:], theirs))
            for mine, theirs in zip(own, other, strict=True)
        ]
        seconds, references = (
            [median(plain) * cost for cost in _spread(done, median(found))]
            for done, found in ((duties, own), (others, other))
        )
        ratio = Estimate(median(ratios), min(ratios), max(ratios), len(ratios))
        return cls(ratio, seconds, references, float(result["evaluation"]))


def _spread(duties: Sequence[float], ratio: float) -> list[float]:
    """What steps cost in plain ones, of which one at full duty costs ``ratio``."""
    return [1 + duty * (ratio - 1) for duty in duties]


@dataclass(frozen=True)
class Run:
    """One training: which network and arm, how many steps, from which seed, for which budgets."""

    network: str
    arm: str
    steps: int
    seed: int
    budgets: tuple[Budget, ...]
    cell: Cell


def affordable_steps(costs: Sequence[float], reference: Sequence[float], tolerance: float = 0.0) -> int:
    """How many steps of an arm take as long as all of the reference's.

    Args:
        costs: Of each step of the arm, such as seconds; of as many as the reference has.
        reference: Of each step of the reference.
        tolerance: Arms that cost up to ``1 + tolerance`` times what the reference does can afford all steps.

    Returns:
        To the nearest step; at least so many that the last one costs more than the reference's.

    Example:
        >>> plain = [1.0] * 200
        >>> [affordable_steps(costs, plain, 0.05) for costs in ([2.0] * 200, [1.0] * 100 + [2.0] * 100, [1.01] * 200)]
        [100, 150, 200]
    """
    available = math.fsum(reference)
    if math.fsum(costs) <= (1 + tolerance) * available:
        return len(reference)
    first = next(step for step, (own, other) in enumerate(zip(costs, reference, strict=True), 1) if own > other)
    ends = list(accumulate(costs))
    return max(first, sum(end - cost / 2 <= available for end, cost in zip(ends, costs, strict=True)))


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
        self._check()
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
                            # A control is there to tell what the map is worth, not what making another one costs.
                            cost = costs[network][config.guide_of(name)]
                            steps = affordable_steps(cost.seconds, cost.reference, config.cost.tolerance)
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
        total = 0.0
        for run in runs:
            cost = costs[run.network][run.arm]
            total += math.fsum(cost.seconds[: run.steps]) + self.config.training.validations * cost.evaluation
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
        reference = self.arms[self.config.reference]
        for (network, arm), cell in cells.items():
            cost = StepCost.measured(found[cell.name], self.arms[arm], reference, self.config.training)
            costs[network][arm] = cost
        return costs

    def _check(self) -> None:
        config = self.config
        guided = [name for name, arm in self.arms.items() if arm.guided]
        others = [name for name in config.controls if isinstance(config.controls, Mapping) and name not in guided]
        if others:
            raise ValueError(
                f"Got controls of {', '.join(others)}, which no saliency map of its own guides. Allowed are "
                f"{', '.join(guided)}; leave the others out."
            )
        reusing = [name for name, arm in self.arms.items() if arm.reuses_maps]
        if "time" in config.budgets and reusing:
            raise ValueError(
                f"Got the budget 'time' with {', '.join(reusing)}, which uses maps again (reuse_epochs): a few timed "
                "steps do not tell how many images come back unchanged, and so not what its step costs. Allowed are "
                "budgets=[steps], or reuse_epochs=1; choose one."
            )

    def _cost_cell(self, network: str, name: str) -> Cell:
        config, reference = self.config, self.arms[self.config.reference]
        arms = {arm.name: arm.at_full_duty() for arm in (reference, self.arms[name])}
        if reference.kind != "plain":
            arms = {_PLAIN: Arm(_PLAIN, "plain"), **arms}
        # Cells in processes of their own compute with so many threads each; in this one with all that it has.
        elsewhere = config.workers > 1 or config.engine == "ray"
        threads = max(1, int(config.cpus_per_cell)) if elsewhere else torch.get_num_threads()
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
            "cost": {
                "steps": config.cost.steps,
                "rounds": config.cost.rounds,
                "threads": threads,
                "device": device_name(config.training.accelerator),
                "engine": config.engine,
            },
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


def device_name(accelerator: str) -> str:
    """What Lightning's accelerator of this name computes with.

    Example:
        >>> device_name("cpu")
        'cpu'
    """
    if accelerator in ("auto", "gpu", "cuda") and torch.cuda.is_available():
        return torch.cuda.get_device_name()
    if accelerator in ("auto", "gpu", "mps") and torch.backends.mps.is_available():
        return "mps"
    return "cpu"


def _described(arm: Arm) -> dict[str, Any]:
    return {"kind": arm.kind, "options": arm.options}
