"""A faster copy of a network, for many passes without gradients."""

from __future__ import annotations

import warnings
from contextlib import nullcontext
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils.parametrize import is_parametrized
from torch.utils._pytree import tree_map_only
from torch.utils.hooks import RemovableHandle

from lightning_saliency.explainers.base import undisturbed, unwrap
from lightning_saliency.explainers.mask_scoring.copies import inference_copy, named_tensors
from lightning_saliency.explainers.mask_scoring.folding import CONVOLUTIONS, fold_batch_norms, folded_weights
from lightning_saliency.explainers.mask_scoring.precisions import PRECISIONS, Precision
from lightning_saliency.scales.tracing.trace import tensors_in

# In the trial a copy's answers may differ from the network's by this share of the largest of them, and by so many times
# what the copy's precision alone makes of the network's answers.
_ROUNDING = 0.01
_TIMES = 4


def fast_inference(model: nn.Module, precision: Precision | None = "bf16", images: Tensor | None = None) -> nn.Module:
    """A copy of the network for inference: BatchNorm folded away, channels last, weights in another precision.

    The copy is in eval mode, carries none of the hooks that were registered on the network, and shares no memory with
    it: it is a snapshot of its weights. Run it under ``torch.no_grad()``, and under ``torch.autocast`` of the same
    precision.

    A BatchNorm is folded where ``torch.fx`` can follow the network's code and finds it directly after a convolution
    whose output and weights are not used elsewhere. If the network cannot be followed (control flow that depends on the
    data, parts of a ``Sequential`` taken by a slice, an autocast of its own), the BatchNorms stay, with a warning; the
    other two settings still apply. If a ``LightningModule`` cannot be followed, its only child with parameters is
    tried, see `calls_whole`.

    Args:
        model: The network; wrappers are taken off.
        precision: Weights of convolutions and linear layers are stored in it, so that autocast need not convert them
            anew in each pass. ``None``: they stay as they are.
        images: ``[B, C, H, W]``, on the first of which the copy is tried, in the present autocast and in its own. If
            it fails or its answers differ from the network's by more than rounding, it is tried without channels last,
            in which ``Tensor.view`` fails; and if it still does, an ordinary copy is returned, with a warning.
            ``None``: the copy is not tried.

    Returns:
        A module called with images alone.

    Warns:
        UserWarning: If the network cannot be followed, or the copy fails when it is tried.

    Example:
        >>> model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU()).eval()
        >>> sorted(type(module).__name__ for module in fast_inference(model, None).children())
        ['Conv2d', 'ReLU']
    """
    return _fast_copy(model, precision, images)[0]


class FastCopy:
    """A `fast_inference` copy that is kept, and brought up to date with the network's weights at each use.

    That costs a pass over the weights, where a new copy would also trace the network again. The network's code must
    stay as it is, and so must what it reads from plain attributes (a temperature that changes belongs into a buffer);
    where parameters or buffers come, go, or change their shape, type or device, a new copy is made.

    Args:
        model: The network that is copied.
        precision: Precision of the copy, see `fast_inference`.
        compiled: Run the copy through ``torch.compile``, which takes up to a minute at the first call. Batches smaller
            than the largest so far are filled up, so that a last, smaller one needs no second compilation.

    Example:
        >>> model = nn.Sequential(nn.Conv2d(1, 1, 1, bias=False), nn.BatchNorm2d(1)).eval()
        >>> copied = FastCopy(model, precision=None)
        >>> first = copied.current()
        >>> _ = nn.init.constant_(model[0].weight, 3.0)
        >>> copied.current() is first, round(first.get_submodule("0").weight.item(), 3)
        (True, 3.0)
    """

    def __init__(self, model: nn.Module, precision: Precision | None = "bf16", compiled: bool = False) -> None:
        self.model = unwrap(model)
        self.precision: Precision | None = precision
        self.compiled = compiled
        self._layout: object = None
        self._network: nn.Module | None = None
        self._runner: nn.Module | None = None
        self._folded: dict[str, str] = {}

    def current(self, images: Tensor | None = None) -> nn.Module:
        """The copy, with the weights and statistics that the network has now; a new one is tried on the first image."""
        network = self._updated(images)
        if not self.compiled:
            return network
        if self._runner is None:
            self._runner = _Compiled(network)
        return self._runner

    def _updated(self, images: Tensor | None) -> nn.Module:
        tensors = named_tensors(self.model)
        layout = [(name, tensor.shape, tensor.dtype, tensor.device) for name, tensor in tensors.items()]
        if self._network is None or layout != self._layout:
            self._network, self._folded = _fast_copy(self.model, self.precision, images)
            self._layout = layout
            self._runner = None
            return self._network
        with torch.no_grad():
            own = named_tensors(self._network)
            for conv, norm in self._folded.items():
                values = folded_weights(self.model.get_submodule(conv), self.model.get_submodule(norm))
                for name, value in zip((f"{conv}.weight", f"{conv}.bias"), values, strict=True):
                    own.pop(name).copy_(value)
            for name, tensor in own.items():
                # What tracing made of the code's own constants has no counterpart, and does not change.
                if name in tensors:
                    tensor.copy_(tensors[name])
        return self._network


class _Compiled(nn.Module):
    """Runs a network compiled, even where compiled modules are set to run eagerly, for one batch size.

    Args:
        network: Returns tensors, alone or in containers; those whose first dimension is the batch's are cut.
    """

    def __init__(self, network: nn.Module) -> None:
        super().__init__()

        def run(images: Tensor) -> Any:  # one graph, with what the hooks do
            return network(images)

        self._compiled = torch.compile(run)
        self._size = 0

    def forward(self, images: Tensor) -> Any:
        """The network's outputs for images ``[B, C, H, W]``."""
        count = images.shape[0]
        self._size = max(self._size, count)
        images = torch.cat([images, images[-1:].expand(self._size - count, -1, -1, -1)]).contiguous()
        with torch.compiler.set_stance("default"):
            returned = self._compiled(images)

        def cut(tensor: Tensor) -> Tensor:
            return tensor[:count] if tensor.shape[:1] == (self._size,) else tensor

        return tree_map_only(Tensor, cut, returned)


def _fast_copy(
    model: nn.Module, precision: Precision | None, images: Tensor | None
) -> tuple[nn.Module, dict[str, str]]:
    """The copy, and which convolution of the network (by name) took in which BatchNorm."""
    copied, folded = fold_batch_norms(inference_copy(model))
    if precision is not None:
        for module in copied.modules():
            if isinstance(module, (*CONVOLUTIONS, nn.Linear)) and not is_parametrized(module):
                for parameter in module.parameters(recurse=False):
                    parameter.data = parameter.data.to(PRECISIONS[precision])
    if images is None or not len(images):
        lay_out(copied, torch.channels_last)
        return copied, folded
    plain, image = inference_copy(model), images[:1]
    exact, rounded = (_answers(plain, image, each) for each in (None, precision))
    problem = ""
    for memory_format in (torch.channels_last, torch.contiguous_format):
        handle = lay_out(copied, memory_format)
        try:
            if _agree(_answers(copied, image, precision), rounded, exact):
                return copied, folded
            problem = "on the first image it returns something else than the network does"
        except Exception as error:  # The network's own code runs here and may raise anything.
            problem = f"{type(error).__name__}: {error}"
        if handle is not None:
            handle.remove()
    warnings.warn(
        f"The faster copy of {type(model).__name__} cannot be used: {problem}. Masked images are scored with an "
        "ordinary copy, which takes longer; leave out fast=, or a metric's precision=, to do without.",
        stacklevel=5,
    )
    return plain, {}


def lay_out(network: nn.Module, memory_format: torch.memory_format) -> RemovableHandle | None:
    """Store a network's weights in a memory format, and bring images into it before they enter."""
    for tensor in (*network.parameters(), *network.buffers()):
        if tensor.ndim == 4:
            tensor.data = tensor.data.contiguous(memory_format=memory_format)
    if isinstance(network, torch.jit.ScriptModule):
        return None  # It takes no hooks, and its first convolution brings the images into its own format.
    return network.register_forward_pre_hook(partial(_arrange, memory_format))


def _arrange(memory_format: torch.memory_format, _network: nn.Module, images: tuple[Tensor]) -> Tensor:
    return images[0].contiguous(memory_format=memory_format) if images[0].ndim == 4 else images[0]


def _answers(network: nn.Module, image: Tensor, precision: Precision | None) -> list[Tensor]:
    """The numbers that a copy returns for an image, with the same random numbers each time."""
    autocast = nullcontext() if precision is None else torch.autocast(image.device.type, dtype=PRECISIONS[precision])
    with undisturbed(network), torch.no_grad(), autocast:
        return [each for each in tensors_in(network(image.clone())) if each.is_floating_point() and each.numel()]


def _agree(found: list[Tensor], rounded: list[Tensor], exact: list[Tensor]) -> bool:
    """Whether a copy's answers are as near to the exact ones as its precision brings the network's own."""
    if [each.shape for each in found] != [each.shape for each in exact]:
        return False
    for own, coarse, reference in zip(found, rounded, exact, strict=True):
        allowed = _ROUNDING * reference.abs().amax() + _TIMES * (coarse - reference).abs().amax()
        # Where the network's own are not finite there is nothing to compare.
        if allowed.isfinite() and not (own - reference).abs().amax() <= allowed:
            return False
    return True
