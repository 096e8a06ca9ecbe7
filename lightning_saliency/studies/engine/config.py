"""Where a study's results go, and what computes them."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from lightning_saliency.files import file_of_this_machine

Engine = Literal["local", "ray"]


@dataclass
class EngineConfig:
    """Where the results go, and what computes them.

    Args:
        output: Folder of all results; a study that was killed continues from it.
        engine: ``"local"`` or ``"ray"``, see `lightning_saliency.studies.engine.run.run_cells`.
        workers: Processes of ``engine="local"``. With ``"ray"``, which finds out itself how many cells the cluster
            takes at a time, what a plan divides by; 1: it does not know.
        cpus_per_cell: Processors for a cell.
        gpus_per_cell: GPUs for a cell, whole or a share.
        retries: How often a cell is restarted after its process is lost.
    """

    output: str | None = "runs/study"
    engine: Engine = "local"
    workers: int = 1
    cpus_per_cell: float = 1
    gpus_per_cell: float = 0
    retries: int = 2

    @property
    def folder(self) -> Path:
        """The folder of all results, absolute.

        Raises:
            ValueError: If there is none.
        """
        if self.output is None:
            raise ValueError("Got output=None. Allowed is a folder, in which the study keeps its results; name one.")
        return file_of_this_machine(self.output, "output folder").resolve()

    @property
    def elsewhere(self) -> bool:
        """Whether cells are computed in other processes than this one."""
        return self.engine != "local" or self.workers > 1

    def plan_workers(self) -> int:
        """How many cells are computed at a time; 0: unknown."""
        return self.workers if self.engine == "local" or self.workers > 1 else 0

    def engine_options(self) -> dict[str, Any]:
        """The arguments of ``run_cells``."""
        return {
            "engine": self.engine,
            "workers": self.workers,
            "cpus_per_cell": self.cpus_per_cell,
            "gpus_per_cell": self.gpus_per_cell,
            "retries": self.retries,
        }
