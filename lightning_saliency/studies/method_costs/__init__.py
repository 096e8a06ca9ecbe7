"""What a map costs: FLOPs, passes, seconds and memory beside the forward pass."""

from lightning_saliency.studies.method_costs.results import CostResult
from lightning_saliency.studies.method_costs.run import run_costs

__all__ = ["CostResult", "run_costs"]
