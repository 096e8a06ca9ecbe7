"""What every per-column statistic shares: the working precision, rectification, bounded memory."""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from lightning_saliency.checks import check_choice, check_floating

RECTIFIERS: dict[str, Callable[[Tensor], Tensor]] = {
    "relu": lambda columns: columns.clamp_min(0),
    "abs": torch.abs,
    "softplus": F.softplus,
}

# Elements reduced at once. On a CPU a piece of 7 MB stays below glibc's thresholds, so that its memory is used again
# instead of being mapped and page-faulted anew, and is large enough for the cost of each operation; inside a network's
# own pass half of it takes 1.6 times as long. Elsewhere a launch must be worth its cost.
_CPU_PIECE = 7 * 2**18
_DEVICE_PIECE = 2**24
# Columns shorter than this that lie together in memory (channels last) are slow to reduce one by one on a CPU: laid out
# plane by plane first, 16 channels take 0.6 of the time.
_SHORT_COLUMN = 32


def upcast(values: Tensor) -> Tensor:
    """`values` in the working precision: half precision becomes float32, float32 and float64 stay as they are."""
    return values if values.dtype in (torch.float32, torch.float64) else values.float()


def widest(values: Tensor) -> Tensor:
    """`values` in float64 where the device has it (Apple's GPUs do not), in float32 otherwise."""
    return values if values.device.type == "mps" else values.double()


def rectify_columns(columns: Tensor, rectify: str) -> Tensor:
    """A new tensor of non-negative values: `"relu"` max(x, 0), `"abs"` |x|, `"softplus"` ln(1 + eˣ)."""
    check_choice("rectify", rectify, RECTIFIERS)
    return RECTIFIERS[rectify](columns)


def differentiable(values: Tensor) -> bool:
    """Whether autograd records what is done with `values`, so that nothing may be overwritten."""
    return torch.is_grad_enabled() and values.requires_grad


def reduce_columns(
    kernel: Callable[[Tensor, int], Tensor], activations: Tensor, dim: int, rectify: str | None = None
) -> Tensor:
    """Applies `kernel(columns, dim)`, which reduces `dim`, to `activations` in pieces that bound the extra memory.

    A piece holds whole columns; it is upcast and, if `rectify` is given, rectified before the kernel sees it. Under
    autograd and `torch.compile` there is one piece only: the graph keeps everything anyway, and a loop would stop the
    compiler from fusing.

    Raises:
        TypeError: If `activations` is not a real floating-point tensor.
        ValueError: If `activations` is a scalar, or `dim` is out of range or empty.
    """
    check_floating(activations, "activations")
    if not -activations.ndim <= dim < activations.ndim:
        raise ValueError(
            f"Got dim={dim} for activations {list(activations.shape)}. Allowed are their {activations.ndim} "
            "dimensions; give the dimension of the channels."
        )
    dim %= activations.ndim
    if activations.shape[dim] == 0:
        raise ValueError(
            f"Got activations {list(activations.shape)} without a channel in dimension {dim}. Allowed is at least one; "
            "give the dimension of the channels with dim=."
        )

    def reduce_piece(piece: Tensor, dim: int = dim) -> Tensor:
        columns = upcast(piece)
        return kernel(columns if rectify is None else rectify_columns(columns, rectify), dim)

    if torch.compiler.is_compiling() or differentiable(activations):
        return reduce_piece(activations)
    if activations.device.type != "cpu":
        return _in_pieces(reduce_piece, activations, dim, _DEVICE_PIECE)
    if activations.ndim > 1 and activations.stride(dim) == 1 and 1 < activations.shape[dim] <= _SHORT_COLUMN:
        return _in_pieces(
            lambda piece: reduce_piece(piece.movedim(dim, 1).contiguous(), 1), activations, dim, _CPU_PIECE
        )
    return _in_pieces(reduce_piece, activations, dim, _CPU_PIECE)


def _in_pieces(reduce_piece: Callable[[Tensor], Tensor], values: Tensor, dim: int, limit: int) -> Tensor:
    """`reduce_piece(values)`, split along the outermost dimension in memory (other than `dim`) while above `limit`."""
    others = [d for d in range(values.ndim) if d != dim and values.shape[d] > 1]
    if values.numel() <= limit or not others:
        return reduce_piece(values)
    split = max(others, key=values.stride)
    size = max(1, values.shape[split] * limit // values.numel())
    pieces = [_in_pieces(reduce_piece, piece, dim, limit) for piece in torch.split(values, size, split)]
    return torch.cat(pieces, split if split < dim else split - 1)


def moments(columns: Tensor, dim: int) -> tuple[Tensor, Tensor]:
    """Mean and population standard deviation (correction 0) over `dim`; the latter is exactly 0 for a constant column.

    The values are taken relative to the first one and to the largest distance from it: no rounding error then passes
    for a spread, and no square overflows.
    """
    first = columns.narrow(dim, 0, 1).detach()
    distance = columns - first
    low, high = torch.aminmax(distance.detach(), dim=dim, keepdim=True)
    reach = torch.maximum(high, -low)
    reach = torch.where(reach == 0, 1, reach)
    unit = distance / reach
    centre = unit.mean(dim, keepdim=True)
    variance = (unit - centre).square().mean(dim)
    reach = reach.squeeze(dim)
    return first.squeeze(dim) + centre.squeeze(dim) * reach, safe_sqrt(variance) * reach


def safe_sqrt(values: Tensor) -> Tensor:
    """√x for x ≥ 0, with gradient 0 instead of infinity at x = 0."""
    zero = values == 0
    return torch.where(zero, values, torch.where(zero, 1, values).sqrt())
