"""A classifier small enough for loops, cut open at any of its children."""

from __future__ import annotations

from collections import OrderedDict

import torch
from torch import Tensor, nn


def _block(channels_in: int, channels_out: int) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(channels_in, channels_out, 3, padding=1, bias=False), nn.BatchNorm2d(channels_out), nn.ReLU()
    )


class TinyNetwork(nn.Sequential):
    """Three blocks of convolution, BatchNorm and ReLU: 4, `channels` and 5 maps at full, half and quarter size.

    Float64, in eval mode. Everything after a block is piecewise linear, so the logits have no second derivative.
    """

    def __init__(self, channels: int = 7, classes: int = 4, seed: int = 4) -> None:
        super().__init__(
            OrderedDict(
                block1=_block(3, 4),
                pool1=nn.MaxPool2d(2),
                block2=_block(4, channels),
                pool2=nn.AvgPool2d(2),
                block3=_block(channels, 5),
                average=nn.AdaptiveAvgPool2d(1),
                flatten=nn.Flatten(),
                linear=nn.Linear(5, classes),
            )
        )
        generator = torch.Generator().manual_seed(seed)
        self.double()
        with torch.no_grad():
            for module in self.modules():
                if isinstance(module, nn.Conv2d | nn.Linear):
                    fan_in = module.weight[0].numel()
                    module.weight.copy_(_normal(module.weight, generator) * (3 / fan_in) ** 0.5)
                if isinstance(module, nn.BatchNorm2d):
                    module.running_mean.copy_(0.2 * _normal(module.running_mean, generator))
                    module.running_var.copy_(0.5 + _normal(module.running_var, generator) ** 2)
                    module.weight.copy_(1 + 0.3 * _normal(module.weight, generator))
                    module.bias.copy_(0.3 * _normal(module.bias, generator))
            self.linear.bias.zero_()
        self.eval()

    def until(self, images: Tensor, layer: str) -> Tensor:
        """The output of the child `layer`."""
        x = images
        for name, module in self.named_children():
            x = module(x)
            if name == layer:
                return x
        raise KeyError(layer)

    def after(self, activations: Tensor, layer: str) -> Tensor:
        """The logits, given the output of the child `layer`."""
        x = activations
        reached = False
        for name, module in self.named_children():
            if reached:
                x = module(x)
            reached = reached or name == layer
        return x


def _normal(like: Tensor, generator: torch.Generator) -> Tensor:
    return torch.randn(like.shape, generator=generator, dtype=torch.float64)


def random_images(batch: int, height: int, width: int, seed: int = 1) -> Tensor:
    """`[batch, 3, height, width]` in the range of a normalised photograph, with a bright patch in each."""
    generator = torch.Generator().manual_seed(seed)
    images = torch.randn((batch, 3, height, width), generator=generator, dtype=torch.float64)
    for b in range(batch):
        top, left = (3 * b + 2) % (height // 2), (5 * b + 1) % (width // 2)
        images[b, :, top : top + height // 3, left : left + width // 3] += 1.5
    return images
