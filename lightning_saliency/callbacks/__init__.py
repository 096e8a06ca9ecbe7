"""Lightning callbacks: what is added to a ``Trainer``."""

from lightning_saliency.callbacks.saliency_monitor import MonitorConfigurationError, SaliencyMonitor

__all__ = ["MonitorConfigurationError", "SaliencyMonitor"]
