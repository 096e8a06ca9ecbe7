"""In which precision a device runs a network fastest."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from typing import Literal

import torch
from torch.nn.functional import conv2d

Precision = Literal["bf16", "fp16"]
#: A precision, or the one in which the device is fastest, see `native_precision`.
ScoringPrecision = Literal["bf16", "fp16", "native"]
PRECISIONS: dict[str, torch.dtype] = {"bf16": torch.bfloat16, "fp16": torch.float16}

#: What bfloat16 has to take of float32's time on a processor to be chosen.
_WORTH_IT = 0.8
#: Timed calls of each convolution, of which the fastest counts: another program's work is in the others.
_CALLS = 5


#: Kind of device -> what was fixed by `fixed_native_precision`.
_FIXED: dict[str, Precision | None] = {}


def native_precision(device: torch.device | str) -> Precision | None:
    """The precision in which a device is fastest.

    On GPUs bfloat16 where the device computes it itself, else float16. On a processor bfloat16 where two convolutions
    show that it is faster, which is measured once a process, in a tenth of a second; else ``None``, float32. Processors
    without AVX-512 or Arm's bfloat16 take many times as long in it, and are not asked; of those with AVX-512 some take
    half as long as in float32, others twice as long.

    Example:
        >>> native_precision("cpu") in ("bf16", None)
        True
    """
    kind = torch.device(device).type
    if kind in _FIXED:
        return _FIXED[kind]
    if kind == "cuda":
        return "bf16" if torch.cuda.is_bf16_supported(including_emulation=False) else "fp16"
    if kind == "cpu":
        supported = torch._C._has_mkldnn and torch.ops.mkldnn._is_mkldnn_bf16_supported()
        return "bf16" if supported and _time_in_bf16() < _WORTH_IT else None
    return "bf16"


@contextmanager
def fixed_native_precision(device: torch.device | str, precision: Precision | None) -> Iterator[None]:
    """While the context lasts, a kind of device is taken to be fastest in this precision, whatever it would be.

    Example:
        >>> with fixed_native_precision("cpu", "bf16"):
        ...     native_precision("cpu")
        'bf16'
    """
    kind, before = torch.device(device).type, dict(_FIXED)
    _FIXED[kind] = precision
    try:
        yield
    finally:
        _FIXED.clear()
        _FIXED.update(before)


@cache
def _time_in_bf16() -> float:
    """The time of two convolutions, as they are in the middle of a ResNet, in bfloat16, in float32's."""
    with torch.no_grad(), torch.autocast("cpu", enabled=False):
        return _fastest(torch.bfloat16) / _fastest(torch.float32)


def _fastest(dtype: torch.dtype) -> float:
    total = 0.0
    for channels, size in ((64, 3), (256, 1)):
        images = torch.full((4, channels, 28, 28), 0.5, dtype=dtype).contiguous(memory_format=torch.channels_last)
        weight = torch.full((64, channels, size, size), 0.5, dtype=dtype).contiguous(memory_format=torch.channels_last)
        times = []
        for _ in range(1 + _CALLS):
            started = time.perf_counter()
            conv2d(images, weight, padding=size // 2)
            times.append(time.perf_counter() - started)
        total += min(times)
    return total
