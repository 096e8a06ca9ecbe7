"""Do saliency maps depend on what a network has learnt? Its weights are randomised layer by layer."""

from lightning_saliency.studies.sanity_check.config import SanityCheckConfig
from lightning_saliency.studies.sanity_check.results import SanityCheckResult
from lightning_saliency.studies.sanity_check.run import plan_sanity_check, run_sanity_check

__all__ = ["SanityCheckConfig", "SanityCheckResult", "plan_sanity_check", "run_sanity_check"]
