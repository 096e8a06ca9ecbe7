"""The cells of a comparison of augmentations: which trainings there are, and what each depends on."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import torch

from lightning_saliency.explainers.registry import plain_value
from lightning_saliency.networks import weights_fingerprint
from lightning_saliency.studies.augmentation.arms import Arm
from lightning_saliency.studies.augmentation.cells import (
    StudyData,
    build_fine_tuning,
    measure_steps,
    study_data,
    study_data_fingerprint,
    time_steps,
    train_arm,
)
from lightning_saliency.studies.augmentation.config import AugmentationConfig, Budget
from lightning_saliency.studies.augmentation.costs import PLAIN, StepCost, affordable_steps
from lightning_saliency.studies.engine.cell import Cell
from lightning_saliency.studies.engine.files import file_name
from lightning_saliency.studies.engine.run import read_cells, run_cells

Results = Mapping[str, Mapping[str, Any]]
#: Network -> arm -> cost.
Costs = Mapping[str, Mapping[str, StepCost]]


@dataclass(frozen=True)
class ArmRun:
    """One training: which network and arm, how many steps, from which seed, for which budgets."""

    network: str
    arm: str
    steps: int
    seed: int
    budgets: tuple[Budget, ...]
    cell: Cell


class AugmentationGrid:
    """The cells of a comparison.

    Args:
        config: The comparison.

    Raises:
        FileNotFoundError: If a file does not exist.
        ValueError: If the configuration cannot be carried out.
    """

    def __init__(self, config: AugmentationConfig) -> None:
        self.config = config
        self.arms: dict[str, Arm] = config.arms
        self._check()
        self.folder = config.folder
        self.data = StudyData(config.data, config.seeded_data)
        content = study_data_fingerprint(self.data, config.seeds[0])
        classes: int = study_data(self.data, config.seeds[0]).num_classes  # type: ignore[attr-defined]
        reference = self.arms[config.reference]
        self.shared: dict[str, dict[str, Any]] = {}
        for name, model in config.models.items():
            module = build_fine_tuning(model, config.training, classes, reference, config.seeds[0], 0)
            training = {key: value for key, value in asdict(config.training).items() if key != "steps"}
            self.shared[name] = {
                "network": {**asdict(model), "weights": weights_fingerprint(module.model)},
                "data": {"spec": config.data, "seeded": config.seeded_data, "content": content},
                "training": training,
            }

    def costs(self, progress: bool = True) -> dict[str, dict[str, StepCost]]:
        """Network -> arm -> cost; measured, one after the other, where it is not on the disk."""
        cells = self.cost_cells()
        options = {**self.config.engine_options(), "workers": 1}
        return self._costs(cells, run_cells(list(cells.values()), self.folder / "costs", **options, progress=progress))

    def rough_costs(self) -> dict[str, dict[str, StepCost]]:
        """As `costs`; where these were not measured yet, told by one step of each kind of arm on a part of a batch."""
        cells = self.cost_cells()
        measured = read_cells(list(cells.values()), self.folder / "costs")
        if len(measured) == len(cells):
            return self._costs(cells, measured)
        kinds = {key: self._timing(*key) for key in cells}
        timings = list({cell.name: cell for cell in kinds.values()}.values())
        timed = run_cells(timings, self.folder / "costs" / "plan", progress=False)
        found = {}
        for (network, name), cell in cells.items():
            plain = timed[self._timing_name(network, self.arms[name], plain=True)]
            own = timed[kinds[network, name].name]
            reference = timed[kinds[network, self.config.reference].name]
            seconds = {
                PLAIN: [plain["seconds"]],
                self.config.reference: [reference["seconds"]],
                name: [own["seconds"]],
            }
            found[cell.name] = {"seconds": seconds, "evaluation": plain["evaluation"], "epoch": plain["epoch"]}
        return self._costs(cells, found)

    def runs(self, costs: Costs) -> list[ArmRun]:
        """Every training there is to do, those of one seed together."""
        config = self.config
        runs: list[ArmRun] = []
        for seed in config.seeds:
            for network in config.models:
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
                        ArmRun(network, name, steps, seed, tuple(budgets), self._run_cell(network, arm, steps, seed))
                        for steps, budgets in by_steps.items()
                    ]
        return runs

    def run_seconds(self, run: ArmRun, costs: Costs) -> float:
        """How long a training takes."""
        cost = costs[run.network][run.arm]
        return math.fsum(cost.seconds[: run.steps]) + self.config.training.validations * cost.evaluation

    def compute(self, runs: Sequence[ArmRun], progress: bool = True) -> Results:
        """The results of the runs by their cells' names, of which only the missing ones are trained."""
        cells = [run.cell for run in runs]
        return run_cells(cells, self.folder / "runs", **self.config.engine_options(), progress=progress)

    def cost_cells(self) -> dict[tuple[str, str], Cell]:
        """(Network, arm) -> the measurement of the arm's steps, in turn with the reference's."""
        return {(network, arm): self._cost_cell(network, arm) for network in self.config.models for arm in self.arms}

    def _costs(self, cells: Mapping[tuple[str, str], Cell], found: Results) -> dict[str, dict[str, StepCost]]:
        costs: dict[str, dict[str, StepCost]] = {network: {} for network in self.config.models}
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
            arms = {PLAIN: Arm(PLAIN, "plain"), **arms}
        # Cells in processes of their own compute with so many threads each; in this one with all that it has.
        elsewhere = config.workers > 1 or config.engine == "ray"
        threads = max(1, int(config.cpus_per_cell)) if elsewhere else torch.get_num_threads()
        arguments = {
            "model": config.models[network],
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
        return Cell(f"{file_name(network)}__{file_name(name)}", measure_steps, arguments, fingerprint, network)

    def _timing(self, network: str, name: str) -> Cell:
        config = self.config
        arm = self.arms[name].cost_kind()
        arguments = {
            "model": config.models[network],
            "data": self.data,
            "arm": arm,
            "training": config.training,
            "seed": config.seeds[0],
        }
        fingerprint = {**self.shared[network], "arm": _described(arm)}
        return Cell(self._timing_name(network, self.arms[name]), time_steps, arguments, fingerprint)

    def _timing_name(self, network: str, arm: Arm, plain: bool = False) -> str:
        """Arms whose steps cost the same have the same timing."""
        kinds = {json_key(_described(each.cost_kind())): name for name, each in reversed(self.arms.items())}
        name = "plain" if plain else kinds[json_key(_described(arm.cost_kind()))]
        if not plain and arm.cost_kind().kind == "plain":
            name = "plain"
        return f"{file_name(network)}__{file_name(name)}"

    def _run_cell(self, network: str, arm: Arm, steps: int, seed: int) -> Cell:
        arguments = {
            "model": self.config.models[network],
            "data": self.data,
            "arm": arm,
            "training": self.config.training,
            "steps": steps,
            "seed": seed,
        }
        fingerprint = {**self.shared[network], "arm": _described(arm), "steps": steps, "seed": seed}
        name = f"{file_name(network)}__{file_name(arm.name)}__steps{steps}__seed{seed}"
        return Cell(name, train_arm, arguments, fingerprint, f"{network} {arm.name}", steps)


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


def json_key(value: Mapping[str, Any]) -> str:
    """A mapping as a key, whatever its order."""
    return repr(sorted((key, repr(inner)) for key, inner in value.items()))


def _described(arm: Arm) -> dict[str, Any]:
    return {"kind": arm.kind, "options": plain_value(arm.options)}
