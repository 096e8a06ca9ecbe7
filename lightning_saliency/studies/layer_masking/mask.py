"""Masking the activation of one scale, and training only what comes after it (SMOE paper, Sec. 3.1)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import pytorch_lightning as pl
import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from lightning_saliency.explainers.base import undisturbed
from lightning_saliency.explainers.controls import RandomMap
from lightning_saliency.functional.masking import top_fraction
from lightning_saliency.lightning_bases import Callback
from lightning_saliency.scales.scale import Scale, patch_tokens
from lightning_saliency.scales.taps import ScaleTaps
from lightning_saliency.scales.tracing.trace import tensors_in

#: The name of the control, in the place of a statistic's.
RANDOM = "random"


@dataclass(frozen=True)
class Before:
    """The part of a network that runs before a scale.

    Args:
        finished: Names of the modules that have finished when the scale's tensor exists.
        begun: Names of those that have begun but not finished: they contain the scale.
    """

    finished: tuple[str, ...]
    begun: tuple[str, ...]


def modules_before(network: nn.Module, scale: Scale, images: Tensor) -> Before:
    """The modules that run before a scale, found in one forward pass that leaves no trace.

    Args:
        network: The network.
        scale: One of its scales.
        images: ``[B, C, H, W]``, as the network takes them.

    Raises:
        ValueError: If the pass does not reach the scale.

    Example:
        >>> network = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.MaxPool2d(2), nn.Conv2d(4, 8, 3))
        >>> modules_before(network, Scale("2", "input", (14, 14), 4, "NCHW"), torch.rand(1, 3, 16, 16))
        Before(finished=('0', '1'), begun=('',))
    """
    begun: list[str] = []
    finished: list[str] = []
    reached = [False]

    def mark(*_: Any) -> None:
        reached[0] = True

    def note(names: list[str], name: str) -> Any:
        def hook(*_: Any) -> None:
            if not reached[0] and name not in names:
                names.append(name)

        return hook

    module = network.get_submodule(scale.module)
    handles: list[RemovableHandle] = []
    try:
        if scale.read == "input":
            handles.append(module.register_forward_pre_hook(mark))
        for name, other in network.named_modules():
            handles.append(other.register_forward_pre_hook(note(begun, name)))
            handles.append(other.register_forward_hook(note(finished, name)))
        if scale.read == "output":
            handles.append(module.register_forward_hook(mark))
        with undisturbed(network), torch.no_grad():
            network(images.clone())  # it may write to them
    finally:
        for handle in handles:
            handle.remove()
    if not reached[0]:
        raise ValueError(
            f"Got the scale at {scale.module!r}, which a forward pass of {type(network).__name__} does not reach. Give "
            "one of the scales that find_scales(network, images) returns."
        )
    return Before(tuple(finished), tuple(name for name in begun if name not in finished))


class LayerMask(Callback):
    """Lets only some positions of a scale's activation through, and freezes what runs before it.

    At each forward pass the statistic reduces the scale's activation to one number a position. ``"kar"`` lets the
    ``fraction`` of the positions with the highest numbers through, ``"roar"`` the ``fraction`` with the lowest; at all
    other positions every channel is set to zero (SMOE paper, Sec. 3.1; the paper takes 2.5 % and 10 %). What runs
    before the scale keeps its weights and its running statistics, and no gradient is computed there.

    It is a callback, so that it also works in the processes that a strategy starts.

    Args:
        network: Dotted path of the network in the LightningModule; ``""``: the module itself.
        scale: The scale to mask, one of ``find_scales(network, images)``. Prefix tokens are not masked.
        before: The modules that run before it, see `modules_before`.
        statistic: A name in ``STATISTICS``; or ``"random"``: every position uniform on [0, 1], the same for an image
            each time.
        mode: ``"kar"`` or ``"roar"``.
        fraction: Share of the positions that is let through, in (0, 1]; rounded, but at least one position (2.5 % of a
            4×4 grid would round to none).
        seed: Seed of the random map.

    Raises:
        ValueError: If the mode is unknown or the fraction out of range.
    """

    def __init__(
        self, network: str, scale: Scale, before: Before, statistic: str, mode: str, fraction: float, seed: int = 0
    ) -> None:
        if mode not in ("kar", "roar") or not 0 < fraction <= 1:
            raise ValueError(
                f"Got mode={mode!r} and fraction={fraction}. Allowed are 'kar' and 'roar', and a share of the "
                "positions in (0, 1]."
            )
        self.network = network
        self.scale = scale
        self.before = before
        self.statistic = statistic
        self.mode = mode
        self.fraction = fraction
        self.seed = seed
        self._installed: _Installed | None = None

    def setup(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        """Put the mask into the network, once."""
        if self._installed is None:
            self._installed = _Installed(pl_module.get_submodule(self.network), self)

    def remove(self) -> None:
        """Remove the mask, and make the same parameters trainable as before."""
        if self._installed is not None:
            self._installed.close()
            self._installed = None

    def __getstate__(self) -> dict[str, Any]:
        """The state without the hooks, since each process has its own, and without what Lightning attaches."""
        kept = {name: value for name, value in vars(self).items() if name not in ("log", "log_dict")}
        return {**kept, "_installed": None}


class _Installed:
    """The hooks on one network."""

    def __init__(self, network: nn.Module, mask: LayerMask) -> None:
        self.scale, self.mode, self.fraction = mask.scale, mask.mode, mask.fraction
        self.taps: ScaleTaps | None = None
        if mask.statistic != RANDOM:
            self.taps = ScaleTaps(network, [mask.scale], mask.statistic)
        self.noise = RandomMap(network, seed=mask.seed)
        self.images: Tensor | None = None
        self.done = False
        finished = [network.get_submodule(name) for name in mask.before.finished]
        self.still = list({id(inner): inner for outer in finished for inner in outer.modules()}.values())
        begun = [network.get_submodule(name) for name in mask.before.begun]
        candidates = [parameter for outer in finished for parameter in outer.parameters()]
        candidates += [parameter for outer in begun for parameter in outer.parameters(recurse=False)]
        self.frozen = [parameter for parameter in candidates if parameter.requires_grad]
        for parameter in self.frozen:
            parameter.requires_grad_(False)
        module = network.get_submodule(mask.scale.module)
        self.handles: list[RemovableHandle] = [network.register_forward_pre_hook(self._begin, prepend=True)]
        # Registered after the tap's own hook on this module: the statistic is there when the mask is made.
        if mask.scale.read == "input":
            self.handles.append(module.register_forward_pre_hook(self._mask_input))
        else:
            self.handles.append(module.register_forward_hook(self._mask_output))

    def close(self) -> None:
        for handle in self.handles:
            handle.remove()
        if self.taps is not None:
            self.taps.close()
        for parameter in self.frozen:
            parameter.requires_grad_(True)

    def _begin(self, _module: nn.Module, args: tuple[Any, ...]) -> None:
        for module in self.still:
            module.training = False
        self.images, self.done = next(tensors_in(args)), False
        if self.taps is not None:
            self.taps.start()

    def _mask_input(self, _module: nn.Module, args: tuple[Any, ...]) -> tuple[Any, ...]:
        return (self._masked(args[0]), *args[1:])

    def _mask_output(self, _module: nn.Module, _args: tuple[Any, ...], output: Any) -> Any:
        if isinstance(output, Tensor):
            return self._masked(output)
        return type(output)((self._masked(output[0]), *output[1:]))

    def _masked(self, activations: Tensor) -> Tensor:
        if self.done:
            return activations
        self.done = True
        passed = self._passed(activations)
        activations = activations.detach()
        if self.scale.layout == "NCHW":
            return activations.masked_fill(~passed[:, None], 0)
        if self.scale.layout == "NHWC":
            return activations.masked_fill(~passed[..., None], 0)
        patches, _ = patch_tokens(activations.shape[1], self.scale)
        kept = torch.ones(activations.shape[:2], dtype=torch.bool, device=activations.device)
        kept[:, patches] = passed.flatten(1)
        return activations.masked_fill(~kept[..., None], 0)

    def _passed(self, activations: Tensor) -> Tensor:
        """Which positions are let through, ``[B, h, w]`` in the activations' dtype."""
        if self.taps is not None:
            (maps,) = self.taps.take()
        elif self.images is not None:
            height, width = self._grid(activations)
            maps = self.noise(self.images.detach(), 0)[:, :height, :width]
        if self.mode == "roar":
            maps = -maps
        return top_fraction(maps, max(self.fraction, 1 / maps[0].numel()))

    def _grid(self, activations: Tensor) -> tuple[int, int]:
        if self.scale.layout == "NCHW":
            return activations.shape[2], activations.shape[3]
        if self.scale.layout == "NHWC":
            return activations.shape[1], activations.shape[2]
        height, width = self.scale.grid
        return height, width
