"""FullGrad with every bias a tensor of its own at every position, on the networks of `tests.literal.networks`."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor, nn

from ..networks import TinyNetwork
from .resampling import Array, bilinear


def shares(model: TinyNetwork, image: Tensor, target: int) -> tuple[list[Array], float]:
    """∂S/∂I ⊙ I and each ∂S/∂b ⊙ b, `[C, h, w]`, and S; a BatchNorm is γ x/σ + b, b = β − γ μ/σ at each position."""
    leaves = [image.detach().clone().requires_grad_()]
    x = leaves[0]
    for name, child in model.named_children():
        if not name.startswith("block"):
            x = child(x)
            continue
        convolution, norm, _ = child
        x = nn.functional.conv2d(x, convolution.weight, padding=1)
        sigma = torch.sqrt(norm.running_var + norm.eps)
        bias = norm.bias - norm.weight * norm.running_mean / sigma
        leaf = bias.detach()[None, :, None, None].expand(x.shape).clone().requires_grad_()
        leaves.append(leaf)
        x = torch.relu(x * (norm.weight / sigma)[:, None, None] + leaf)
    score = x[0, target]
    gradients = torch.autograd.grad(score, leaves)
    found = [(gradient * leaf)[0].detach().numpy() for gradient, leaf in zip(gradients, leaves, strict=True)]
    return found, score.item()


def full_grad(model: TinyNetwork, image: Tensor, target: int) -> Array:
    """The sum over all shares of |share|, stretched to [0, 1], upsampled, summed over the channels: `[H, W]`."""
    height, width = image.shape[2:]
    total = np.zeros((height, width))
    for share in shares(model, image, target)[0]:
        sizes = np.abs(share)
        low, high = sizes.min(), sizes.max()
        for channel in sizes:
            total += bilinear((channel - low) / (high - low), height, width)
    return total
