"""Lightning callbacks: what is added to a ``Trainer``."""

from lightning_saliency.callbacks._options import MonitorConfigurationError
from lightning_saliency.callbacks.saliency_monitor import SaliencyMonitor

__all__ = ["MonitorConfigurationError", "SaliencyMonitor"]
