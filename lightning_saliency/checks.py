"""Checks of arguments that several modules share; every message says what was given, what is allowed, what to do."""

from __future__ import annotations

import difflib
import inspect
import math
from collections.abc import Callable, Collection, Iterable, Mapping
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch
    from torch import Tensor

# The smallest positive number of float32 with all of its digits.
_TINY = 2.0**-126


def check_choice(name: str, value: object, allowed: Collection[object]) -> None:
    """Raise a ValueError unless ``value`` is one of ``allowed``.

    >>> check_choice("average", "mean", ("micro", "macro"))
    Traceback (most recent call last):
    ...
    ValueError: Got average='mean'. Allowed are 'micro', 'macro'; use one of them.
    >>> check_choice("average", "marco", ("micro", "macro"))
    Traceback (most recent call last):
    ...
    ValueError: Got average='marco'. Allowed are 'micro', 'macro'; use one of them. Did you mean 'macro'?
    """
    if value not in allowed:
        raise ValueError(
            f"Got {name}={value!r}. Allowed are {', '.join(map(repr, allowed))}; use one "
            f"of them.{did_you_mean(value, allowed)}"
        )


def close_names(given: object, allowed: Iterable[object], count: int = 1) -> list[str]:
    """The names that a mistyped one may mean, the closest first; capitals, dashes and underscores do not count.

    Args:
        given: What was given; anything but a text is close to nothing.
        allowed: The names that there are; others than texts are passed over.
        count: How many names at most.

    Example:
        >>> close_names("FastCAM", ["smoe", "grad_cam", "fast_cam"]), close_names("gradcam", ["grad_cam", "x"], 5)
        (['fast_cam'], ['grad_cam'])
    """
    if not isinstance(given, str):
        return []
    spelled: dict[str, str] = {}
    for name in allowed:
        if isinstance(name, str):
            spelled.setdefault(_letters(name), name)
    close = difflib.get_close_matches(_letters(given), spelled, n=count, cutoff=0.6)
    return [spelled[letters] for letters in close]


def did_you_mean(given: object, allowed: Iterable[object]) -> str:
    """A question for an error message, with a blank before it; nothing where no name is close.

    >>> did_you_mean("lovy", ["overview", "lovi"]), did_you_mean("photo", ["lovi"])
    (" Did you mean 'lovi'?", '')
    """
    return "".join(f" Did you mean {name!r}?" for name in close_names(given, allowed))


def without_unset(made: Callable[..., Any], arguments: Mapping[str, Any]) -> dict[str, Any]:
    """Arguments without the required ones that are ``None`` although their type does not allow it.

    What a command line or a YAML file says of a class, jsonargparse completes: by the class's defaults, and by ``None``
    for a required argument that is missing. Without it, whoever builds the class says that it is missing.

    >>> def made(root: str, size: int | None, crop=None): ...
    >>> without_unset(made, {"root": None, "size": None, "crop": None})
    {'size': None, 'crop': None}
    """
    required = {
        name
        for name, parameter in inspect.signature(made).parameters.items()
        if parameter.default is inspect.Parameter.empty
        and not any(word in str(parameter.annotation) for word in ("None", "Optional", "Any"))
    }
    return {name: value for name, value in arguments.items() if value is not None or name not in required}


def plural(count: int, noun: str) -> str:
    """A number of things.

    >>> plural(1, "epoch"), plural(2, "epoch"), plural(0, "image")
    ('1 epoch', '2 epochs', '0 images')
    """
    return f"{count} {noun}" + ("" if count == 1 else "s")


def _letters(name: str) -> str:
    return "".join(letter for letter in name.lower() if letter not in "-_ ")


def check_minimum(
    name: str, value: object, minimum: int, advice: str = "give one", kind: str = "whole numbers"
) -> None:
    """Raise a ValueError unless ``value`` is a number of that kind and ``minimum`` or more (NaN, bools, texts are not).

    >>> check_minimum("steps", 0, 1)
    Traceback (most recent call last):
    ...
    ValueError: Got steps=0. Allowed are whole numbers from 1; give one.
    """
    unfit = isinstance(value, bool) or (kind == "whole numbers" and not hasattr(value, "__index__"))
    if unfit or not is_within(value, minimum, math.inf):
        raise ValueError(f"Got {name}={value!r}. Allowed are {kind} from {minimum}; {advice}.")


def is_within(value: object, low: float, high: float) -> bool:
    """Whether ``value`` is a number in [``low``, ``high``].

    >>> is_within(0.5, 0, 1), is_within(float("nan"), 0, 1), is_within("0.5", 0, 1), is_within(None, 0, 1)
    (True, False, False, False)
    """
    try:
        return bool(low <= value <= high)  # type: ignore[operator]  # what cannot be compared is no number
    except (TypeError, ValueError, RuntimeError):
        return False


def check_fraction(fraction: float) -> None:
    """Raise a ValueError unless ``fraction`` is a share of an image's pixels."""
    if not is_within(fraction, 0, 1):
        raise ValueError(f"Got fraction={fraction!r}. Allowed are shares of pixels in [0, 1]; divide per cent by 100.")


def check_eps(eps: float) -> None:
    """Raise a ValueError unless ``eps`` is a positive finite number that float32 can hold."""
    if not (math.isfinite(eps) and eps >= _TINY):
        raise ValueError(f"Got eps={eps}. Allowed are finite numbers from 1.2e-38; use 1e-6, the value of the paper.")


def check_floating(values: Tensor, name: str) -> None:
    """Raise a TypeError unless ``values`` is a real floating-point tensor."""
    if not values.is_floating_point():
        raise TypeError(
            f"Got {name} of {values.dtype}. Allowed are real floating-point tensors; convert it with .float()."
        )


def check_images(images: Tensor) -> None:
    """Raise a ValueError unless images are ``[B, C, H, W]`` in floating point."""
    if images.ndim != 4 or not images.is_floating_point():
        raise ValueError(
            f"Got images {list(images.shape)} of {images.dtype}. Allowed are floating-point images [B, C, H, W]; "
            "convert them."
        )


def check_scale_maps(maps: Tensor) -> None:
    """Raise an error unless ``maps`` is ``[B, K, H, W]`` in floating point, with at least one scale."""
    check_floating(maps, "maps")
    if maps.ndim != 4 or maps.shape[1] == 0:
        raise ValueError(
            f"Got maps {list(maps.shape)}. Allowed are [B, K, H, W] with at least one scale; bring the maps to one "
            "size and stack them along dimension 1."
        )


def check_no_nan(saliency: Tensor) -> None:
    """Raise a ValueError if saliency maps ``[..., h, w]`` hold NaN."""
    if saliency.numel() and bool(saliency.flatten(-2).amax(-1).isnan().any()):
        raise ValueError(
            "Got saliency maps with NaN. Allowed are numbers and infinities, which have a rank; find out where the "
            "NaN comes from."
        )


def classes_of_images(targets: Tensor | int, count: int, device: torch.device) -> Tensor:
    """``targets`` as an int64 tensor on ``device``: one class for all, or a class for each of ``count`` images.

    Raises:
        ValueError: If it is neither.
    """
    import torch  # the command line's help, which looks up names by this module, does without

    classes = torch.as_tensor(targets, device=device)
    if classes.dtype != torch.int64 or classes.shape not in (torch.Size([]), torch.Size([count])):
        raise ValueError(
            f"Got targets {list(classes.shape)} of {classes.dtype}. Allowed are one class and int64 [{count}], a class "
            "for each image; convert or reshape them."
        )
    return classes
