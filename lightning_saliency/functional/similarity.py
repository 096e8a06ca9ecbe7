"""How alike two saliency maps are: rank correlation, structural similarity, correlation of gradient histograms.

The three measures of Adebayo et al., "Sanity Checks for Saliency Maps" (2018), and the plain correlation of the pixels,
each per pair of maps, batched. With a NaN in one of the maps each is NaN.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor
from torchmetrics.functional.image import structural_similarity_index_measure

from lightning_saliency.checks import check_minimum

__all__ = ["hog_similarity", "pearson", "spearman", "ssim"]

# Wang et al. (2004): a Gaussian window of σ = 1.5, cut off at 3.5 σ: 5 pixels to either side, 11 across.
_SSIM_SIGMA, _SSIM_TRUNCATE, _SSIM_RADIUS = 1.5, 3.5, 5
# Dalal and Triggs (2005): 9 unsigned orientations, blocks of 3 × 3 cells, L2-Hys clipped at 0.2.
_HOG_ORIENTATIONS, _HOG_BLOCK, _HOG_CLIP, _HOG_EPS = 9, 3, 0.2, 1e-5


def pearson(a: Tensor, b: Tensor) -> Tensor:
    r"""Pearson's correlation of the pixels of each pair of maps.

    Of two maps of equal variance that share a part and are uncorrelated otherwise it is the share of that part in the
    variance. Two constant maps agree (1), a constant map and one that varies are uncorrelated (0), as for `spearman`.

    Args:
        a: Maps ``[B, ...]``, any range, any real dtype.
        b: Maps of the same shape.

    Returns:
        ``[B]`` in [-1, 1], float32 (float64 if an input is).

    Raises:
        ValueError: If the shapes differ.

    Example:
        >>> import torch
        >>> pearson(torch.tensor([[0.0, 1.0, 2.0], [0.0, 1.0, 2.0]]), torch.tensor([[3.0, 5.0, 7.0], [4.0, 4.0, 4.0]]))
        tensor([1., 0.])
    """
    return _correlation(*_pair(a, b))


def spearman(a: Tensor, b: Tensor) -> Tensor:
    r"""Spearman's rank correlation of each pair of maps.

    The Pearson correlation of the ranks of the pixels, tied pixels sharing the average of their ranks. A constant map
    has no order: two constant maps agree (1), a constant map and one that varies are uncorrelated (0), where the
    formula itself is 0 / 0. One sort per map.

    Args:
        a: Maps ``[B, ...]``, any range, any real dtype.
        b: Maps of the same shape.

    Returns:
        ``[B]`` in [-1, 1], float32 (float64 if an input is).

    Raises:
        ValueError: If the shapes differ.

    Example:
        >>> import torch
        >>> a = torch.tensor([[1.0, 2.0, 3.0], [1.0, 2.0, 3.0], [1.0, 2.0, 3.0]])
        >>> spearman(a, torch.tensor([[0.1, 0.2, 9.0], [3.0, 2.0, 1.0], [5.0, 5.0, 5.0]]))
        tensor([ 1., -1.,  0.])
    """
    a, b = _pair(a, b)
    return _correlation(_ranks(a), _ranks(b))


def ssim(a: Tensor, b: Tensor) -> Tensor:
    r"""Mean structural similarity (Wang et al. 2004) of each pair of maps in [0, 1].

    SSIM = (2 μ_a μ_b + C₁)(2 σ_ab + C₂) / ((μ_a² + μ_b² + C₁)(σ_a² + σ_b² + C₂)) under a Gaussian window of σ = 1.5 and
    11 × 11 pixels, averaged over the positions where the whole window lies in the map; C₁ = 0.01², C₂ = 0.03². Maps
    smaller than the window get the largest odd window that fits, its σ in proportion.

    Args:
        a: Maps ``[B, H, W]`` in [0, 1].
        b: Maps of the same shape.

    Returns:
        ``[B]``, 1 for equal maps, float32 (float64 if an input is).

    Raises:
        ValueError: If the shapes differ or are not ``[B, H, W]``.

    Example:
        >>> import torch
        >>> a = torch.linspace(0, 1, 256).reshape(1, 16, 16)
        >>> ssim(a, a), ssim(a, 1 - a)
        (tensor([1.]), tensor([-0.8262]))
    """
    a, b = _maps(a, b)
    if a.numel() == 0:
        return a.new_zeros(a.shape[0])
    radius = min(_SSIM_RADIUS, (min(a.shape[-2:]) - 1) // 2)
    sigma = _SSIM_SIGMA if radius == _SSIM_RADIUS else max(radius, 0.1) / _SSIM_TRUNCATE
    _, image = structural_similarity_index_measure(
        a.unsqueeze(1), b.unsqueeze(1), sigma=sigma, data_range=1.0, reduction="none", return_full_image=True
    )
    height, width = a.shape[-2:]
    # torchmetrics reflects the map beyond its borders and averages over those windows too; the definition does not.
    return image[..., radius : height - radius, radius : width - radius].mean(dim=(1, 2, 3))


def hog_similarity(a: Tensor, b: Tensor, *, pixels_per_cell: int = 16) -> Tensor:
    r"""Pearson correlation of the histograms of oriented gradients (Dalal and Triggs 2005) of each pair of maps.

    The descriptor has 9 unsigned orientations, square cells, blocks of 3 × 3 cells one cell apart, and L2-Hys
    normalisation. Two maps without any gradient agree (1); one with and one without are uncorrelated (0).

    Args:
        a: Maps ``[B, H, W]``, any range.
        b: Maps of the same shape.
        pixels_per_cell: Side of a cell in pixels. Maps too small for three cells across get the largest cell that
            fits three times (at least one pixel).

    Returns:
        ``[B]`` in [-1, 1], float32 (float64 if an input is).

    Raises:
        ValueError: If the shapes differ or are not ``[B, H, W]``, or if ``pixels_per_cell`` is not positive.

    Example:
        >>> import torch
        >>> rows, columns = torch.meshgrid(torch.arange(48.0), torch.arange(48.0), indexing="ij")
        >>> a = torch.stack([rows, rows])
        >>> hog_similarity(a, torch.stack([2 * rows, columns]), pixels_per_cell=8)
        tensor([ 1.0000, -0.1250])
    """
    a, b = _maps(a, b)
    check_minimum("pixels_per_cell", pixels_per_cell, 1)
    if a.numel() == 0:
        return a.new_zeros(a.shape[0])
    return _correlation(_hog(a, pixels_per_cell), _hog(b, pixels_per_cell))


def _hog(maps: Tensor, pixels_per_cell: int) -> Tensor:
    """The HOG descriptor of maps ``[B, H, W]``: ``[B, D]``."""
    batch, height, width = maps.shape
    vertical, horizontal = torch.zeros_like(maps), torch.zeros_like(maps)
    vertical[:, 1:-1] = maps[:, 2:] - maps[:, :-2]
    horizontal[:, :, 1:-1] = maps[:, :, 2:] - maps[:, :, :-2]
    degrees = torch.rad2deg(torch.atan2(vertical, horizontal))
    # Unsigned: half a turn is as many bins on, and floor and modulo take the negative angles to their opposites.
    bins = (degrees / (180.0 / _HOG_ORIENTATIONS)).floor().long() % _HOG_ORIENTATIONS
    votes = maps.new_zeros(batch, _HOG_ORIENTATIONS, height, width)
    votes.scatter_(1, bins.unsqueeze(1), torch.hypot(vertical, horizontal).unsqueeze(1))

    cell = max(1, min(pixels_per_cell, min(height, width) // _HOG_BLOCK))
    cells = F.avg_pool2d(votes, cell)
    block = min(_HOG_BLOCK, *cells.shape[-2:])
    blocks = cells.unfold(2, block, 1).unfold(3, block, 1).permute(0, 2, 3, 4, 5, 1).flatten(3)
    blocks = blocks / (blocks.square().sum(-1, keepdim=True) + _HOG_EPS**2).sqrt()
    blocks = blocks.clamp(max=_HOG_CLIP)
    return (blocks / (blocks.square().sum(-1, keepdim=True) + _HOG_EPS**2).sqrt()).flatten(1)


def _ranks(values: Tensor) -> Tensor:
    """Ranks of the values of each row of ``[B, N]``, averaged over ties, scaled to [-0.5, 0.5]."""
    count = values.shape[1]
    ordered, order = values.sort(dim=1)
    starts = torch.zeros_like(ordered, dtype=torch.int64)
    starts[:, 1:] = ordered[:, 1:] != ordered[:, :-1]
    group = starts.cumsum(1)
    sizes = torch.zeros_like(group).scatter_add_(1, group, torch.ones_like(group))
    # Twice the mean position of a group, an integer: the sum of its first position and its last.
    twice = (2 * sizes.cumsum(1) - sizes - 1).gather(1, group)
    scaled = (twice - (count - 1)).to(values.dtype) / (2 * max(count, 1))
    # NaN has no rank, but sort gives it one.
    scaled = scaled.masked_fill(ordered.isnan(), torch.nan)
    return torch.empty_like(values).scatter_(1, order, scaled)


def _correlation(a: Tensor, b: Tensor) -> Tensor:
    """Pearson correlation of the rows of two ``[B, N]`` tensors; constant rows: 1 with each other, 0 with any other."""
    if a.shape[1] == 0:
        return a.new_ones(a.shape[0])
    flat_a, flat_b = a.amax(1) == a.amin(1), b.amax(1) == b.amin(1)
    a, b = a - a.mean(1, keepdim=True), b - b.mean(1, keepdim=True)
    # One root of the product, not two roots: a row then correlates with itself by exactly 1.
    correlation = (a * b).sum(1) / (a.square().sum(1) * b.square().sum(1)).sqrt()
    return torch.where(flat_a | flat_b, (flat_a & flat_b).to(a.dtype), correlation.clamp(-1.0, 1.0))


def _pair(a: Tensor, b: Tensor) -> tuple[Tensor, Tensor]:
    """Both as ``[B, N]`` in the same floating type, at least float32."""
    if a.shape != b.shape or a.ndim == 0:
        raise ValueError(
            f"Got maps {list(a.shape)} and {list(b.shape)}. Allowed are two batches of one shape [B, ...]; resize one "
            "to the other first."
        )
    dtype = torch.promote_types(torch.promote_types(a.dtype, b.dtype), torch.float32)
    return a.to(dtype).flatten(1), b.to(dtype).flatten(1)


def _maps(a: Tensor, b: Tensor) -> tuple[Tensor, Tensor]:
    """Both as ``[B, H, W]`` in the same floating type, at least float32."""
    if a.ndim != 3:
        raise ValueError(f"Got maps {list(a.shape)}. Allowed are [B, H, W]; add or remove dimensions first.")
    shape = a.shape
    a, b = _pair(a, b)
    return a.reshape(shape), b.reshape(shape)
