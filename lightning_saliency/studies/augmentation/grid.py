"""The cells of a comparison of augmentations: which arms are timed, and trained from which seeds for how long."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from functools import cached_property
from typing import Any

import torch

from lightning_saliency.files import safe_name
from lightning_saliency.networks import weights_fingerprint
from lightning_saliency.studies.augmentation._beginning import begin
from lightning_saliency.studies.augmentation._inputs import data_content, model_spec
from lightning_saliency.studies.augmentation.arms.arm import PLAIN, Arm
from lightning_saliency.studies.augmentation.cells import (
    initial_module,
    measure_steps,
    prepared_data,
    train_arm,
)
from lightning_saliency.studies.augmentation.config import (
    BEFORE,
    HONEST,
    AugmentationConfig,
    Budget,
)
from lightning_saliency.studies.augmentation.costs import StepCost, affordable_steps, device_name, timed_arms
from lightning_saliency.studies.augmentation.estimates import estimating
from lightning_saliency.studies.engine.run import Cell

#: Model -> arm -> cost.
Costs = Mapping[str, Mapping[str, StepCost]]


@dataclass(frozen=True)
class Beginning:
    """The network of a seed before its arms part.

    Args:
        model: Name of the model in the table.
        seed: Seed of the training.
        honest: Whether the data are those of the honest network.
        cell: The cell that trains it.
    """

    model: str
    seed: int
    honest: bool
    cell: Cell


@dataclass(frozen=True)
class ArmRun:
    """One training of an arm.

    Args:
        model: Name of the model in the table.
        arm: Name of the arm in the table.
        steps: Number of steps of the optimiser.
        seed: Seed of the training.
        budgets: The budgets that its result belongs to.
        cell: The cell that trains it.
    """

    model: str
    arm: str
    steps: int
    seed: int
    budgets: tuple[Budget, ...]
    cell: Cell


class AugmentationGrid:
    """The cells of a comparison. The networks are built and the first batches read once, for their fingerprints.

    Args:
        config: The comparison.

    Attributes:
        arms: Name in the table -> arm.
        models: Name in the table -> the network, as ``class_path`` and ``init_args``.
        folder: Where trainings are kept.
        first_folder: Where the networks before the arms part are kept: their results, and their weights after a first
            training.
        costs_folder: Where the study's own measurements of steps are kept.
        plan_folder: Where the timings of plans are kept.

    Raises:
        FileNotFoundError: If a file does not exist.
        TypeError: If a class does not take its arguments.
        ValueError: If the configuration cannot be carried out.
    """

    def __init__(self, config: AugmentationConfig) -> None:
        self.config = config
        self.arms = config.parsed_arms()
        output = config.folder
        self.folder, self.costs_folder, self.plan_folder = output / "runs", output / "step_costs", output / "costs"
        self.first_folder = output / "first"
        self.data = {seed: config.data_spec(seed) for seed in config.seeds}
        self.honest_data = {seed: config.honest_data_spec(seed) for seed in config.seeds}
        first = config.seeds[0]
        content = data_content(self.data[first], first)
        classes = self.classes = prepared_data(self.data[first]).num_classes
        self.models = {name: model_spec(config, name, classes, config.training) for name in config.models}
        self.first_models = {name: model_spec(config, name, classes, config.first) for name in config.models}
        training = {key: value for key, value in asdict(config.training).items() if key != "steps"}
        self.shared: dict[str, dict[str, Any]] = {}
        for name, model in self.models.items():
            weights = weights_fingerprint(initial_module(model, first).model)
            self.shared[name] = {
                "model": {**model, "weights": weights},
                "data": {**self.config.data_spec(0), "seeded": config.seeded_data, "content": content},
                "training": training,
            }
            if config.first is not None:
                self.shared[name]["first"] = {**asdict(config.first), "model": self.first_models[name]["init_args"]}

    @property
    def threads(self) -> int:
        """Number of PyTorch's threads for a cell; in this process all threads."""
        return max(1, int(self.config.cpus_per_cell)) if self.config.elsewhere else torch.get_num_threads()

    @cached_property
    def cost_cells(self) -> dict[tuple[str, str], Cell]:
        """Model and arm -> the cell that measures what the arm's step costs."""
        return {(model, name): self._cost_cell(model, arm) for model in self.models for name, arm in self.arms.items()}

    def measured_costs(self, results: Mapping[str, Mapping[str, Any]]) -> dict[str, dict[str, StepCost]]:
        """The costs from the results of `cost_cells`; arms without a result are left out."""
        costs: dict[str, dict[str, StepCost]] = {model: {} for model in self.models}
        reference, training = self.arms[self.config.reference], self.config.training
        for (model, name), cell in self.cost_cells.items():
            if cell.name in results:
                costs[model][name] = StepCost.measured(results[cell.name], self.arms[name], reference, training)
        return costs

    def estimate_cell(self, model: str, work: Arm) -> Cell:
        """The cell that times a step for a plan. Its name includes its fingerprint, so it is never stale."""
        config = self.config
        arguments = {
            "model": self.models[model],
            "data": self.data[config.seeds[0]],
            "arm": work,
            "training": config.training,
            "seed": config.seeds[0],
            "threads": self.threads,
        }
        fingerprint = {**self.shared[model], "work": work.plain(), "machine": self._machine()}
        digest = hashlib.sha256(json.dumps(fingerprint, sort_keys=True).encode()).hexdigest()[:12]
        return Cell(f"{safe_name(model)}__{digest}", estimating(work), arguments, fingerprint, group=model)

    def runs(self, costs: Costs) -> list[ArmRun]:
        """All trainings, those of one seed together."""
        config = self.config
        runs: list[ArmRun] = []
        for seed in config.seeds:
            for model in self.models:
                for name, arm in self.arms.items():
                    by_steps: dict[int, list[Budget]] = {}
                    for budget in config.budgets:
                        steps = config.steps_of(name)
                        if budget == "time":
                            # A control is there to tell what the map is worth, not what making another one costs.
                            cost = costs[model][config.guide_of(name)]
                            steps = affordable_steps(cost.seconds, cost.reference, config.cost.tolerance)
                        by_steps.setdefault(steps, []).append(budget)
                    runs += [
                        ArmRun(model, name, steps, seed, tuple(budgets), self._run_cell(model, arm, steps, seed))
                        for steps, budgets in by_steps.items()
                    ]
        return runs

    def beginnings(self) -> list[Beginning]:
        """The networks before the arms part; an honest network has one if it has a first training."""
        honest = [False, True] if self.config.honest is not None and self.config.first is not None else [False]
        return [
            Beginning(model, seed, other, self._beginning_cell(model, seed, other))
            for seed in self.config.seeds
            for model in self.models
            for other in honest
        ]

    def honest_runs(self) -> list[ArmRun]:
        """The trainings of the honest network, of equal steps."""
        config = self.config
        if config.honest is None:
            return []
        arm, steps = Arm(HONEST, PLAIN), config.training.steps
        return [
            ArmRun(model, HONEST, steps, seed, tuple(config.budgets), self._run_cell(model, arm, steps, seed, True))
            for seed in config.seeds
            for model in self.models
        ]

    def weights_file(self, model: str, seed: int, honest: bool = False) -> str | None:
        """The file of the weights of a first training; ``None`` if there is none."""
        if self.config.first is None:
            return None
        return str(self.first_folder / f"{_beginning_name(model, seed, honest)}.pt")

    def _beginning_cell(self, model: str, seed: int, honest: bool) -> Cell:
        config = self.config
        arguments = {
            "model": self.models[model],
            "data": (self.honest_data if honest else self.data)[seed],
            "training": config.training,
            "seed": seed,
        }
        if config.first is not None:
            arguments |= {
                "first_model": self.first_models[model],
                "first": config.first,
                "weights": self.weights_file(model, seed, honest),
            }
        fingerprint = {**self._fingerprint(model, honest), "seed": seed}
        group = f"{model}, {HONEST if honest else BEFORE}"
        return Cell(_beginning_name(model, seed, honest), begin, arguments, fingerprint, group)

    def _fingerprint(self, model: str, honest: bool) -> dict[str, Any]:
        return {**self.shared[model], **({"honest": self.config.honest} if honest else {})}

    def _cost_cell(self, model: str, arm: Arm) -> Cell:
        config = self.config
        arms = timed_arms(arm, self.arms[config.reference])
        arguments = {
            "model": self.models[model],
            "data": self.data[config.seeds[0]],
            "arms": arms,
            "training": config.training,
            "steps": config.cost.steps,
            "rounds": config.cost.rounds,
            "seed": config.seeds[0],
            "threads": self.threads,
        }
        fingerprint = {
            **self.shared[model],
            "arms": {key: one.plain() for key, one in arms.items()},
            "cost": {"steps": config.cost.steps, "rounds": config.cost.rounds, **self._machine()},
        }
        name = f"{safe_name(model)}__{safe_name(arm.name)}"
        return Cell(name, measure_steps, arguments, fingerprint, group=model)

    def _run_cell(self, model: str, arm: Arm, steps: int, seed: int, honest: bool = False) -> Cell:
        arguments = {
            "model": self.models[model],
            "data": (self.honest_data if honest else self.data)[seed],
            "arm": arm,
            "training": self.config.training,
            "steps": steps,
            "seed": seed,
        }
        if self.config.first is not None:
            arguments["weights"] = self.weights_file(model, seed, honest)
        fingerprint = {**self._fingerprint(model, honest), "arm": arm.plain(), "steps": steps, "seed": seed}
        name = f"{safe_name(model)}__{safe_name(arm.name)}__steps{steps}__seed{seed}"
        return Cell(name, train_arm, arguments, fingerprint, group=f"{model}, {arm.name}", steps=steps)

    def _machine(self) -> dict[str, Any]:
        """What timings depend on beside the work; of a cluster this process knows no more than its name."""
        config = self.config
        here = config.engine == "local"
        device = device_name(config.training.accelerator) if here else config.training.accelerator
        return {"threads": self.threads, "device": device, "engine": config.engine}


def _beginning_name(model: str, seed: int, honest: bool) -> str:
    return f"{safe_name(model)}__{'honest' if honest else 'before'}__seed{seed}"
