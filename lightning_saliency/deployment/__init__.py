"""Networks with their maps in production: one pass, one file; and images too large for one pass."""

from lightning_saliency.deployment.export import Exported, ExportError, ExportFormat, export_network
from lightning_saliency.deployment.module import SaliencyModule
from lightning_saliency.deployment.tiles import explain_tiled, tiled_scales

__all__ = [
    "ExportError",
    "ExportFormat",
    "Exported",
    "SaliencyModule",
    "explain_tiled",
    "export_network",
    "tiled_scales",
]
