"""Tables, plots and pages of results."""

from lightning_saliency.reports.explain import explain_images
from lightning_saliency.reports.explained import ExplainedImage, ExplainedImages
from lightning_saliency.reports.plots import Example, bar_plot, curve_plot, example_sheet, save_figure
from lightning_saliency.reports.tables import Column, Estimate, TableData

__all__ = [
    "Column",
    "Estimate",
    "Example",
    "ExplainedImage",
    "ExplainedImages",
    "TableData",
    "bar_plot",
    "curve_plot",
    "example_sheet",
    "explain_images",
    "save_figure",
]
