"""Metrics of saliency maps as torchmetrics classes, based on the functions of `lightning_saliency.functional`."""

from lightning_saliency.metrics.faithfulness import AverageDrop, DeletionAUC, IncreaseRate, InsertionAUC
from lightning_saliency.metrics.localization import BboxScore, EnergyPointingGame, PointingGame, TopFractionIoU

__all__ = [
    "AverageDrop",
    "BboxScore",
    "DeletionAUC",
    "EnergyPointingGame",
    "IncreaseRate",
    "InsertionAUC",
    "PointingGame",
    "TopFractionIoU",
]
