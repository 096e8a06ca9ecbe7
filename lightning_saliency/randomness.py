"""Saving, seeding and restoring the global random number generators, and random weights in place of trained ones."""

from __future__ import annotations

import hashlib
import random
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from typing_extensions import Self


@dataclass(frozen=True)
class GeneratorStates:
    """The states of all global generators at one moment.

    Args:
        python: State of Python's ``random``.
        numpy: State of NumPy's legacy global generator.
        cpu: State of PyTorch's CPU generator.
        cuda: States of PyTorch's CUDA generators, one per device; ``None`` if they were not saved.
    """

    python: Any
    numpy: Any
    cpu: Tensor
    cuda: list[Tensor] | None

    @classmethod
    def save(cls, *, cuda: bool = False) -> Self:
        """Save the current states.

        Args:
            cuda: Also save the states of all CUDA devices. This initialises CUDA, which a forked loading process
                cannot do. Without CUDA it has no effect.
        """
        devices = torch.cuda.get_rng_state_all() if cuda and torch.cuda.is_available() else None
        return cls(random.getstate(), np.random.get_state(), torch.get_rng_state(), devices)  # noqa: NPY002

    def restore(self) -> None:
        """Set all saved generators back to these states."""
        random.setstate(self.python)
        np.random.set_state(self.numpy)  # noqa: NPY002
        torch.set_rng_state(self.cpu)
        if self.cuda is not None:
            torch.cuda.set_rng_state_all(self.cuda)


@contextmanager
def isolated_rng(seed: int | None = None, *, cuda: bool = False) -> Iterator[None]:
    """Restore the global generators when the context ends, also after an exception.

    Args:
        seed: Seed for the generators inside the context. ``None``: they continue from their current states.
        cuda: Also seed and restore the CUDA generators, see `GeneratorStates.save`; else they are left alone.

    Example:
        >>> before = torch.get_rng_state()
        >>> with isolated_rng(0):
        ...     first = torch.rand(())
        >>> with isolated_rng(0):
        ...     bool(torch.rand(()) == first)
        True
        >>> bool((torch.get_rng_state() == before).all())
        True
    """
    outside = GeneratorStates.save(cuda=cuda)
    try:
        if seed is not None:
            random.seed(seed)
            np.random.seed(seed % 2**32)  # noqa: NPY002  (the generator that transforms draw from)
            torch.default_generator.manual_seed(seed)
            if outside.cuda is not None:
                torch.cuda.manual_seed_all(seed)
        yield
    finally:
        outside.restore()


def seed_generators(seed: int, model: nn.Module) -> None:
    """Seed the generators that ``undisturbed(model)`` restores: the CPU's and those of the model's CUDA devices.

    ``torch.manual_seed`` would also seed the devices that the model does not use.
    """
    torch.default_generator.manual_seed(seed)
    for device in {tensor.device for tensor in model.parameters() if tensor.device.type == "cuda"}:
        with torch.cuda.device(device):
            torch.cuda.manual_seed(seed)


def randomize(model: nn.Module, modules: Iterable[str], seed: int) -> None:
    """Replace the trained weights by random ones, in these modules only.

    Each module's own ``reset_parameters()`` is called, which also takes running statistics back to mean 0 and
    variance 1 and affine parameters to 1 and 0. Parameters that this leaves as they are, or whose module has no such
    method (class tokens, position embeddings, parametrised weights), are drawn from the normal distribution of their
    own mean and standard deviation; constant ones stay. The weights drawn depend on ``seed`` and the module's path
    only, not on which other modules are randomised, and the random number generators are left as they were.

    Args:
        model: The network, changed in place.
        modules: Dotted paths; ``""`` is the network itself.
        seed: Any integer.

    Example:
        >>> a, b = nn.Linear(2, 2), nn.Linear(2, 2)
        >>> randomize(a, [""], seed=1), randomize(b, [""], seed=1)
        (None, None)
        >>> torch.equal(a.weight, b.weight)
        True
    """
    devices = sorted({tensor.device.index for tensor in model.parameters() if tensor.device.type == "cuda"})
    with torch.random.fork_rng(devices=devices), torch.no_grad():
        for name in modules:
            module = model.get_submodule(name)
            digest = hashlib.sha256(f"{seed}/{name}".encode()).digest()
            seed_generators(int.from_bytes(digest[:7], "big"), model)
            own = list(module.parameters(recurse=False))
            before = [parameter.detach().clone() for parameter in own]
            reset = getattr(module, "reset_parameters", None)
            if callable(reset):
                reset()
            for parameter, trained in zip(own, before, strict=True):
                if (
                    parameter.numel()
                    and torch.equal(parameter, trained)
                    and bool((trained != trained.flatten()[0]).any())
                ):
                    parameter.normal_(trained.mean().item(), trained.std().item())
