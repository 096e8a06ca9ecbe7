"""The text of a callable in fingerprints: the same in every process for equal ones, another for different ones."""

from __future__ import annotations

import dis
import hashlib
import sys
from collections.abc import Callable, Iterator
from types import BuiltinFunctionType, CellType, CodeType, FunctionType, MethodDescriptorType, ModuleType
from typing import Any

import torch
from torch import Tensor

# What a function's code says; not its file, its line or its name.
_OF_CODE = (
    *("co_code", "co_consts", "co_names", "co_varnames", "co_freevars", "co_cellvars", "co_flags"),
    *("co_argcount", "co_posonlyargcount", "co_kwonlyargcount"),
)


def path_of(value: object) -> str:
    """Module and name of a class or function; of anything else, those of its class.

    >>> path_of(path_of), path_of(Tensor)
    ('lightning_saliency.explainers.callables.path_of', 'torch.Tensor')
    """
    name = getattr(value, "__qualname__", type(value).__qualname__)
    return f"{getattr(value, '__module__', '')}.{name}"


def callable_text(value: Callable[..., Any]) -> str:
    """The path of a callable, and a digest of what it computes where the path does not say that.

    A class is known by its path, as is a function that is found there. A lambda, a function inside another one or in a
    notebook is known by its code, its defaults, its closure and the globals that it names, and so are those in turn; a
    method and any other object that can be called, by what the object holds. Of what cannot be pickled only the class
    is known.

    >>> adders = [lambda one, other=number: one + other for number in (1, 2, 1)]
    >>> first, second, third = map(callable_text, adders)
    >>> first == third, first == second, callable_text(callable_text)
    (True, False, 'lightning_saliency.explainers.callables.callable_text')
    """
    path = path_of(value)
    return path if _known_by_path(value) else f"{path}#{_content(value, {})[:16]}"


def _known_by_path(value: object) -> bool:
    if not isinstance(value, FunctionType):
        return isinstance(value, (type, BuiltinFunctionType, MethodDescriptorType))
    found: Any = sys.modules.get(value.__module__)
    for name in value.__qualname__.split("."):
        found = getattr(found, name, None)
    # In a notebook, the function of a name changes.
    return found is value and value.__module__ != "__main__"


def _content(value: object, seen: dict[int, tuple[object, str]]) -> str:
    """A text that is the same for equal values in every process.

    Args:
        value: Anything.
        seen: The texts of values by their ``id``; the values stay with them, so that no other one gets the ``id``.
    """
    if value is None or isinstance(value, (bool, int, float, complex, str)):
        return repr(value)
    if isinstance(value, bytes):
        return hashlib.sha256(value).hexdigest()
    if id(value) not in seen:
        seen[id(value)] = value, path_of(value)  # what it is called where it holds itself
        try:
            parts = [_content(part, seen) for part in _parts(value)]
        except Exception:  # whatever an object says that is not to be pickled
            parts = []
        if isinstance(value, (set, frozenset, dict)):
            parts.sort()
        text = repr([path_of(type(value)), parts])
        seen[id(value)] = value, hashlib.sha256(text.encode()).hexdigest()
    return seen[id(value)][1]


def _parts(value: Any) -> tuple[object, ...]:
    """What makes a value what it is."""
    if isinstance(value, FunctionType) and not _known_by_path(value):
        named = {name: value.__globals__[name] for name in _names(value.__code__) if name in value.__globals__}
        return value.__code__, value.__defaults__, value.__kwdefaults__, value.__closure__, named
    if isinstance(value, CodeType):
        return tuple(getattr(value, name) for name in _OF_CODE)
    if isinstance(value, CellType):
        return (value.cell_contents,)
    if isinstance(value, ModuleType):
        return (value.__name__,)
    if _known_by_path(value):
        return (path_of(value),)
    if isinstance(value, Tensor):
        numbers = value.detach().cpu().flatten().view(torch.uint8).numpy().tobytes()
        return str(value.dtype), tuple(value.shape), numbers
    if isinstance(value, dict):
        return tuple(value.items())
    if isinstance(value, (list, tuple, set, frozenset)):
        return tuple(value)
    reduced = value.__reduce_ex__(4)  # what a pickle would hold, some of it in iterators
    parts = reduced if isinstance(reduced, tuple) else (reduced,)
    return tuple(list(part) if isinstance(part, Iterator) else part for part in parts)


def _names(code: CodeType) -> list[str]:
    """The globals that a function's code, and that of the functions inside it, reads."""
    inside = (name for each in code.co_consts if isinstance(each, CodeType) for name in _names(each))
    own = (each.argval for each in dis.get_instructions(code) if each.opname in ("LOAD_GLOBAL", "LOAD_NAME"))
    return sorted({*own, *inside})
