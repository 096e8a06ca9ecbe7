"""The rule of ``find_scales``: which tensors of a traced forward pass are a network's scales."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from torch import nn

from lightning_saliency.scales.tracing.grids import Grid, Grids
from lightning_saliency.scales.tracing.origins import Beside
from lightning_saliency.scales.tracing.readings import Readings, works_on
from lightning_saliency.scales.tracing.tensor_refs import TensorRef
from lightning_saliency.scales.tracing.trace import Call

#: Blocks taken from a network that has one grid only.
BLOCKS = 4


def scale_refs(root: Call) -> list[TensorRef]:
    """The tensors of a network's scales, shallow to deep; empty if there are none.

    Where the whole has none, calls that the images entered are looked at by themselves, and then, in the same way, what
    is only presumed to be beside the images counts as theirs.

    Args:
        root: The network's own call, traced with one image; its ``inputs`` are the images' shape.
    """
    for beside in (Beside.PRESUMED, Beside.CERTAIN):
        entered = (call for call in root.walk() if call.origin.of_images and call.children)
        for call in (root, *(each for each in entered if each is not root)):
            refs = Trunk(call, Grids(call, beside, images=root.inputs), root).refs()
            if refs:
                return refs
    return []


@dataclass
class _Level:
    """One grid on the way down.

    Attributes:
        grid: The grid, as the latest step on it left it.
        last: Latest step that ended on the grid and whose module is called once.
        worked: Whether a layer with weights ran on the grid.
        left: Tensor at which the network last left the grid.
        here: Whether the network is still on this grid.
    """

    grid: Grid
    last: Call | None = None
    worked: bool = False
    left: TensorRef | None = None
    here: bool = True


class Trunk:
    """A network's way from the image to its smallest grid, and the scales on it.

    The trace is cut into steps: the outermost calls that take one grid directly to another, or keep it. A call is cut
    open where it goes to a smaller grid over an intermediate one, and where its grids are not known. A call that comes
    back to the grid it began on (squeeze-and-excitation, windows, reduced keys) stays closed, unless the way down would
    end there and this call alone goes on downward (an encoder-decoder inside one module, whatever its output's grid).

    Along the steps, each smaller grid is a new level. The step that leaves a level gives the scale by its input; where
    the smaller grid appears between two steps, because a function reduced it, the last step on the level gives it by
    its output. A grid to which the network returns from a vector is not left yet. The way ends where the grids grow
    for good. Calls whose tensors come from something beside the images are no steps: they lie on no grid.

    Args:
        root: The network's own call, traced with one image.
        grids: Its grids.
        whole: The call in which modules are counted that are called more than once; ``None``: ``root``.
    """

    def __init__(self, root: Call, grids: Grids, whole: Call | None = None) -> None:
        self.root = root
        self.grids = grids
        self._counts = Counter(id(call.module) for call in (whole or root).walk())
        self._readings = Readings(root, grids, self._counts)
        self._opened: set[int] = set()

    def refs(self) -> list[TensorRef]:
        """The tensors of the scales, shallow to deep; empty if there are none."""
        levels, steps = self._open_downward()
        found = [level.left for level in levels if level.worked and level.left is not None]
        if len(found) == 1:
            blocks = self._blocks(found[0].grid)
            if blocks:
                return [self._readings.before_logits(ref, steps) for ref in blocks]
            return [self._readings.behind_norm(self._readings.before_logits(found[0], steps))]
        named = self._readings.named_by_network([self._readings.before_logits(ref, steps) for ref in found])
        return [self._readings.behind_norm(ref) for ref in named]

    def _open_downward(self) -> tuple[list[_Level], list[Call]]:
        """The levels and steps, the calls that go on downward opened unless they lead to no smaller grid."""
        steps = list(self._steps(self.root))
        levels = self._levels(steps)
        closed = levels, steps
        opened: set[int] = set()
        while (inner := self._inner_descent(steps, levels[-1].grid)) is not None:
            self._opened.add(id(inner))
            steps = list(self._steps(self.root))
            levels = self._levels(steps)
            if levels[-1].grid.smaller_than(closed[0][-1].grid):
                closed, opened = (levels, steps), set(self._opened)
        self._opened = opened
        return closed

    def _is_called_once(self, call: Call) -> bool:
        """Whether the module's name says which tensor is meant: a pooling module used everywhere names none."""
        return self._counts[id(call.module)] == 1

    def _steps(self, call: Call) -> Iterator[Call]:
        for child in call.children:
            if self._is_cut_open(child):
                yield from self._steps(child)
            else:
                yield child

    def _is_cut_open(self, call: Call) -> bool:
        if not call.children:
            return False
        before, after = self.grids.of(call, "input"), self.grids.of(call, "output")
        if id(call) in self._opened or before is None or after is None or self.grids.several_outputs(call):
            return True
        inside = (self.grids.of(each, "output") for each in call.walk())
        return after.smaller_than(before) and any(
            grid is not None and grid.smaller_than(before) and after.smaller_than(grid) for grid in inside
        )

    def _levels(self, steps: Sequence[Call]) -> list[_Level]:
        levels = [_Level(self.grids.image)]
        for position, step in enumerate(steps):
            before, after = self.grids.of(step, "input"), self.grids.of(step, "output")
            if after is None:
                continue
            if not self._descend(levels, step, before or levels[-1].grid, after):
                if len(levels) == 1 and not levels[0].worked:
                    # The image was enlarged before anything else.
                    larger = before if before is not None and levels[0].grid.smaller_than(before) else after
                    levels[0] = _Level(larger)
                    self._descend(levels, step, larger, after)
                elif not self._returns(steps[position + 1 :], levels[-1].grid):
                    levels[-1].left = levels[-1].left or self._output_of_last(levels[-1])
                    return levels
        if levels[-1].here:
            levels[-1].left = self._output_of_last(levels[-1])
        return levels

    def _descend(self, levels: list[_Level], step: Call, before: Grid, after: Grid) -> bool:
        """Go one step along; ``False``, and nothing done, if it is one to a larger grid."""
        level = levels[-1]
        if before.is_vector:
            if level.here:
                level.left = self._output_of_last(level)
            if after.is_vector:
                return True
            before = level.grid
        elif before.smaller_than(level.grid):
            level.left = self._output_of_last(level)
            level = _Level(before)
            levels.append(level)
        if level.grid.smaller_than(after):
            return False
        level.here = True
        if after.smaller_than(level.grid):
            # A step that begins on a larger grid belongs to a parallel branch.
            direct = before.close_to(level.grid) and self._is_called_once(step)
            # Of a step that a text and the images enter, the first tensor would be read.
            direct = direct and not self.grids.is_beside(step, "input")
            level.left = TensorRef(step, "input", before) if direct else self._output_of_last(level)
            # Not on the first level: what enters there is the image itself.
            level.worked = level.worked or (len(levels) > 1 and works_on(step, self.grids, level.grid))
            if after.is_vector:
                level.here = False
                return True
            level = _Level(after)
            levels.append(level)
        level.grid = after
        level.worked = level.worked or works_on(step, self.grids, after)
        if self._is_called_once(step):
            level.last = step
        return True

    def _returns(self, steps: Sequence[Call], grid: Grid) -> bool:
        """Whether a step still to come goes from a larger grid down to this one, or below: branches side by side."""
        for step in steps:
            before, after = self.grids.of(step, "input"), self.grids.of(step, "output")
            if before is None or after is None or after.is_vector:
                continue
            if grid.smaller_than(before) and (after.close_to(grid) or after.smaller_than(grid)):
                return True
        return False

    def _output_of_last(self, level: _Level) -> TensorRef | None:
        """The output of the last step on a level, named by the outermost module that ends with it."""
        call = self._readings.named(level.last)
        return None if call is None else TensorRef(call, "output", self.grids.of(call, "output") or level.grid)

    def _inner_descent(self, steps: Sequence[Call], grid: Grid) -> Call | None:
        """The only step from or to the last level that goes further down inside and comes back."""
        found = []
        for step in steps:
            before, after = self.grids.of(step, "input"), self.grids.of(step, "output")
            reaches = before is not None and (before.close_to(grid) or grid.smaller_than(before))
            if not reaches or after is None or after.smaller_than(grid):
                continue
            inside = ((call, self.grids.of(call, "output")) for call in step.walk() if call is not step)
            if any(
                each is not None and not each.is_vector and each.smaller_than(grid) and call.weighted
                for call, each in inside
            ):
                found.append(step)
        return found[0] if len(found) == 1 else None

    def _blocks(self, grid: Grid) -> list[TensorRef]:
        """Four blocks evenly spread in depth, of the longest row of blocks on the grid; empty if no row has as many."""
        longest: list[Call] = []
        for call in self.root.walk():
            rows: dict[type[nn.Module], list[Call]] = {}
            for child in call.children:
                before, after = self.grids.of(child, "input"), self.grids.of(child, "output")
                on_grid = before is not None and after is not None and before.close_to(grid) and after.close_to(grid)
                if on_grid and child.children and self._is_called_once(child):
                    rows.setdefault(type(child.module), []).append(child)
            longest = max([longest, *rows.values()], key=len)
        if len(longest) < BLOCKS:
            return []
        chosen = [longest[number * len(longest) // BLOCKS - 1] for number in range(1, BLOCKS + 1)]
        return [TensorRef(call, "output", self.grids.of(call, "output") or grid) for call in chosen]
