"""`SaliencyMonitor`: maps of a few images and numbers of all of them, from the passes of a training run."""

from lightning_saliency.callbacks.monitor.callback import SaliencyMonitor
from lightning_saliency.callbacks.monitor.options import MonitorConfigurationError
from lightning_saliency.callbacks.monitor.shortcuts.alert import ShortcutAlert

__all__ = ["MonitorConfigurationError", "SaliencyMonitor", "ShortcutAlert"]
