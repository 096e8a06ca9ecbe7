"""Whether a module's code runs a child as a whole, or takes it apart."""

from __future__ import annotations

import ast
import inspect
import textwrap
from types import FunctionType

from torch import nn


def calls_whole(kind: type[nn.Module], child: str) -> bool:
    """Whether ``forward``, and the class's own methods that it names, do nothing with a child but call it.

    Args:
        kind: The module's class.
        child: Name of the child.

    Returns:
        ``False``, too, where the code cannot be read.

    Example:
        >>> calls_whole(nn.Sequential, "0")
        True
    """
    waiting, seen = ["forward"], set()
    while waiting:
        name = waiting.pop()
        function = inspect.getattr_static(kind, name, None)
        if name in seen or not isinstance(function, FunctionType) or _is_of_a_library(function):
            continue
        seen.add(name)
        try:
            tree = ast.parse(textwrap.dedent(inspect.getsource(function)))
        except (OSError, SyntaxError):
            return False
        nodes = list(ast.walk(tree))
        called = {id(node.func) for node in nodes if isinstance(node, ast.Call)}
        for node in nodes:
            if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id == "self":
                if node.attr == child and id(node) not in called:
                    return False
                waiting.append(node.attr)
    return True


def _is_of_a_library(function: FunctionType) -> bool:
    return function.__module__.partition(".")[0] in ("torch", "pytorch_lightning", "lightning")
