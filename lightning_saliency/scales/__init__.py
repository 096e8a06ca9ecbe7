"""Which tensors of a network are its scales, how they are read in a forward pass, and the maps made of them."""

from lightning_saliency.scales.find import NoScalesError, find_scales, named_scales
from lightning_saliency.scales.maps import ScaleMaps
from lightning_saliency.scales.scale import Scale
from lightning_saliency.scales.taps import ScaleTaps
from lightning_saliency.scales.tracing.tensor_refs import split_layer

__all__ = ["NoScalesError", "Scale", "ScaleMaps", "ScaleTaps", "find_scales", "named_scales", "split_layer"]
