"""Explainers' own options on a command line: ``--option EXPLAINER.NAME=VALUE``."""

from __future__ import annotations

import argparse
import inspect
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from typing import Any

from lightning_saliency.cli._errors import UsageError
from lightning_saliency.cli._overrides import split_overrides

# The network, and what can only be written in Python: a function.
_NOT_HERE = ("model", "output")


def add_option_argument(parser: argparse.ArgumentParser) -> None:
    """``--option``, as often as wanted."""
    parser.add_argument(
        "--option",
        action="append",
        default=[],
        metavar="EXPLAINER.NAME=VALUE",
        help="an explainer's own option, such as sise.mu=0.3; VALUE is read as YAML; repeatable",
    )


def explainer_options(explainers: Iterable[str], given: Sequence[str]) -> dict[str, dict[str, Any]]:
    """The options of each explainer.

    Args:
        explainers: The names of those that may be given options.
        given: What was given with ``--option``; where one is given twice, the last counts.

    Returns:
        Options by name for each of the explainers, in their order.

    Raises:
        UsageError: If one is not ``EXPLAINER.NAME=VALUE``, or of another explainer.

    Example:
        >>> explainer_options(["smoe", "rise"], ["rise.masks=500", "rise.fast=true"])
        {'smoe': {}, 'rise': {'masks': 500, 'fast': True}}
    """
    options: dict[str, dict[str, Any]] = {name: {} for name in explainers}
    for text in given:
        target, equals, written = text.partition("=")
        explainer, dot, name = target.partition(".")
        if explainer not in options or not (dot and name and equals and written):
            raise UsageError(
                f"Got --option {text}. Allowed is EXPLAINER.NAME=VALUE for one of the explainers asked for, "
                f"{', '.join(options)}; write for example sise.mu=0.3."
            )
        _, [(_, value)] = split_overrides([f"--option.{text}"], ["option"])
        options[explainer][name] = value
    return options


def accepted_options(build: Callable[..., Any]) -> list[str]:
    """The options that an explainer takes and a command line can give, from its signature.

    Example:
        >>> from lightning_saliency.explainers import EXPLAINERS
        >>> accepted_options(EXPLAINERS["grad_cam"]), accepted_options(EXPLAINERS["gradient"])
        (['layer'], ['noise_tunnel', 'samples', 'stdevs', 'seed'])
    """
    fixed = build.keywords if isinstance(build, partial) else {}
    return [
        name
        for name, parameter in inspect.signature(build).parameters.items()
        if parameter.kind is not parameter.VAR_KEYWORD and name not in _NOT_HERE and name not in fixed
    ]


def check_options(explainer: str, build: Callable[..., Any], options: Mapping[str, Any]) -> None:
    """Refuse options that an explainer does not take.

    Args:
        explainer: Its name, for the message.
        build: What builds it. Where it hands further options on, as captum's do, only they can tell whether they are
            known.
        options: What it is to be given.

    Raises:
        UsageError: If it does not take one.

    Example:
        >>> from lightning_saliency.explainers import EXPLAINERS
        >>> check_options("grad_cam", EXPLAINERS["grad_cam"], {"groups": 16})
        Traceback (most recent call last):
        ...
        lightning_saliency.cli._errors.UsageError: Got grad_cam.groups=16. Allowed for grad_cam are layer; ...
    """
    parameters = inspect.signature(build).parameters
    hands_on = any(parameter.kind is parameter.VAR_KEYWORD for parameter in parameters.values())
    allowed = accepted_options(build)
    for name, value in options.items():
        if name not in allowed and (name in parameters or not hands_on):
            raise UsageError(
                f"Got {explainer}.{name}={value}. Allowed for {explainer} are {', '.join(allowed)}; leave it out, or "
                "give one of these."
            )
