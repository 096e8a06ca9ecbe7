"""Small networks of every kind that the tests need, for images of about 32 pixels."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from lightning_saliency.scales.scale import Scale


def conv_block(channels_in: int, channels_out: int, stride: int = 1) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(channels_in, channels_out, 3, stride, 1, bias=False),
        nn.BatchNorm2d(channels_out),
        nn.ReLU(inplace=True),
    )


class ConvNet(nn.Sequential):
    """A plain CNN with BatchNorm, in-place ReLU and dropout; scales at full, half and a quarter of the size."""

    def __init__(self, channels: int = 3, classes: int = 10) -> None:
        super().__init__(
            OrderedDict(
                block1=conv_block(channels, 8),
                pool1=nn.MaxPool2d(2),
                block2=conv_block(8, 12),
                pool2=nn.MaxPool2d(2),
                block3=conv_block(12, 16),
                average=nn.AdaptiveAvgPool2d(1),
                flatten=nn.Flatten(),
                dropout=nn.Dropout(0.5),
                linear=nn.Linear(16, classes),
            )
        )


class GeluNet(nn.Sequential):
    """A small CNN whose activations go below zero; scales at a half and a quarter of the size."""

    def __init__(self, channels: int = 3, classes: int = 10) -> None:
        super().__init__(
            OrderedDict(
                stem=nn.Conv2d(channels, 8, 2, 2),
                norm1=nn.GroupNorm(2, 8),
                act1=nn.GELU(),
                down=nn.Conv2d(8, 16, 2, 2),
                norm2=nn.GroupNorm(2, 16),
                act2=nn.GELU(),
                average=nn.AdaptiveAvgPool2d(1),
                flatten=nn.Flatten(),
                linear=nn.Linear(16, classes),
            )
        )


class MLP(nn.Sequential):
    """No layer of it works on a grid."""

    def __init__(self, inputs: int = 3 * 32 * 32, classes: int = 10) -> None:
        super().__init__(nn.Flatten(), nn.Linear(inputs, 32), nn.ReLU(), nn.Linear(32, classes))


class FunctionalNet(nn.Module):
    """Every activation and every reduction is a function: only convolutions can be hooked."""

    def __init__(self, channels: int = 3, classes: int = 10) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(channels, 8, 3, padding=1)
        self.conv2 = nn.Conv2d(8, 12, 3, padding=1)
        self.conv3 = nn.Conv2d(12, 16, 3, padding=1)
        self.linear = nn.Linear(16, classes)

    def forward(self, x: Tensor) -> Tensor:
        x = F.max_pool2d(F.relu(self.conv1(x)), 2)
        x = F.max_pool2d(F.relu(self.conv2(x)), 2)
        return self.linear(F.relu(self.conv3(x)).mean((2, 3)))


class SharedModulesNet(nn.Module):
    """One ReLU and one pooling module, used at every stage: their names say nothing about where."""

    def __init__(self, channels: int = 3, classes: int = 10) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(channels, 8, 3, padding=1)
        self.conv2 = nn.Conv2d(8, 12, 3, padding=1)
        self.relu = nn.ReLU(inplace=True)
        self.pool = nn.MaxPool2d(2)
        self.linear = nn.Linear(12, classes)

    def forward(self, x: Tensor) -> Tensor:
        x = self.pool(self.relu(self.conv1(x)))
        x = self.pool(self.relu(self.conv2(x)))
        return self.linear(x.mean((2, 3)))


class EncoderDecoder(nn.Module):
    """A U-Net: grids of a full, a half and a quarter of the size, then back up with skip connections."""

    def __init__(self, channels: int = 3, classes: int = 5) -> None:
        super().__init__()
        self.encoder1 = conv_block(channels, 8)
        self.pool1 = nn.MaxPool2d(2)
        self.encoder2 = conv_block(8, 12)
        self.pool2 = nn.MaxPool2d(2)
        self.bottleneck = conv_block(12, 16)
        self.up2 = nn.ConvTranspose2d(16, 12, 2, 2)
        self.decoder2 = conv_block(24, 12)
        self.decoder1 = conv_block(20, 8)
        self.head = nn.Conv2d(8, classes, 1)

    def forward(self, x: Tensor) -> Tensor:
        skip1 = self.encoder1(x)
        skip2 = self.encoder2(self.pool1(skip1))
        x = self.bottleneck(self.pool2(skip2))
        x = self.decoder2(torch.cat([self.up2(x), skip2], 1))
        x = F.interpolate(x, scale_factor=2.0)
        return self.head(self.decoder1(torch.cat([x, skip1], 1)))


class TokenBlock(nn.Module):
    """A transformer block: attention over tokens, then two linear layers."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(width)
        self.attention = nn.MultiheadAttention(width, 2, batch_first=True)
        self.norm2 = nn.LayerNorm(width)
        self.mlp = nn.Sequential(nn.Linear(width, 2 * width), nn.GELU(), nn.Linear(2 * width, width))

    def forward(self, tokens: Tensor) -> Tensor:
        x = self.norm1(tokens)
        tokens = tokens + self.attention(x, x, x, need_weights=False)[0]
        return tokens + self.mlp(self.norm2(tokens))


class TokenTransformer(nn.Module):
    """A tiny ViT for images of any size: class token, registers, `depth` blocks on one grid of 8-pixel patches."""

    def __init__(
        self, channels: int = 3, classes: int = 10, depth: int = 6, width: int = 16, registers: int = 0
    ) -> None:
        super().__init__()
        self.embedding = nn.Conv2d(channels, width, 8, 8)
        self.prefix = nn.Parameter(0.1 * torch.randn(1, 1 + registers, width))
        self.blocks = nn.ModuleList(TokenBlock(width) for _ in range(depth))
        self.norm = nn.LayerNorm(width)
        self.head = nn.Linear(width, classes)

    def forward(self, x: Tensor) -> Tensor:
        tokens = self.embedding(x).flatten(2).transpose(1, 2)
        tokens = torch.cat([self.prefix.expand(len(x), -1, -1), tokens], 1)
        for block in self.blocks:
            tokens = block(tokens)
        return self.head(self.norm(tokens)[:, 0])


class Chain(nn.Module):
    """Calls what it is given one after the other, modules and functions alike."""

    def __init__(self, *steps: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.steps = steps
        for number, step in enumerate(steps):
            if isinstance(step, nn.Module):
                self.add_module(f"m{number}", step)

    def forward(self, x: Tensor) -> Tensor:
        for step in self.steps:
            x = step(x)
        return x


def brief(scales: Sequence[Scale]) -> list[str]:
    """A line for each scale: module, "in" or "out", grid (one number if square), channels, layout unless it is NCHW."""
    lines = []
    for scale in scales:
        grid = scale.grid[0] if scale.grid[0] == scale.grid[1] else "{}x{}".format(*scale.grid)
        layout = (
            "" if scale.layout == "NCHW" else f" {scale.layout}" + f"+{scale.prefix_tokens}" * bool(scale.prefix_tokens)
        )
        lines.append(f"{scale.module} {scale.read.removesuffix('put')} {grid} {scale.channels}{layout}")
    return lines
