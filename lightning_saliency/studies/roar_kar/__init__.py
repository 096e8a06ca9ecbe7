"""ROAR and KAR: networks retrained on masked images."""

from lightning_saliency.studies.roar_kar.config import RoarKarConfig
from lightning_saliency.studies.roar_kar.results import RoarKarResult
from lightning_saliency.studies.roar_kar.run import plan_roar_kar, run_roar_kar

__all__ = ["RoarKarConfig", "RoarKarResult", "plan_roar_kar", "run_roar_kar"]
