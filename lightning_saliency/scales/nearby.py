"""The tensors on a scale's grid, and the deepest of them that something depends on."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from torch import Tensor, nn

from lightning_saliency.scales.find import scale_of, traced
from lightning_saliency.scales.scale import Scale
from lightning_saliency.scales.tracing.grids import Grid, Grids
from lightning_saliency.scales.tracing.tensor_refs import TensorRef
from lightning_saliency.scales.tracing.trace import Call, prepared


@dataclass
class _Ends:
    """What enters a call and comes out of it, where that lies on the grid; each with its place in time."""

    call: Call
    entering: tuple[int, Scale] | None = None
    leaving: tuple[int, Scale] | None = None


def deepest_alive(
    model: nn.Module, example_input: Tensor, scale: Scale, alive: Callable[[Sequence[Scale]], Sequence[bool]]
) -> Scale | None:
    """The deepest tensor on a scale's grid, with as many channels, on which something still depends.

    Vision transformers that classify by a class token read nothing else behind their last layer that mixes tokens: from
    there on, the other tokens have no influence. What is looked for is then what enters the last block that mixes them.
    Of networks that read another tensor than the scale's, it is the latest one that they do read.

    Args:
        model: The network, see ``find_scales``.
        example_input: Images, see ``find_scales``.
        scale: One of its scales.
        alive: Says of tensors, given as scales, whether the thing depends on each. It is asked once.

    Returns:
        The tensor; ``None`` if there is none.
    """
    root = traced(model, prepared(model, example_input))
    grids = Grids(root)
    found = _on_grid(root, grids, scale)
    scales = list(dict.fromkeys(each[1] for ends in found.values() for each in (ends.entering, ends.leaving) if each))
    living = {each for each, lives in zip(scales, alive(scales), strict=True) if lives} if scales else set()

    def lives(end: tuple[int, Scale] | None) -> bool:
        return end is not None and end[1] in living

    latest = max(
        (end for ends in found.values() for end in (ends.entering, ends.leaving) if end is not None and lives(end)),
        key=lambda end: end[0],
        default=None,
    )
    if latest is None:
        return None
    dying = [ends for ends in found.values() if lives(ends.entering) and not lives(ends.leaving)]
    # The outermost call in which the latest living tensor's influence ends …
    block = next((ends for ends in dying if _spans(ends, latest[0], found)), None)
    if block is None:
        return latest[1]
    # … or the innermost one behind a layer with weights that still counts: the last block of a row.
    call = block.call
    while True:
        inside = [found[id(child)] for child in call.children]
        ending = [
            place
            for place, ends in enumerate(inside)
            if ends in dying and (ends.leaving is not None or _is_vector(grids, ends.call))
        ]
        if not ending:
            break
        before = (ends for ends in inside[: ending[-1]] if lives(ends.leaving))
        call = inside[ending[-1]].call
        if any(each.weighted for ends in before for each in ends.call.walk()):
            block = found[id(call)]
    return None if block.entering is None else block.entering[1]


def _is_vector(grids: Grids, call: Call) -> bool:
    grid = grids.of(call, "output")
    return grid is not None and grid.is_vector


def _spans(ends: _Ends, place: int, found: dict[int, _Ends]) -> bool:
    """Whether a place in time lies inside a call."""
    places = [end[0] for each in ends.call.walk() for end in (found[id(each)].entering, found[id(each)].leaving) if end]
    return min(places) <= place <= max(places)


def _on_grid(root: Call, grids: Grids, scale: Scale) -> dict[int, _Ends]:
    """The ends of all calls of modules that are called once."""
    counts = Counter(id(call.module) for call in root.walk())
    found: dict[int, _Ends] = {}
    place = 0

    def end(call: Call, side: str, grid: Grid | None) -> tuple[int, Scale] | None:
        nonlocal place
        place += 1
        if grid is None or counts[id(call.module)] != 1 or not call.name:
            return None
        if grid.size != scale.grid or grid.channels != scale.channels:
            return None
        if grid.ambiguous and scale.layout != "tokens":
            grid = replace(grid, layout=scale.layout)
        return place, scale_of(TensorRef(call, "input" if side == "input" else "output", grid))

    def visit(call: Call) -> None:
        found[id(call)] = ends = _Ends(call)
        ends.entering = end(call, "input", grids.of(call, "input"))
        for child in call.children:
            visit(child)
        ends.leaving = end(call, "output", grids.of(call, "output"))

    visit(root)
    return found
