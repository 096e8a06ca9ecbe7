"""The rule of ``find_scales``: which tensors of a traced forward pass a network's scales are."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

from torch import nn

from lightning_saliency._grids import Grid, Grids, Side
from lightning_saliency._trace import Call

#: Blocks taken from a network that has one grid only.
BLOCKS = 4


@dataclass(frozen=True)
class Reading:
    """One tensor of a trace: what to read, and the grid it lies on."""

    call: Call
    side: Side
    grid: Grid


@dataclass
class _Level:
    """One grid on the way down: the modules that ended on it, whether one with weights did, and where it is left."""

    grid: Grid
    last: Call | None = None
    worked: bool = False
    left_by: Reading | None = None
    on_grid: bool = True
    later_weights: bool = False
    entered: list[Call] = field(default_factory=list)


class Trunk:
    """A network's way from the image to its smallest grid, and the scales on it.

    The trace is cut into steps: the outermost calls that take one grid directly to the next, or keep a grid. A call is cut
    open if it passes over an intermediate grid, or if its grids are not known; a call that comes back to the grid on which
    it began (squeeze-and-excitation, windows, reduced keys) stays closed, unless it alone goes on downward where the
    others end (an encoder-decoder in one module). Walking along the steps, a level is left by the step that goes to a
    smaller grid; its input is the scale. Where the smaller grid appears between two steps, the output of the last one is.

    Args:
        root: The network's own call, traced with one image.
        grids: Its grids.
    """

    def __init__(self, root: Call, grids: Grids) -> None:
        self.root = root
        self.grids = grids
        self._calls = Counter(id(call.module) for call in root.walk())
        self._opened: set[int] = set()

    def readings(self) -> list[Reading]:
        """The scales, shallow to deep; empty if there are none."""
        while True:
            steps = list(self._steps(self.root))
            levels = self._levels(steps)
            inner = self._inner_descent(steps, levels[-1].grid)
            if inner is None:
                break
            self._opened.add(id(inner))
        scales = [reading for level in levels if (reading := self._reading(level, steps)) is not None]
        if len(scales) == 1:
            return self._blocks(scales[0]) or scales
        return self._named_by_the_network(scales)

    def called_once(self, call: Call) -> bool:
        """Whether the module is called once in the pass, so that its name says which tensor is meant."""
        return self._calls[id(call.module)] == 1

    def _steps(self, call: Call) -> Iterator[Call]:
        for child in call.children:
            if self._is_cut_open(child):
                yield from self._steps(child)
            else:
                yield child

    def _is_cut_open(self, call: Call) -> bool:
        if not call.children:
            return False
        before, after = self.grids.input(call), self.grids.output(call)
        if id(call) in self._opened or before is None or after is None or self.grids.several_outputs(call):
            return True
        inside = (self.grids.output(each) for each in call.walk())
        return after.smaller_than(before) and any(
            grid is not None and grid.smaller_than(before) and after.smaller_than(grid) for grid in inside
        )

    def _levels(self, steps: list[Call]) -> list[_Level]:
        levels = [_Level(self.grids.image)]
        for position, step in enumerate(steps):
            before, after = self.grids.input(step), self.grids.output(step)
            if after is None:
                continue
            if not self._take(levels, step, before or levels[-1].grid, after, steps[position + 1 :]):
                break
        return levels

    def _take(self, levels: list[_Level], step: Call, before: Grid, after: Grid, rest: list[Call]) -> bool:
        """Walk one step; ``False`` where the network goes to larger grids for good."""
        level = levels[-1]
        if before.is_vector:
            # Left by a function (`x.mean((2, 3))`), for good or, in squeeze-and-excitation, for a moment.
            if level.on_grid:
                level.left_by, level.on_grid = self._output_of_last(level), False
            if after.is_vector:
                return True
            before = level.grid
        if before.smaller_than(level.grid):
            level.left_by = self._output_of_last(level)
            level = _Level(before)
            levels.append(level)
        late = level.grid.smaller_than(before)
        if late and not (after.close_to(level.grid) or after.smaller_than(level.grid)):
            return self._grow(levels, before, rest)
        if level.grid.smaller_than(after):
            return self._grow(levels, after, rest)
        level.on_grid = True
        if after.smaller_than(level.grid):
            readable = not late and self.called_once(step)
            left_by = Reading(step, "input", before) if readable else self._output_of_last(level)
            level.left_by = left_by
            if after.is_vector:
                level.on_grid = False
                return True
            level = _Level(after)
            levels.append(level)
        level.grid = after
        level.worked |= self._works_on(step, after)
        if self.called_once(step):
            level.last = step
        return True

    def _grow(self, levels: list[_Level], grid: Grid, rest: list[Call]) -> bool:
        level = levels[-1]
        if len(levels) == 1 and not level.worked:
            # The image itself was enlarged.
            levels[0] = _Level(grid)
            return True
        ...
        return False
