"""Maps as pictures: LOVI (SMOE paper, Eq. 4-7), colour maps by name, and the blend with the grey image.

Pictures are RGB `[B, 3, H, W]`, float32 (float64 if the maps are), in [0, 1]. Values outside [0, 1] are drawn as the
nearer end of the range, NaN as black.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Literal

import torch
from matplotlib import colormaps
from torch import Tensor

from lightning_saliency.checks import check_floating, check_scale_maps
from lightning_saliency.functional._columns import upcast

# ITU-R BT.601, the usual "grey version" of an RGB image.
_LUMA = (0.299, 0.587, 0.114)


def lovi(maps: Tensor, colors: Literal["hue", "safe"] = "hue") -> Tensor:
    """Layer Ordered Visualization of Information: colour says which scales are active at a pixel (SMOE paper, Eq. 4-7).

    φ(k) = 1 − (k − 1)/(K − 1)                        first scale 1, last scale 0
    hue = 300° · Σₖ sₖ φ(k) / Σₖ sₖ                   first scale violet (300°), last scale red (0°)
    saturation = 1 − (Σₖ sₖ / (K · max s) − ν) / (1 − ν),  ν = 1/K
    value = max s

    One active scale gives a vivid colour, all scales equally active give white, none gives black. The saturation is the
    one with the end points that the paper's text states; its Eq. 6 as printed is not dimensionless. With K = 1 there is
    no order to show, the one scale being at once the only one and all of them: the picture is the map in grey.

    Args:
        maps: `[B, K, H, W]`, in [0, 1], shallow to deep, all at one size.
        colors: `"hue"`, the paper's, or `"safe"`: from blue (first scale) over red to yellow (last scale), which eyes
            that cannot tell red from green distinguish, too; all else is the same.

    Returns:
        RGB `[B, 3, H, W]` in [0, 1].

    Raises:
        TypeError: If `maps` is not a real floating-point tensor.
        ValueError: If it does not have four dimensions, K = 0, or there are no such colours.

    >>> lovi(torch.tensor([0.0, 0.0, 1.0]).reshape(1, 3, 1, 1)).flatten()  # only the last of three scales: red
    tensor([1., 0., 0.])
    """
    check_scale_maps(maps)
    if colors not in ("hue", "safe"):
        raise ValueError(f"Got colors={colors!r}. Allowed are 'hue' and 'safe'; use one of them.")
    maps = upcast(maps).nan_to_num(nan=0.0).clamp(0, 1)
    scales = maps.shape[1]
    value = maps.amax(1)
    if scales == 1:
        return _hsv_to_rgb(torch.zeros_like(value), torch.zeros_like(value), value)
    # Relative to the largest, so that the sums keep their precision however dark the pixel.
    relative = maps / torch.where(value == 0, 1, value).unsqueeze(1)
    total = torch.where(value == 0, 1, relative.sum(1))
    order = torch.linspace(1, 0, scales, dtype=maps.dtype, device=maps.device)
    place = (relative * order[:, None, None]).sum(1) / total
    nu = 1 / scales
    saturation = (1 - (total / scales - nu) / (1 - nu)).clamp(0, 1)
    if colors == "hue":
        return _hsv_to_rgb(300 / 360 * place, saturation, value)
    table = torch.tensor(color_table("safe"), dtype=maps.dtype, device=maps.device)
    pure = table[(place * (len(table) - 1)).round().long()].movedim(-1, 1)
    return value.unsqueeze(1) * (1 - saturation.unsqueeze(1) * (1 - pure))


def heatmap(maps: Tensor, colormap: str = "jet") -> Tensor:
    """Maps in the colours of a matplotlib colour map.

    Args:
        maps: `[B, H, W]`, in [0, 1]; not differentiable.
        colormap: Its name in matplotlib, such as `"jet"`, `"viridis"`, `"inferno"` or `"gray"`.

    Returns:
        RGB `[B, 3, H, W]` in [0, 1], equal to matplotlib's.

    Raises:
        TypeError: If `maps` is not a real floating-point tensor.
        ValueError: If it does not have three dimensions, or the colour map is unknown.

    >>> heatmap(torch.tensor([[[0.0, 1.0]]]), "gray")[0, :, 0]
    tensor([[0., 1.],
            [0., 1.],
            [0., 1.]])
    """
    check_floating(maps, "maps")
    if maps.ndim != 3:
        raise ValueError(f"Got maps {list(maps.shape)}. Allowed are [B, H, W]; combine the scales first, or index one.")
    values = upcast(maps).detach()
    table = torch.tensor(_colormap_table(colormap), dtype=values.dtype, device=values.device)
    # The last row, black, is for NaN.
    size = table.shape[0] - 1
    index = (values.clamp(0, 1) * size).nan_to_num(nan=float(size)).long()
    index = torch.where(values.isnan(), size, index.clamp_max(size - 1))
    return table[index].movedim(-1, 1).contiguous()


def color_table(name: Literal["heat", "hue", "safe"]) -> list[list[float]]:
    """The colours of maps and of LOVI as 256 RGB triples in [0, 1].

    Args:
        name: `"heat"`: of a map from 0 to 1, dark to bright in even steps for the eye (matplotlib's inferno). `"hue"`
            and `"safe"`: of LOVI from the last scale to the first, see `lovi`.

    >>> [round(value, 2) for value in color_table("heat")[0] + color_table("hue")[0]]
    [0.0, 0.0, 0.01, 1.0, 0.0, 0.0]
    """
    if name == "heat":
        return _colormap_table("inferno")[:-1]
    if name == "safe":
        # As bright as can be: how much is said by LOVI's value.
        return [[part / max(color) for part in color] for color in reversed(_colormap_table("plasma")[:-1])]
    place = torch.linspace(0, 1, 256, dtype=torch.float32).reshape(1, 1, -1)
    ones = torch.ones_like(place)
    colors: list[list[float]] = _hsv_to_rgb(300 / 360 * place, ones, ones)[0, :, 0].T.tolist()
    return colors


def stretched(maps: Tensor, low: float = 0.02, high: float = 0.99) -> Tensor:
    """Each map from its own low quantile, which becomes 0, to its high one, which becomes 1.

    Args:
        maps: `[B, H, W]`.
        low: Share of the values that become 0.
        high: Share of the values below 1.

    Returns:
        `[B, H, W]` in [0, 1]; 0 for a map of one value alone.

    Raises:
        TypeError: If `maps` is not a real floating-point tensor.
        ValueError: If it does not have three dimensions.

    >>> stretched(torch.linspace(0.4, 0.6, 101).reshape(1, 1, -1))[0, 0, [0, 50, 100]]
    tensor([0.0000, 0.4948, 1.0000])
    """
    check_floating(maps, "maps")
    if maps.ndim != 3:
        raise ValueError(f"Got maps {list(maps.shape)}. Allowed are [B, H, W]; combine the scales first, or index one.")
    values = upcast(maps).nan_to_num(nan=0.0)
    ordered = values.flatten(1).sort(dim=1).values
    places = [min(ordered.shape[1] - 1, int(share * ordered.shape[1])) for share in (low, high)]
    least, most = (ordered[:, place, None, None] for place in places)
    return ((values - least) / (most - least).clamp_min(1 / 256)).clamp(0, 1)


def highlight(images: Tensor, maps: Tensor, alpha: float = 0.8) -> Tensor:
    """The photo as it is, and over it the colours of a map where the map is high.

    Args:
        images: `[B, 3, H, W]` in [0, 1]: not as normalised for the network.
        maps: `[B, H, W]` in [0, 1]; each is stretched to its own range, see `stretched`.
        alpha: The colours' weight where the map is highest, in [0, 1]; below the 0.3 of a stretched map it is 0.

    Returns:
        RGB `[B, 3, H, W]` in [0, 1].

    Raises:
        TypeError: If either is not a real floating-point tensor.
        ValueError: If the sizes differ, or `alpha` lies outside [0, 1].

    >>> highlight(torch.ones(1, 3, 1, 4), torch.tensor([[[0.0, 0.1, 0.2, 1.0]]]), alpha=1)[0, :, 0, 1]
    tensor([1., 1., 1.])
    """
    check_floating(images, "images")
    if not 0 <= alpha <= 1:
        raise ValueError(f"Got alpha={alpha}. Allowed are weights of the colours in [0, 1]; give one.")
    values = stretched(maps)
    if images.ndim != 4 or images.shape[1] != 3 or images.shape[-2:] != maps.shape[-2:] or len(images) != len(maps):
        raise ValueError(
            f"Got images {list(images.shape)} for maps {list(maps.shape)}. Allowed are [B, 3, H, W] of the maps' size; "
            "upsample the maps to the images' size."
        )
    table = torch.tensor(color_table("heat"), dtype=values.dtype, device=values.device)
    colors = table[(values * 256).long().clamp_max(255)].movedim(-1, 1)
    covered = alpha * ((values - 0.3) / 0.55).clamp(0, 1).unsqueeze(1)
    return upcast(images).nan_to_num(nan=0.0).clamp(0, 1) * (1 - covered) + colors * covered


def overlay(images: Tensor, colors: Tensor, alpha: float = 0.25) -> Tensor:
    """Colours blended with the grey version of the image: α · grey + (1 − α) · colours (SMOE paper, Fig. 1).

    The grey version of three channels is 0.299 R + 0.587 G + 0.114 B, one channel is grey already, and any other number
    of channels (multispectral images) is averaged.

    Args:
        images: `[B, C, H, W]`, in [0, 1]: not as normalised for the network.
        colors: RGB `[B, 3, H, W]` in [0, 1], from `lovi` or `heatmap`.
        alpha: Weight of the image, in [0, 1]; the paper takes 25 %.

    Returns:
        RGB `[B, 3, H, W]` in [0, 1].

    Raises:
        TypeError: If either is not a real floating-point tensor.
        ValueError: If a shape is not the one above, the sizes differ, or `alpha` lies outside [0, 1].

    >>> overlay(torch.ones(1, 1, 1, 1), torch.zeros(1, 3, 1, 1)).flatten()
    tensor([0.2500, 0.2500, 0.2500])
    """
    check_floating(images, "images")
    check_floating(colors, "colors")
    if not 0 <= alpha <= 1:
        raise ValueError(f"Got alpha={alpha}. Allowed are weights of the image in [0, 1]; give one.")
    if images.ndim != 4 or images.shape[1] == 0:
        raise ValueError(f"Got images {list(images.shape)}. Allowed are [B, C, H, W]; add the missing dimensions.")
    expected = (images.shape[0], 3, *images.shape[2:])
    if tuple(colors.shape) != expected:
        raise ValueError(
            f"Got colors {list(colors.shape)} for images {list(images.shape)}. Allowed are {list(expected)}; upsample "
            "the maps to the images' size before colouring them."
        )
    images, colors = upcast(images), upcast(colors)
    if images.shape[1] == 3:
        luma = torch.tensor(_LUMA, dtype=images.dtype, device=images.device)
        grey = (images * luma[:, None, None]).sum(1, keepdim=True)
    else:
        grey = images.mean(1, keepdim=True)
    picture = alpha * grey.nan_to_num(nan=0.0).clamp(0, 1) + (1 - alpha) * colors.nan_to_num(nan=0.0).clamp(0, 1)
    return picture.clamp(0, 1)


def _hsv_to_rgb(hue: Tensor, saturation: Tensor, value: Tensor) -> Tensor:
    """RGB `[B, 3, H, W]` of three `[B, H, W]` in [0, 1]; each channel falls off with its distance from its own hue."""
    offsets = torch.tensor((5.0, 3.0, 1.0), dtype=hue.dtype, device=hue.device)
    sixth = (offsets[:, None, None] + 6 * hue.unsqueeze(1)) % 6
    distance = torch.minimum(sixth, 4 - sixth).clamp(0, 1)
    return value.unsqueeze(1) * (1 - saturation.unsqueeze(1) * distance)


@lru_cache(maxsize=16)
def _colormap_table(name: str) -> list[list[float]]:
    """The RGB colours of matplotlib's `name`, and black after them."""
    if name not in colormaps:
        raise ValueError(
            f"Got colormap={name!r}. Allowed are matplotlib's {len(colormaps)} colour maps, such as 'jet', 'viridis', "
            "'inferno', 'turbo' and 'gray'; use one of them."
        )
    colormap = colormaps[name]
    colors: list[list[float]] = colormap(range(colormap.N))[:, :3].tolist()
    return [*colors, [0.0, 0.0, 0.0]]
