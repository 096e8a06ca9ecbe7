"""What maps cost, as a table and as files."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from lightning_saliency.functional.operations import fast_cam_memory, fast_cam_operations
from lightning_saliency.reports.tables import Column, Estimate, TableData
from lightning_saliency.studies.engine.files import as_json, result_folder, write_results
from lightning_saliency.studies.method_costs.measuring import FORWARD, MethodCost

# The paper does not state them; see `fast_cam_operations`.
_LOGARITHM, _ERROR_FUNCTION = 13, 26
_COUNTED, _MEASURED = "counted, a map", "measured, the batch"
COLUMNS = (
    Column("passes", "passes", None, _COUNTED, digits=1),
    Column("backward", "backward, %", None, _COUNTED, digits=2),
    Column("gflops", "GFLOPs", None, _COUNTED, digits=2),
    Column("flops_ratio", "× forward", None, _COUNTED, digits=2),
    Column("seconds", "seconds", None, _MEASURED, digits=3),
    Column("ratio", "× forward", None, _MEASURED, digits=2),
    Column("megabytes", "MB", None, _MEASURED, digits=1),
)
CAPTION = (
    "passes: images passed forward for one map. backward: FLOPs of gradients in % of those of a forward pass. GFLOPs: "
    "convolutions, matrix products and attention by torch.utils.flop_counter, a multiplication and an addition being "
    "two. seconds: median over the rounds, in which all took turns; × forward: its ratio to the forward pass's, with "
    "the quartiles of the rounds. MB: most memory of tensors held at once beyond what was held before."
)


@dataclass(frozen=True)
class CostResult:
    """What an explainer's maps cost beside the forward pass.

    Attributes:
        network: Name of the network.
        costs: Name -> cost, the forward pass first.
        scales: Channels, height and width of the network's scales.
        machine: Facts about the machine and the images, by name.
    """

    network: str
    costs: Mapping[str, MethodCost]
    scales: Sequence[tuple[int, int, int]]
    machine: Mapping[str, Any] = field(default_factory=dict)

    def table(self) -> TableData:
        """All methods, counted and measured."""
        forward = self.costs[FORWARD]
        rows = {
            self._label(name, cost): {
                "passes": _value(cost.passes),
                "backward": _value(100 * cost.backward),
                "gflops": _value(cost.flops / 1e9),
                "flops_ratio": _value(cost.flops / forward.flops),
                "seconds": _value(cost.time.seconds),
                "ratio": Estimate(cost.time.ratio, cost.time.low, cost.time.high, 1 if cost.estimated else 2),
                "megabytes": _value(cost.memory / 1e6),
            }
            for name, cost in self.costs.items()
        }
        starred = any(cost.estimated for cost in self.costs.values())
        note = " *: extrapolated from the masked images that fitted into the time." if starred else ""
        return TableData(COLUMNS, {self.network: rows}, CAPTION + note)

    def by_the_paper(self) -> list[str]:
        """Sentences with the operations of SMOE Scale and Fast-CAM as the paper counts them (SMOE paper, Sec. 4.1).

        The paper sets them beside the network's multiplications, an addition with each, counted as one: half of the
        FLOPs of `table`.
        """
        counted = [sum(column) for column in zip(*fast_cam_operations(self.scales), strict=True)]
        total, network = sum(counted), self.costs[FORWARD].flops / 2
        dear = fast_cam_operations(self.scales, logarithm=_LOGARITHM, error_function=_ERROR_FUNCTION)
        most = sum(map(sum, dear))
        return [
            "Operations of the combined map of one image by the paper's counting (Table 6): statistics "
            f"{counted[0]:,}, normalisation {counted[1]:,}, combination {counted[2]:,}; {total:,} in all, "
            f"{100 * total / network:.2f} % of the {network:.3g} multiplications of the forward pass, which are "
            f"{network / total:.0f} times as many.",
            f"With {_LOGARITHM} operations for a logarithm and {_ERROR_FUNCTION} for an error function, from which the "
            f"paper's upper numbers follow: statistics {sum(one.statistic for one in dear):,}; {most:,} in all, "
            f"{100 * most / network:.2f} % of them, which are {network / most:.0f} times as many.",
            f"Memory by the paper's counting: {fast_cam_memory(self.scales) / 1e3:.0f} kB for one image.",
        ]

    def save(self, folder: str | Path) -> list[Path]:
        """Write ``cost.md`` and ``cost.json``.

        Args:
            folder: Where they go.

        Returns:
            The files.
        """
        facts = "".join(f"- {name}: {value}\n" for name, value in self.machine.items())
        text = f"{self.table().markdown()}\n" + "\n\n".join(self.by_the_paper()) + f"\n\n{facts}"
        values = {
            "network": self.network,
            "machine": dict(self.machine),
            "scales": [list(scale) for scale in self.scales],
            "costs": {
                name: {
                    "passes": cost.passes,
                    "backward": cost.backward,
                    "flops": cost.flops,
                    "memory_bytes": cost.memory,
                    "estimated": cost.estimated,
                    **cost.time._asdict(),
                }
                for name, cost in self.costs.items()
            },
        }
        return write_results(result_folder(folder, None), {"cost.md": text, "cost.json": as_json(values)})

    def _label(self, name: str, cost: MethodCost) -> str:
        return f"{name}*" if cost.estimated else name


def _value(value: float) -> Estimate:
    return Estimate(value, value, value, 1)
