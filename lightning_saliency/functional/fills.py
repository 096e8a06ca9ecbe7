"""What is shown where pixels of images are hidden."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, get_args

import torch
from torch import Tensor
from torchvision.transforms.v2.functional import gaussian_blur

from lightning_saliency.checks import check_images
from lightning_saliency.functional._columns import upcast

NamedFill = Literal["zero", "mean", "blur", "noise"]

#: Kernel and standard deviation of the blur as shares of an image's shorter side: the Group-CAM paper's 51 and 50
#: pixels at its 224.
BLUR_SIZE, BLUR_SIGMA = 51 / 224, 50 / 224


Fill = float | NamedFill | Sequence[float] | Tensor


def is_random(fill: object) -> bool:
    """Whether a fill draws random numbers, see ``generator`` of `fill_images`.

    Example:
        >>> is_random("noise"), is_random("blur"), is_random(0.5)
        (True, False, False)
    """
    return isinstance(fill, str) and fill == "noise"


def fill_images(
    images: Tensor,
    fill: Fill,
    *,
    generator: torch.Generator | None = None,
) -> Tensor:
    """What stands in place of hidden pixels: a baseline image for each image.

    Args:
        images: ``[B, C, H, W]``, floating point.
        fill: One of

            - ``"zero"``: zero in the space the images are in; the data's mean colour where they are normalised for a
              network;
            - ``"mean"``: each image's own mean of each channel;
            - ``"blur"``: the image through `blur`;
            - ``"noise"``: Gaussian noise with each image's own mean and standard deviation of each channel;
            - a number for all channels, or C numbers (a sequence or a ``[C]`` tensor), such as the data set's mean;
            - a tensor that broadcasts to ``[B, C, H, W]``: an image of your own.
        generator: Source of the noise, on the images' device; ``None`` is the global one.

    Returns:
        ``[B, C, H, W]`` of the images' dtype; possibly a view that repeats its values.

    Raises:
        ValueError: If the fill is unknown or does not fit the images.

    Example:
        >>> fill_images(torch.rand(2, 3, 4, 4), (0.1, 0.2, 0.3))[0, :, 0, 0]
        tensor([0.1000, 0.2000, 0.3000])
    """
    check_images(images)
    if isinstance(fill, str):
        if fill == "zero":
            return images.new_zeros(()).expand(images.shape)
        if fill == "mean":
            return upcast(images).mean((-2, -1), keepdim=True).to(images.dtype).expand(images.shape)
        if fill == "blur":
            return blur(images)
        if fill == "noise":
            values = upcast(images)
            noise = torch.empty_like(values).normal_(generator=generator)
            std, mean = torch.std_mean(values, (-2, -1), correction=0, keepdim=True)
            return (mean + std * noise).to(images.dtype)
        raise ValueError(
            f"Got fill={fill!r}. Allowed are {', '.join(map(repr, get_args(NamedFill)))}, a number, one number "
            "per channel, or a tensor of baseline images; use one of them."
        )
    values = torch.as_tensor(fill, dtype=images.dtype, device=images.device)
    if values.ndim == 1:
        values = values.view(-1, 1, 1)
    try:
        return values.expand(images.shape)
    except RuntimeError as error:
        raise ValueError(
            f"Got a fill of shape {list(torch.as_tensor(fill).shape)} for images {list(images.shape)}. Allowed are a "
            f"number, {images.shape[1]} numbers, or a shape that broadcasts to the images'; reshape it."
        ) from error


def blur(images: Tensor, kernel_size: float = BLUR_SIZE, sigma: float = BLUR_SIGMA) -> Tensor:
    """Gaussian blur with the edges reflected, one axis after the other (Group-CAM's baseline image).

    By default it hides as much of a small image as of a large one: at 224 pixels it is the Group-CAM paper's, of 51
    pixels and σ = 50. Along an axis too short to be reflected by half the kernel, the kernel is clipped to the largest
    size that fits, twice the axis' length less one. Autocast is off inside: blurring has no use for half precision.

    Args:
        images: ``[..., C, H, W]``, floating point.
        kernel_size: Side of the kernel: below 1 as a share of the images' shorter side, of which the nearest odd number
            of pixels from 3 on is taken; from 1 on in pixels, odd.
        sigma: Standard deviation of the kernel: below 1 as a share of the images' shorter side; from 1 on in pixels.

    Returns:
        ``[..., C, H, W]`` of the images' dtype.

    Raises:
        ValueError: If the kernel is not positive and, in pixels, odd, or sigma not positive.

    Example:
        >>> blur(torch.tensor([[[[0.0, 0.0, 3.0, 0.0, 0.0]]]]), kernel_size=3, sigma=1e6)
        tensor([[[[0., 1., 1., 1., 0.]]]])
    """
    size, spread = _blur_pixels(kernel_size, sigma, min(images.shape[-2:]))
    if images.numel() == 0:
        return images.clone()
    height, width = images.shape[-2:]
    rows, columns = min(size, 2 * height - 1), min(size, 2 * width - 1)
    with torch.autocast(images.device.type, enabled=False):
        # The kernel is separable: two passes of n taps are the same sum as one of n², and 7 times faster at n = 51.
        blurred: Tensor = gaussian_blur(upcast(images), [columns, 1], [spread] * 2)
        blurred = gaussian_blur(blurred, [1, rows], [spread] * 2)
    return blurred.to(images.dtype)


def _blur_pixels(kernel_size: float, sigma: float, side: int) -> tuple[int, float]:
    """Kernel and standard deviation of `blur` in pixels, for images of this shorter side.

    Raises:
        ValueError: As for `blur`.

    Example:
        >>> [_blur_pixels(BLUR_SIZE, BLUR_SIGMA, side) for side in (224, 112)], _blur_pixels(21, 8.0, 112)
        ([(51, 50.0), (25, 25.0)], (21, 8.0))
    """
    if not kernel_size > 0 or (kernel_size >= 1 and kernel_size % 2 != 1):
        raise ValueError(
            f"Got kernel_size={kernel_size}. Allowed are odd numbers of pixels from 1 and shares of the image's side "
            f"below 1; use {max(1, int(kernel_size) + 1)}."
        )
    if not sigma > 0:
        raise ValueError(
            f"Got sigma={sigma}. Allowed are positive widths, below 1 as shares of the image's side, else in pixels; "
            "use kernel_size=1 for no blur."
        )
    size = int(kernel_size) if kernel_size >= 1 else max(3, 2 * int(kernel_size * side / 2) + 1)
    return size, float(sigma if sigma >= 1 else sigma * side)
