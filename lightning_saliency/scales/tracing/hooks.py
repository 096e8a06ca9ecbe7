"""Hooks that stay with the module they were made for: copies of it have none."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, MutableMapping
from typing import Any

import torch
from torch.utils.hooks import RemovableHandle

#: What stands for a hook in a copy or a file: it takes any arguments and does nothing. It is Python's own, so that a
#: network that somebody saves in the middle of a step can be loaded where this package is not installed.
_INERT = contextlib.nullcontext().__exit__
# torch 2.6 has no such function.
_is_exporting: Callable[[], bool] = getattr(torch.compiler, "is_exporting", lambda: False)


def being_traced() -> bool:
    """Whether somebody traces or exports the pass that goes on."""
    return bool(torch.jit.is_tracing() or _is_exporting())  # type: ignore[attr-defined, no-untyped-call]


class Hook:
    """A hook on a module, which a deep copy of the module does not have.

    Args:
        function: What the hook does; what it returns is dropped.
        traced: Asked in a pass that is traced or exported: whether the graph is to hold the hook. ``None``: never.

    Example:
        >>> import copy
        >>> from torch import nn
        >>> network, calls = nn.Sequential(nn.ReLU()), []
        >>> handle = Hook.on(network.register_forward_hook, lambda *_: calls.append("called"))
        >>> twin = copy.deepcopy(network)
        >>> len(network._forward_hooks), len(twin._forward_hooks)
        (1, 0)
    """

    def __init__(self, function: Callable[..., object], traced: Callable[[], bool] | None = None) -> None:
        self._function = function
        self._traced = traced
        self._handle: RemovableHandle | None = None

    @classmethod
    def on(
        cls,
        register: Callable[..., RemovableHandle],
        function: Callable[..., object],
        traced: Callable[[], bool] | None = None,
        **options: bool,
    ) -> RemovableHandle:
        """Register a hook.

        Args:
            register: A module's ``register_forward_hook`` or ``register_forward_pre_hook``.
            function: What the hook does.
            traced: As of ``Hook``.
            options: Those of ``register``.
        """
        hook = cls(function, traced)
        hook._handle = register(hook, **options)
        return hook._handle

    def __call__(self, *arguments: Any) -> None:
        """What PyTorch calls. A graph that somebody traces or exports meanwhile does not get it, unless it is asked."""
        if not being_traced() or (self._traced is not None and self._traced()):
            self._function(*arguments)

    @property
    def __name__(self) -> str:
        """TorchScript asks for it, since it compiles hooks with their module; this one it cannot compile."""
        raise AttributeError(
            "Hooks that read a network's activations cannot be scripted. Allowed is scripting a copy, "
            "torch.jit.script(copy.deepcopy(network)), or the network itself between two steps."
        )

    def __deepcopy__(self, memo: dict[Any, Any]) -> Callable[..., object]:
        """In a copy of its module's hooks the hook is taken out when all is copied; elsewhere it does nothing."""
        hooks = None if self._handle is None else self._handle.hooks_dict_ref()
        copied = None if hooks is None else memo.get(id(hooks))
        if copied is not None and self._handle is not None:
            memo.setdefault(_Sweep, _Sweep()).found.append((copied, self._handle.id))
        return _INERT

    def __reduce__(self) -> Any:
        """For ``pickle``: what does nothing."""
        return _INERT.__reduce__()


class _Sweep:
    """Takes hooks out of copies when they are complete: when the memory of the copying, which holds this, is freed."""

    def __init__(self) -> None:
        self.found: list[tuple[MutableMapping[int, Any], int]] = []

    def __del__(self) -> None:
        for hooks, key in self.found:
            hooks.pop(key, None)
