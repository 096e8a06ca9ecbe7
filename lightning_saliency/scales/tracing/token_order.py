"""Where the patch tokens lie in a sequence that holds others, too, and whether some were dropped or all are shuffled.

Shapes do not say it: a class token stands before the patches in one network and behind them in another, a text before
or behind, what is left of dropped patches may have as many tokens as a coarser grid, and shuffled ones are as many as
before. So the tokens themselves are compared with the patches from which they were made.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

import torch
from torch import Tensor, nn
from torch.nn.functional import normalize

from lightning_saliency.scales.tracing.origins import Shape

#: Channels of a token that are compared, at most; they stand for all.
_CHANNELS = 32
#: Patches of which a copy is kept, at most, as what has more is an early layer of a large image, and tokens times
#: patches that are compared.
_MOST_TOKENS, _MOST_PAIRS = 16_384, 2**24
#: The least correlation, over tokens and channels, with the patches at the place where they lie, and by how much it has
#: to exceed that at the place right behind all other tokens, where they are looked for without such evidence.
_CORRELATED, _CLEARLY = 0.5, 0.2
#: The largest share of a sequence's mean square by which a token may differ from the patch that it is.
_SAME = 1e-3
#: Of tokens that are patches, or of patches that are tokens, the least share where some were dropped or all shuffled.
_LEFT = 0.8


class TokenOrder:
    """Compares the sequences of tokens of a forward pass with the patches that came before them.

    One image is looked at, and up to 32 channels of each token. Of each size of tensor the first is kept until the pass
    is over, so that nothing but these few numbers is held.

    Args:
        model: The network, among whose parameters and buffers the tables of positions ``[1, N, C]`` are that it may add
            to the patches; ``None``: it has none.
    """

    def __init__(self, model: nn.Module | None = None) -> None:
        held = () if model is None else (*model.parameters(), *model.buffers())
        # Sharded tables, which are of a type of their own, do not add up with the patches.
        plain = (each for each in held if type(each) in (Tensor, nn.Parameter) and each.is_floating_point())
        self._tables = [each.detach() for each in plain if each.ndim == 3 and each.shape[0] == 1 < each.shape[1]]
        self._patches: dict[tuple[int, int], Tensor] = {}
        self._places: dict[tuple[int, int], int] = {}
        self._scattered: dict[tuple[int, int], tuple[int, ...]] = {}
        self._settled: set[tuple[int, int]] = set()

    def note(self, tensor: Tensor | None, shape: Shape | None) -> None:
        """Look at what enters or leaves a call.

        Args:
            tensor: The tensor; ``None``: there is none.
            shape: Its shape for one image, see `shape_of`.
        """
        if tensor is None or shape is None or shape[0] != 1 or len(shape) < 3 or not tensor.is_floating_point():
            return
        try:
            with torch.no_grad():
                self._note(tensor.detach().as_subclass(Tensor)[0], shape)
        except Exception:  # as inside `torch.func.vmap`: what cannot be looked at says nothing of its order
            return

    def _note(self, image: Tensor, shape: Shape) -> None:
        if len(shape) == 3:
            self._compare(image, shape[1], shape[2])
        for dim in {1, len(shape) - 1} if len(shape) > 3 else {2}:
            count = math.prod(shape[1:]) // max(shape[dim], 1)
            if 1 < count <= _MOST_TOKENS and (count, shape[dim]) not in self._patches:
                patches = _few(image.movedim(dim - 1, -1))
                # Patches that are all alike, as of an empty image, cannot be known again.
                if (patches - patches.mean(0)).square().mean() > _SAME * patches.square().mean():
                    self._patches[count, shape[dim]] = patches

    def before(self, tokens: int, patches: int) -> int | None:
        """How many other tokens stand before so many patch tokens in a sequence of ``tokens``; ``None``: unknown."""
        return self._places.get((tokens, patches))

    def scattered(self, tokens: int, patches: int) -> tuple[int, ...]:
        """Which patches the tokens are, in their order, where they do not lie side by side; else none."""
        return self._scattered.get((tokens, patches), ())

    def _compare(self, image: Tensor, tokens: int, channels: int) -> None:
        for (patches, width), kept in self._patches.items():
            pair = tokens, patches
            alike = width == channels and kept.device == image.device
            if pair in self._settled or not alike or not 1 < tokens * patches <= _MOST_PAIRS:
                continue
            ours = _few(image)
            place = self._place(ours, kept, channels) if tokens >= patches else None
            if place is None:
                self._scattered[pair] = self._rows(ours, kept, channels)
            else:
                self._places[pair] = place
            # As many tokens as patches may be shuffled later on, as long as they can be known again.
            if place is None or tokens > patches:
                self._settled.add(pair)

    def _place(self, tokens: Tensor, patches: Tensor, channels: int) -> int | None:
        """How many tokens stand before the patches, if that is clear."""
        count, surplus = len(patches), len(tokens) - len(patches)
        scores = tokens.new_full((surplus + 1,), -1)
        for table in (None, *self._tables_of(channels, {len(tokens), count})):
            for place in range(surplus + 1):
                made = patches
                if table is not None:
                    made = patches + (table if len(table) == count else table[place : place + count])
                score = _correlation(tokens[place : place + count], made)
                scores[place] = torch.maximum(scores[place], score)
        scores = scores.nan_to_num(-1)
        best = int(scores.argmax())
        clear = best == surplus or scores[best] - scores[surplus] >= _CLEARLY
        return best if clear and scores[best] >= _CORRELATED else None

    def _rows(self, tokens: Tensor, patches: Tensor, channels: int) -> tuple[int, ...]:
        """The patches that are among the tokens, in whatever order, if they are most of the fewer; else none."""
        count, size = len(patches), tokens.square().mean()
        for table in (None, *self._tables_of(channels)):
            if table is not None and len(table) < count:
                continue
            made = patches if table is None else patches + table[len(table) - count :]
            distances, rows = (torch.cdist(tokens, made).square() / tokens.shape[1]).min(dim=1)
            same = distances <= _SAME * size
            found = rows[same].tolist()
            if len(set(found)) >= _LEFT * min(len(tokens), count):
                return tuple(found)
        return ()

    def _tables_of(self, channels: int, lengths: set[int] | None = None) -> Iterator[Tensor]:
        for table in self._tables:
            if table.shape[2] == channels and (lengths is None or table.shape[1] in lengths):
                yield _few(table[0])


def pooled_cells(cells: Sequence[int], size: Sequence[int], smaller: Sequence[int]) -> tuple[int, ...]:
    """Where tokens lie on a smaller grid, each of which was pooled of tokens of a grid that fill one of its cells.

    Args:
        cells: Where the tokens that were pooled lie, in their order, as positions of their grid in row-major order.
        size: (h, w) of that grid.
        smaller: (h, w) of the smaller one.

    Returns:
        The same for the smaller grid; empty if neither the tokens in a row nor those so many apart make one cell.

    Example:
        >>> pooled_cells([0, 2, 8, 10, 1, 3, 9, 11, 4, 6, 12, 14, 5, 7, 13, 15], (4, 4), (2, 2))
        (0, 1, 2, 3)
    """
    (h, w), (rows, columns) = size, smaller
    if h % rows or w % columns or len(cells) != h * w:
        return ()
    blocks = torch.tensor([cell // w * rows // h * columns + cell % w * columns // w for cell in cells])
    for groups in (blocks.view(-1, rows * columns).T, blocks.view(rows * columns, -1)):
        if bool((groups == groups[:, :1]).all()):
            return tuple(groups[:, 0].tolist())
    return ()


def _few(tokens: Tensor) -> Tensor:
    """Up to ``_CHANNELS`` channels of tokens ``[…, C]``, ``[N, c]``, as a copy of their own."""
    step = -(-tokens.shape[-1] // _CHANNELS)
    return tokens[..., ::step].flatten(0, -2).to(torch.float32, copy=True)


def _correlation(first: Tensor, second: Tensor) -> Tensor:
    """The correlation of two ``[N, C]`` over all but what all tokens have in common."""
    first, second = (normalize((each - each.mean(0)).flatten(), dim=0) for each in (first, second))
    return (first * second).sum()
