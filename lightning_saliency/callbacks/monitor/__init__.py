"""`SaliencyMonitor`: maps of a few images and numbers of all of them, from the passes of a training run."""

from lightning_saliency.callbacks.monitor.alert import ShortcutAlert
from lightning_saliency.callbacks.monitor.callback import SaliencyMonitor
from lightning_saliency.callbacks.monitor.options import MonitorConfigurationError

__all__ = ["MonitorConfigurationError", "SaliencyMonitor", "ShortcutAlert"]
