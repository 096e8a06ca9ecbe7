"""Grad-CAM and Grad-CAM++ with every derivative taken by automatic differentiation, one activation at a time."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor

from .resampling import Array, bilinear, min_max

Head = Callable[[Tensor], Tensor]
"""Everything after the target layer: activations `[1, K, h, w]` to logits `[1, classes]`."""


def gradient(head: Head, activations: Tensor, target: int) -> Array:
    """∂F_c / ∂A, of the logit, `[1, K, h, w] -> [K, h, w]`."""
    leaf = activations.detach().clone().requires_grad_()
    head(leaf)[0, target].backward(inputs=[leaf])
    return leaf.grad[0].numpy().copy()


def channel_weights(head: Head, activations: Tensor, target: int) -> list[float]:
    """w_k = 1/Z Σ_i Σ_j ∂F_c / ∂A^k_ij (Grad-CAM; Group-CAM Eq. 1)."""
    slopes = gradient(head, activations, target)
    channels, height, width = slopes.shape
    weights = []
    for k in range(channels):
        total = 0.0
        for i in range(height):
            for j in range(width):
                total += slopes[k, i, j]
        weights.append(total / (height * width))
    return weights


def rectified_sum(weights: list[float], maps: Array) -> Array:
    """ReLU(Σ_k w_k A^k), `[K, h, w] -> [h, w]`."""
    channels, height, width = maps.shape
    result = np.zeros((height, width))
    for i in range(height):
        for j in range(width):
            total = 0.0
            for k in range(channels):
                total += weights[k] * maps[k, i, j]
            result[i, j] = max(total, 0.0)
    return result


def grad_cam(head: Head, activations: Tensor, target: int) -> Array:
    """`[1, K, h, w] -> [h, w]`, before upsampling."""
    return rectified_sum(channel_weights(head, activations, target), activations[0].numpy())


def derivatives(head: Head, activations: Tensor, target: int, k: int, i: int, j: int) -> tuple[float, float, float]:
    """First, second and third derivative of Y = exp(S_c) by the one activation A^k_ij, by repeated autograd."""
    step = torch.zeros((), dtype=activations.dtype, requires_grad=True)
    direction = torch.zeros_like(activations)
    direction[0, k, i, j] = 1
    value = torch.exp(head(activations + step * direction)[0, target])
    found = []
    for _ in range(3):
        if value.requires_grad:
            (value,) = torch.autograd.grad(value, step, create_graph=True, materialize_grads=True)
        else:
            value = torch.zeros_like(step)
        found.append(value.item())
    return found[0], found[1], found[2]


def grad_cam_plus_plus_weights(head: Head, activations: Tensor, target: int) -> list[float]:
    """w_k = Σ_ij α^k_ij ReLU(∂Y/∂A^k_ij), α^k_ij = ∂²Y / (2 ∂²Y + Σ_ab A^k_ab ∂³Y), Y = exp(S_c).

    All three derivatives are by A^k_ij. Where Y does not depend on an activation, α is 0/0 and the term is 0.
    """
    maps = activations[0].numpy()
    channels, height, width = maps.shape
    weights = []
    for k in range(channels):
        total_activation = 0.0
        for a in range(height):
            for b in range(width):
                total_activation += maps[k, a, b]
        weight = 0.0
        for i in range(height):
            for j in range(width):
                first, second, third = derivatives(head, activations, target, k, i, j)
                denominator = 2 * second + total_activation * third
                if denominator != 0:
                    weight += second / denominator * max(first, 0.0)
        weights.append(weight)
    return weights


def grad_cam_plus_plus(head: Head, activations: Tensor, target: int) -> Array:
    """`[1, K, h, w] -> [h, w]`, before upsampling."""
    return rectified_sum(grad_cam_plus_plus_weights(head, activations, target), activations[0].numpy())


def layer_cam(head: Head, activations: Tensor, target: int) -> Array:
    """ReLU(Σ_k ReLU(g^k_ij) A^k_ij), `[1, K, h, w] -> [h, w]` (LayerCAM)."""
    slopes, maps = gradient(head, activations, target), activations[0].numpy()
    channels, height, width = maps.shape
    result = np.zeros((height, width))
    for i in range(height):
        for j in range(width):
            total = 0.0
            for k in range(channels):
                total += max(slopes[k, i, j], 0.0) * maps[k, i, j]
            result[i, j] = max(total, 0.0)
    return result


def smooth_grad_cam_plus_plus(head: Head, activations: Tensor, noisy: list[Tensor], target: int) -> Array:
    """α = mean g² / (2 mean g² + ΣA · mean g³), w_k = Σ_ij α ReLU(mean g): g at the activations of the noisy images.

    A negative term ΣA · mean g³ counts as 0.
    """
    slopes, maps = [gradient(head, one, target) for one in noisy], activations[0].numpy()
    channels, height, width = maps.shape
    weights = []
    for k in range(channels):
        total_activation = 0.0
        for a in range(height):
            for b in range(width):
                total_activation += maps[k, a, b]
        weight = 0.0
        for i in range(height):
            for j in range(width):
                first = second = third = 0.0
                for slope in slopes:
                    first += slope[k, i, j] / len(slopes)
                    second += slope[k, i, j] ** 2 / len(slopes)
                    third += slope[k, i, j] ** 3 / len(slopes)
                denominator = 2 * second + max(total_activation * third, 0.0)
                if denominator != 0:
                    weight += second / denominator * max(first, 0.0)
        weights.append(weight)
    return rectified_sum(weights, maps)


def finished(saliency: Array, height: int, width: int) -> Array:
    """What the explainers hand out: upsampled to the image, then in [0, 1]."""
    return min_max(bilinear(saliency, height, width))
