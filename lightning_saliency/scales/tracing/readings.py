"""Where a scale that the rule found is read: not at logits, behind a normalisation and ReLU, where the network says."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from torch import nn

from lightning_saliency.scales.tracing.grids import Grid, Grids
from lightning_saliency.scales.tracing.tensor_refs import TensorRef
from lightning_saliency.scales.tracing.trace import Call

_LINEAR = (nn.modules.conv._ConvNd, nn.Linear)
_NORMS = (nn.modules.batchnorm._NormBase, nn.GroupNorm)
_RELUS = (nn.ReLU, nn.ReLU6)
_NOTHING = (nn.Identity, nn.modules.dropout._DropoutNd)


class Readings:
    """What lies around the tensors of a trace.

    Args:
        root: The network's own call, traced with one image.
        grids: Its grids.
        counts: How often each module is called, by its ``id``.
    """

    def __init__(self, root: Call, grids: Grids, counts: Mapping[int, int]) -> None:
        self.root = root
        self.grids = grids
        self._counts = counts
        self._calls = [call for call in root.walk() if not grids.is_beside(call, "output")]
        self._leaves = [call for call in self._calls if _is_leaf(call)]

    def before_logits(self, ref: TensorRef, steps: Sequence[Call]) -> TensorRef:
        """The tensor before a map of logits, instead of the map.

        A map of logits has as many channels as the network's output, and comes straight out of the last layer with
        weights. On the image's own grid, where networks return an image or a class for each pixel, functions may follow
        that layer. A layer inside a step from a larger grid belongs to the reduction, and gives no logits.

        Args:
            ref: The tensor that the rule found.
            steps: The outermost calls that take one grid directly to another, or keep it.
        """
        output = self.grids.of(self.root, "output")
        if output is None or output.channels != ref.grid.channels:
            return ref
        number = ref.call.entered if ref.side == "input" else ref.call.left
        last = next((call for call in reversed(self._calls) if call.weighted), None)
        if last is None or not isinstance(last.module, _LINEAR):
            return ref
        per_pixel = output.close_to(ref.grid) and ref.grid.close_to(self.grids.image)
        # The scale's call holds that layer, or is a function of what it makes.
        from_last = self._calls[self._calls.index(last) :]
        behind = ref.side == "output" and any(call is each for each in from_last for call in ref.call.walk())
        before, after = self.grids.of(last, "input"), self.grids.of(last, "output")
        if after is None or not after.close_to(ref.grid) or not (last.left == number or (per_pixel and behind)):
            return ref
        if before is None or not before.close_to(ref.grid) or not self._is_called_once(last):
            return ref
        step = next((step for step in steps if any(call is last for call in step.walk())), last)
        begins = self.grids.of(step, "input")
        if begins is not None and not begins.close_to(ref.grid):
            return ref
        return TensorRef(last, "input", before)

    def behind_norm(self, ref: TensorRef) -> TensorRef:
        """The tensor behind a normalisation and ReLU, where they directly follow one that is not yet rectified.

        The tensor enters a normalisation and then ReLU (DenseNet, pre-activation ResNets); or it comes out of a
        normalisation, and a convolution on the same grid, a normalisation and ReLU follow (MobileNetV2). Activations
        that are functions are not seen.
        """
        number = ref.call.entered if ref.side == "input" else ref.call.left
        position = self._position(ref)
        following = [call for call in self._leaves[position:] if not isinstance(call.module, _NOTHING)]
        if not following or following[0].entered != number or self._is_rectified(position):
            return ref
        if isinstance(following[0].module, nn.modules.conv._ConvNd):
            before = self._behind(position)
            if before is None or not isinstance(before.module, _NORMS):
                return ref
            if len(following) < 2 or following[1].entered != following[0].left:
                return ref
            following = following[1:]
        relu = self._relu_of(following)
        grid = None if relu is None else self.grids.of(relu, "output")
        if relu is None or grid is None or not grid.close_to(ref.grid):
            return ref
        outermost = self.named(relu)
        if outermost is not None:
            return TensorRef(outermost, "output", grid)
        return ref

    def named_by_network(self, scales: list[TensorRef]) -> list[TensorRef]:
        """The scales, each read at the module that the network's own ``feature_info`` (timm) names for its grid."""
        named = self._feature_info()
        result = []
        for scale in scales:
            refs = [ref for ref in named if ref.grid.close_to(scale.grid)]
            result.append(refs[-1] if refs else scale)
        return result

    def named(self, call: Call | None) -> Call | None:
        """The outermost call of a named module that ends with a call and returns its tensor alone; ``None``: none."""
        found = None
        while call is not None and call.name:
            if self._is_called_once(call):
                found = call
            parent = call.parent
            if parent is None or parent.children[-1] is not call or parent.outputs != call.outputs[:1]:
                break
            call = parent
        return found

    def _is_called_once(self, call: Call) -> bool:
        return self._counts[id(call.module)] == 1

    def _position(self, ref: TensorRef) -> int:
        """How many leaves have begun when a tensor is read."""
        inside = {id(call) for call in ref.call.walk()}
        if ref.side == "output":
            return max((n + 1 for n, call in enumerate(self._leaves) if id(call) in inside), default=len(self._leaves))
        return next((n for n, call in enumerate(self._leaves) if id(call) in inside), len(self._leaves))

    def _behind(self, position: int) -> Call | None:
        """The last leaf before a position that does something."""
        before = (call for call in reversed(self._leaves[:position]) if not isinstance(call.module, _NOTHING))
        return next(before, None)

    def _is_rectified(self, position: int) -> bool:
        before = self._behind(position)
        return before is not None and (_is_activation(before.module) or _activation_in(before) is not None)

    def _relu_of(self, following: Sequence[Call]) -> Call | None:
        """The call of ReLU that ends a normalisation and ReLU, or the normalisation's own that holds both."""
        norm = following[0]
        if not isinstance(norm.module, _NORMS):
            return None
        inner = _activation_in(norm)
        if inner is not None:
            return norm if isinstance(inner.module, _RELUS) else None
        relu = following[1] if len(following) > 1 else None
        return relu if relu is not None and isinstance(relu.module, _RELUS) and relu.entered == norm.left else None

    def _feature_info(self) -> list[TensorRef]:
        for owner in self.root.walk():
            info = getattr(owner.module, "feature_info", None)
            entries = getattr(info, "info", info)
            if not isinstance(entries, Sequence) or not all(isinstance(entry, Mapping) for entry in entries):
                continue
            prefix = f"{owner.name}." if owner.name else ""
            names = {prefix + str(entry.get("module")) for entry in entries}
            calls = [call for call in owner.walk() if call.name in names and self._is_called_once(call)]
            grids = [(call, self.grids.of(call, "output")) for call in calls]
            return [TensorRef(call, "output", grid) for call, grid in grids if grid is not None]
        return []


def works_on(call: Call, grids: Grids, grid: Grid) -> bool:
    """Whether a layer with weights inside a call ends on a grid."""
    ends = ((each, grids.of(each, "output")) for each in call.walk())
    return any(end is not None and end.close_to(grid) and each.weighted for each, end in ends)


def _is_leaf(call: Call) -> bool:
    """Whether a call is one operation: nothing is called inside, or it is a normalisation that also rectifies."""
    parent = call.parent
    if parent is not None and isinstance(parent.module, (*_LINEAR, *_NORMS)):
        return False
    return not call.children or isinstance(call.module, (*_LINEAR, *_NORMS))


def _activation_in(call: Call) -> Call | None:
    return next((each for each in reversed(call.children) if _is_activation(each.module)), None)


def _is_activation(module: nn.Module) -> bool:
    own = type(module).__module__ == nn.ReLU.__module__ and not isinstance(module, nn.MultiheadAttention)
    return own or isinstance(module, _RELUS)
