"""What the tests of several files share: a small network, and what must not change in it."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from lightning_saliency.explainers.base import Explainer
from lightning_saliency.scales.scale import Scale


def network() -> nn.Sequential:
    """Two scales, BatchNorm, dropout and in-place ReLUs; 5 classes."""
    return nn.Sequential(
        OrderedDict(
            conv1=nn.Conv2d(3, 6, 3, padding=1),
            bn1=nn.BatchNorm2d(6),
            relu1=nn.ReLU(inplace=True),
            pool=nn.MaxPool2d(2),
            conv2=nn.Conv2d(6, 8, 3, padding=1),
            relu2=nn.ReLU(inplace=True),
            average=nn.AdaptiveAvgPool2d(1),
            flatten=nn.Flatten(),
            dropout=nn.Dropout(0.5),
            linear=nn.Linear(8, 5),
        )
    )


def scale(module: str, read: Any = "output") -> Scale:
    return Scale(module=module, read=read, grid=(8, 8), channels=8, layout="NCHW")


def images(batch: int = 2, size: tuple[int, int] = (16, 16)) -> Tensor:
    return torch.randn(batch, 3, *size)


class Fixed(Explainer):
    """Explains by a function given to it."""

    def __init__(self, model: nn.Module, function: Callable[[Tensor, Tensor], Tensor], **options: Any) -> None:
        super().__init__(model, **options)
        self.function = function

    def _explain(self, images: Tensor, targets: Tensor) -> Tensor:
        return self.function(images, targets)


def snapshot(model: nn.Module) -> dict[str, Any]:
    return {
        "flags": [module.training for module in model.modules()],
        "requires_grad": [parameter.requires_grad for parameter in model.parameters()],
        "gradients": [None if p.grad is None else (id(p.grad), p.grad.clone()) for p in model.parameters()],
        "values": [value.clone() for value in model.state_dict().values()],
        "hooks": [
            [len(hooks) for name, hooks in sorted(vars(module).items()) if name.endswith("_hooks")]
            for module in model.modules()
        ],
        "rng": torch.get_rng_state(),
    }


def assert_same(first: Any, second: Any) -> None:
    if isinstance(first, Tensor):
        assert torch.equal(first, second)
    elif isinstance(first, dict):
        assert first.keys() == second.keys()
        for key in first:
            assert_same(first[key], second[key])
    elif isinstance(first, (list, tuple)):
        assert len(first) == len(second)
        for one, other in zip(first, second, strict=True):
            assert_same(one, other)
    else:
        assert first == second
