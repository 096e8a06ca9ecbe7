"""Operations that SMOE Scale and Fast-CAM need, counted as the paper counts them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

# Bytes of a map's value: the paper keeps maps in single precision.
_VALUE = 4


class ScaleOperations(NamedTuple):
    """Operations of one scale for one image (SMOE paper, Table 6).

    Attributes:
        statistic: Of the SMOE Scale statistic (Eq. 2).
        normalization: Of the normal CDF.
        combination: Of bringing the map to the finest scale's size and adding it.
    """

    statistic: int
    normalization: int
    combination: int


def fast_cam_operations(
    scales: Sequence[tuple[int, int, int]], *, logarithm: int = 1, error_function: int = 1
) -> list[ScaleOperations]:
    """The operations that the combined map of one image takes, scale by scale (SMOE paper, Sec. 4.1 and Table 6).

    A logarithm and an error function count as one operation each, as in Table 6. A position of a scale with C channels
    then takes 4 C + 1 operations for the statistic, C of them logarithms, and 12 for the normalisation, one of them the
    error function; a position of the finest scale takes 18 for its own map and 27 for each other one.

    The paper's upper numbers, 3.7·10⁷ for the statistics, 1.0 % of the network, 97 and 1,456 times fewer, follow with
    13 operations for a logarithm and 26 for an error function. The paper does not state these two numbers.

    Args:
        scales: Channels C, height and width of each scale, shallow to deep.
        logarithm: How many operations a logarithm counts.
        error_function: How many an error function counts.

    Returns:
        One triple for each scale.

    Raises:
        ValueError: If there is no scale.

    Example:
        ResNet-50's scales at 224×224, the totals of Table 6:

        >>> scales = [(64, 112, 112), (256, 56, 56), (512, 28, 28), (1024, 14, 14), (2048, 7, 7)]
        >>> [sum(column) for column in zip(*fast_cam_operations(scales))]
        [9249093, 200508, 1580544]
        >>> dear = fast_cam_operations(scales, logarithm=13, error_function=26)
        >>> statistics, *_ = [sum(column) for column in zip(*dear)]
        >>> statistics, sum(map(sum, dear)), 3.8e9 // sum(map(sum, dear)), 15 * 3.8e9 // sum(map(sum, dear))
        (36946245, 39145022, 97.0, 1456.0)
    """
    finest = _finest(scales)
    return [
        ScaleOperations(
            ((3 + logarithm) * channels + 1) * height * width,
            (11 + error_function) * height * width,
            (27 if position else 18) * finest,
        )
        for position, (channels, height, width) in enumerate(scales)
    ]


def fast_cam_memory(scales: Sequence[tuple[int, int, int]]) -> int:
    """Bytes that the combined map of one image needs beside the activations (SMOE paper, Sec. 4.1).

    The maps of all scales in single precision, and one more of the finest scale's size, into which they are added.

    Args:
        scales: Channels, height and width of each scale.

    Raises:
        ValueError: If there is no scale.

    Example:
        The paper's 117 kilobytes, of ResNet-50 at 224×224:

        >>> fast_cam_memory([(64, 112, 112), (256, 56, 56), (512, 28, 28), (1024, 14, 14), (2048, 7, 7)])
        117012
    """
    return _VALUE * (sum(height * width for _, height, width in scales) + _finest(scales))


def _finest(scales: Sequence[tuple[int, int, int]]) -> int:
    if not scales:
        raise ValueError("Got no scales. Allowed is at least one (channels, height, width); give them.")
    return max(height * width for _, height, width in scales)
